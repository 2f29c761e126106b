"""`dora view` in a real browser: a recording at any moment."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, PHONE, WIDE, overlap, wait_for_line, wait_until
from driven import LENGTH, drive
from waiting import TIMEOUT

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]

TALL = {"width": 1280, "height": 1600}  # all previews are on the screen


class Viewing:
    """``dora view`` of some files."""

    def __init__(self, *files: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", "view", "--no-open", *map(str, files)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + self.process.stderr.read()
        self.address = found[0]

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drive(tmp_path_factory.mktemp("drive") / "drive.mcap")


@pytest.fixture(scope="module")
def viewing(recording: Path) -> Iterator[Viewing]:
    opened = Viewing(recording)
    yield opened
    opened.end()


@pytest.fixture
def view() -> Iterator[Callable[..., Viewing]]:
    """``view(file, …)``: files of the test's own."""
    opened: list[Viewing] = []

    def start(*files: Path) -> Viewing:
        opened.append(Viewing(*files))
        return opened[-1]

    yield start
    for one in opened:
        one.end()


def go_to(page: Any, seconds: float) -> None:
    """Click on a moment of the time axis."""
    box = page.locator(".axis").bounding_box()
    length = LENGTH - 1 + 0.92  # the last messages are a little later than the last images
    page.mouse.click(box["x"] + box["width"] * seconds / length, box["y"] + box["height"] / 4)


def wait_for_number(page: Any, topic: str, number: int) -> None:
    page.locator(f".panel[data-topic='{topic}'][data-number='{number}']").wait_for()


def number_of(page: Any, topic: str) -> int:
    return int(page.locator(f".panel[data-topic='{topic}']").get_attribute("data-number"))


def moment_of(page: Any) -> float:
    """Return the moment that is shown, in seconds."""
    return float(page.locator(".axis").get_attribute("aria-valuenow")) / 1000


@pytest.mark.slow
def test_the_ticket_in_the_form_leads_to_the_recording(viewing: Viewing, visit: Any) -> None:
    base, _, ticket = viewing.address.partition("open?ticket=")
    page = visit(base, ready="#token")
    page.get_by_label("Token").fill(ticket)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("body.ready")
    page.locator('header h1 >> text="drive.mcap"').wait_for()


@pytest.mark.slow
def test_a_click_on_the_axis_shows_the_messages_of_that_moment(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    wait_for_number(page, "camera/image", 1)
    go_to(page, 4.05)
    wait_for_number(page, "camera/image", 41)
    wait_for_number(page, "camera/angle", 41)
    go_to(page, 1.05)
    wait_for_number(page, "camera/image", 11)


def test_keys_step_from_message_to_message(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    go_to(page, 2.05)
    wait_for_number(page, "camera/image", 21)
    page.locator(".axis").focus()
    page.keyboard.press("ArrowRight")
    wait_for_number(page, "camera/image", 22)
    page.keyboard.press("ArrowRight")  # boxes, clouds and poses come a little later than images
    wait_for_number(page, "eyes/boxes", 22)
    assert moment_of(page) == pytest.approx(2.12)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    wait_for_number(page, "eyes/boxes", 21)
    page.keyboard.press("End")
    wait_for_number(page, "camera/image", 100)
    page.keyboard.press("Home")
    wait_for_number(page, "camera/image", 1)


def test_steps_go_through_the_messages_of_the_selected_node(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    page.locator(".box", has_text="camera").first.click()
    go_to(page, 3.05)
    wait_for_number(page, "camera/image", 31)
    page.get_by_role("button", name="Next message").click()
    wait_for_number(page, "camera/image", 32)
    assert moment_of(page) == pytest.approx(3.1)


@pytest.mark.slow
def test_it_plays_to_the_end_and_stops(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    wait_for_number(page, "camera/image", 1)
    page.get_by_label("Speed").select_option("10")
    page.locator(".axis").focus()
    page.keyboard.press("Space")
    wait_for_number(page, "camera/image", 100)
    page.get_by_role("button", name="Play", exact=True).wait_for()
    assert moment_of(page) == pytest.approx(9.92)


def test_the_graph_shows_the_state_of_that_moment(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    go_to(page, 3.5)
    page.locator(".box[data-tone=fine]", has_text="eyes").wait_for()
    go_to(page, 7.5)
    page.locator(".box[data-tone=bad]", has_text="eyes").wait_for()
    page.locator(".remark", has_text="10 Hz · −1 Hz").wait_for()
    page.get_by_role("tab", name="Nodes").click()
    assert "17 %" in page.locator(".nodes").inner_text()


def test_marks_say_what_happened_and_lead_to_it(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    assert page.locator(".mark").count() == 2
    page.locator(".axis").focus()
    page.keyboard.press("]")
    wait_until(lambda: moment_of(page) == 5.0, page, "mark")
    assert page.locator(".here").inner_text() == "eyes failed: exited with status 3"
    page.keyboard.press("]")
    wait_until(lambda: moment_of(page) == 8.0, page, "mark")
    assert "look here" in page.locator(".here").inner_text()
    page.keyboard.press("[")
    wait_until(lambda: moment_of(page) == 5.0, page, "mark")


def test_parameters_are_those_of_the_moment(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    page.locator(".box", has_text="camera").first.click()
    page.locator(".parameters dd", has_text="2").wait_for()
    go_to(page, 6)
    page.locator(".parameters dd", has_text="5").wait_for()


def test_parameters_that_are_not_known_are_replaced_by_the_reason(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    page.locator(".box", has_text="camera").first.click()
    page.locator(".parameters dd", has_text="2").wait_for()

    def answer(route: Any) -> None:
        if route.request.post_data_json["type"] == "parameters":
            route.fulfill(status=400, json={"error": "the parameters of `camera` are not known"})
        else:
            route.continue_()

    page.route("**/history/*", answer)
    go_to(page, 6)
    page.locator(
        ".parameters [role=status]", has_text="the parameters of `camera` are not known"
    ).wait_for()
    assert page.locator(".parameters dd").count() == 0
    assert page.get_by_text("This node had none.").count() == 0
    page.unroute("**/history/*")
    go_to(page, 6.5)
    page.locator(".parameters dd", has_text="5").wait_for()
    assert page.locator(".parameters [role=status]").inner_text() == ""


def test_a_node_can_be_debugged_from_that_moment(visit: Any, viewing: Viewing, recording: Path) -> None:
    page = visit(viewing.address)
    page.locator(".box", has_text="eyes").first.click()
    page.locator(".axis").focus()
    page.keyboard.press("]")
    wait_until(lambda: moment_of(page) == 5.0, page, "mark")
    page.locator(f"button[title='Copy: dora debug {recording} eyes --at 5.000s']").wait_for()


def test_a_pixel_has_its_recorded_values(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    go_to(page, 4.05)
    wait_for_number(page, "camera/image", 41)
    box = page.locator(".panel[data-topic='camera/image'] canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(".pixel", has_text="RGB 40 100 200").wait_for()


def test_boxes_are_drawn_on_their_image(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    go_to(page, 4.05)
    wait_for_number(page, "eyes/boxes", 41)
    page.locator(".panel[data-topic='eyes/boxes'] canvas.picture").wait_for()


def test_a_drag_across_a_curve_zooms_the_axis_and_a_click_goes_there(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address, TALL)
    plot = page.locator(".panel[data-topic='camera/angle'] .u-over")
    plot.wait_for()
    box = plot.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=5)
    page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="All", exact=True).wait_for()
    page.mouse.click(box["x"] + box["width"] * 0.5, middle)
    wait_until(lambda: 4 < moment_of(page) < 6, page, "jump")
    page.get_by_role("button", name="All", exact=True).click()
    assert page.get_by_role("button", name="All", exact=True).count() == 0


def test_the_wheel_zooms_the_axis(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address)
    box = page.locator(".axis").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -300)
    page.get_by_role("button", name="All", exact=True).wait_for()
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wait_until(lambda: page.get_by_role("button", name="All", exact=True).count() == 0, page, "whole axis")


def pixels_of(page: Any, selector: str) -> Any:
    return page.evaluate("(selector) => document.querySelector(selector).toDataURL()", selector)


def test_points_are_turned_with_keys(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address, TALL)
    scene = ".panel[data-topic='eyes/cloud'] canvas.scene"
    page.locator(scene).wait_for()
    before = pixels_of(page, scene)
    page.locator(scene).focus()
    page.keyboard.press("ArrowRight")
    assert pixels_of(page, scene) != before
    assert moment_of(page) == pytest.approx(0.02)  # the arrow turned the points, and was no step
    page.keyboard.press("0")
    assert pixels_of(page, scene) == before


def test_a_pose_is_curves_or_a_path_in_space(visit: Any, viewing: Viewing) -> None:
    page = visit(viewing.address, TALL)
    go_to(page, 5)
    panel = page.locator(".panel[data-topic='eyes/pose']")
    panel.locator(".u-over").wait_for()
    panel.get_by_role("button", name="3D").click()
    panel.locator("canvas.scene").wait_for()


@pytest.mark.slow
def test_a_layout_is_saved_to_a_file_and_loaded(visit: Any, viewing: Viewing, tmp_path: Path) -> None:
    page = visit(viewing.address, TALL, accept_downloads=True)
    wait_for_number(page, "camera/image", 1)
    page.get_by_role("button", name="Close eyes/cloud").click()
    page.get_by_role("button", name="Close eyes/pose").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save this layout to a file").click()
    path = tmp_path / "layout.json"
    download.value.save_as(path)
    topics = [panel["topic"] for panel in json.loads(path.read_text())["panels"]]
    assert "camera/image" in topics
    assert "eyes/cloud" not in topics
    page.get_by_role("button", name="Reset").click()
    page.locator(".panel[data-topic='eyes/cloud']").wait_for()
    page.get_by_label("File of a layout").set_input_files(path)
    wait_until(lambda: page.locator(".panel[data-topic='eyes/cloud']").count() == 0, page, "layout")
    path.write_text('{"panels": []}')
    page.get_by_label("File of a layout").set_input_files(path)
    page.locator(".toast", has_text="no layout that this page has saved").wait_for()


@pytest.mark.slow
def test_two_recordings_are_compared(visit: Any, view: Any, recording: Path, tmp_path: Path) -> None:
    other = drive(tmp_path / "replayed.mcap", shift=1.0)
    page = visit(view(recording, other).address, TALL)
    page.locator(".chip", has_text="1 of 5 outputs differ").wait_for()
    assert page.locator(".recordings > section").count() == 2
    go_to(page, 6.05)
    page.locator(
        "section[aria-label='drive.mcap'] .panel[data-topic='camera/angle'][data-number='61']"
    ).wait_for()
    page.locator(
        "section[aria-label='replayed.mcap'] .panel[data-topic='camera/angle'][data-number='61']"
    ).wait_for()
    for name in ("drive.mcap", "replayed.mcap"):
        panel = page.locator(f"section[aria-label='{name}'] .panel[data-topic='camera/angle']")
        assert panel.locator(".differs").inner_text().startswith("≠ [1] is ")
    go_to(page, 2.05)
    page.locator(
        "section[aria-label='drive.mcap'] .panel[data-topic='camera/angle'][data-number='21']"
    ).wait_for()
    assert "50 messages" in page.locator("section[aria-label='drive.mcap'] .differs").inner_text()


@pytest.mark.slow
def test_equal_recordings_say_so(visit: Any, view: Any, recording: Path, tmp_path: Path) -> None:
    page = visit(view(recording, drive(tmp_path / "again.mcap")).address)
    page.locator(".chip", has_text="both are equal").wait_for()


@pytest.mark.slow
def test_a_file_that_was_cut_off_says_so(visit: Any, view: Any, recording: Path, tmp_path: Path) -> None:
    data = recording.read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data[: len(data) // 2])
    page = visit(view(cut).address)
    page.locator(".banner", has_text="The file was cut off").wait_for()
    wait_for_number(page, "camera/image", 1)


@pytest.mark.slow
def test_a_recording_of_another_program_has_no_graph(visit: Any, view: Any, tmp_path: Path) -> None:
    from mcap.writer import Writer

    path = tmp_path / "foreign.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("", "test")
        channel = writer.register_channel("/imu/data", "json", 0)
        for number in range(20):
            writer.add_message(channel, number * 10**8, json.dumps({"x": number}).encode(), number * 10**8)
        writer.finish()
    page = visit(view(path).address)
    page.locator(".panel[data-topic='/imu/data']").wait_for()
    assert page.locator("#graph").count() == 0
    assert "/imu/data" in page.locator(".topics").inner_text()
    page.locator(".axis").focus()
    page.keyboard.press("End")
    page.locator(".panel[data-topic='/imu/data'] .numbers", has_text="19").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size", [WIDE, PHONE, {"width": 1440, "height": 900}], ids=lambda size: str(size["width"])
)
def test_everything_has_room(visit: Any, viewing: Viewing, size: dict[str, int], scheme: str) -> None:
    page = visit(viewing.address, size, color_scheme=scheme)
    wait_for_number(page, "camera/image", 1)
    boxes = [page.locator(part).bounding_box() for part in ("#app > header", "main", ".timeline")]
    for number, box in enumerate(boxes):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        assert box["y"] + box["height"] <= size["height"] + 0.5
        assert not any(overlap(box, other) for other in boxes[number + 1 :])
    controls = page.locator(".controls > *:visible")
    edges = [controls.nth(index).bounding_box() for index in range(controls.count())]
    assert all(edge["x"] + edge["width"] <= size["width"] for edge in edges)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


@pytest.mark.slow
def test_the_log_goes_up_to_the_moment(visit: Any, view: Any, tmp_path: Path) -> None:
    from mcap.writer import Writer

    path = tmp_path / "logged.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("", "test")
        schema = writer.register_schema("foxglove.Log", "jsonschema", b"{}")
        channel = writer.register_channel("/log", "json", schema)
        for number in range(11):
            line = {"level": 4 if number == 5 else 2, "message": f"line {number}", "name": "arm"}
            writer.add_message(channel, number * 10**9, json.dumps(line).encode(), number * 10**9)
        writer.finish()
    page = visit(view(path).address)
    wait_for_line(page, "line 0")
    page.locator(".axis").focus()
    page.keyboard.press("End")
    wait_for_line(page, "line 10")
    page.get_by_label("Level").select_option("error")
    page.locator(".bar [role=status]", has_text="1 found").wait_for()
    page.keyboard.press("Escape")
    page.locator(".axis").focus()
    page.keyboard.press("Home")
    page.get_by_label("Level").select_option("stdout")
    wait_until(lambda: page.locator(".entry").count() == 1, page, "earlier log")


@pytest.mark.slow
def test_it_ends_with_ctrl_c(recording: Path) -> None:
    assert Viewing(recording).end() == 0
