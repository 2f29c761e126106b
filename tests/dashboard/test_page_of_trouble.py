"""What the page says about failures and losses, and that it keeps to its window."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, PHONE, Running, overlap, wait_until

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]

SLOW = """
    import time
    from dora import Node
    for event in Node():
        time.sleep(0.1)
    """
PROGRAMS = {
    "camera.py": """
        import numpy as np
        import pyarrow as pa
        from dora import Node
        node = Node()
        count = 0
        picture = np.full((120, 160, 3), 90, np.uint8).reshape(-1)
        for event in node:
            if event["type"] == "INPUT":
                count += 1
                node.send_output("image", picture, {"width": 160, "height": 120, "encoding": "rgb8"})
                area = {"y": 40.0, "width": 30.0, "height": 60.0}
                found = [(10.0, "cat"), (60.0, "dog"), (110.0, "cat")]
                boxes = [{"x": left, "label": name, **area} for left, name in found]
                node.send_output("boxes", pa.array(boxes), event["metadata"])
                node.send_output("number", np.array([count, -count]))
        """,
    "asks.py": SLOW,
    "latest.py": SLOW,
    "loses.py": SLOW,
    "fails.py": """
        from dora import Node
        for event in Node():
            if event["type"] == "INPUT":
                raise ValueError("no power")
        """,
}
FLOW = """
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/hz/30}
    outputs: [image, boxes, number]
  - {id: asks, path: asks.py, inputs: {number: {source: camera/number, queue_size: 1}}}
  - {id: latest, path: latest.py, inputs: {number: {source: camera/number, queue_policy: latest}}}
  - {id: loses, path: loses.py, inputs: {number: camera/number}}
  - {id: fails, path: fails.py, inputs: {tick: dora/timer/secs/1}}
"""
RED = {"light": "rgb(200, 30, 30)", "dark": "rgb(255, 128, 128)"}
SIZES = [(1440, 900), (1024, 768), (PHONE["width"], PHONE["height"])]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("trouble"), PROGRAMS, FLOW)
    yield running
    running.end()


def colour_of(element: Any) -> str:
    found: str = element.evaluate("element => getComputedStyle(element).color")
    return found


def edge(target: str) -> str:
    """Return a selector of the line to a node, by the order of the dataflow."""
    return f".edge.link >> nth={['asks', 'latest', 'loses'].index(target)}"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_header_says_which_node_failed_and_why(running: Running, visit: Any, scheme: str) -> None:
    page = visit(running.address, color_scheme=scheme)
    page.wait_for_selector('header .chip >> text="Running · 1 failed"')
    reason = page.locator("header .reason")
    assert reason.inner_text() == "fails exited with status 1: ValueError: no power (fails.py:5)"
    assert colour_of(reason) == colour_of(page.locator("header .chip")) == RED[scheme]
    reason.click()
    page.wait_for_selector(".entry .message >> text=ValueError: no power")
    assert page.get_by_label("Node", exact=True).input_value() == "fails"


@pytest.mark.slow
def test_the_header_says_where_the_dataflow_is_and_for_how_long(running: Running, visit: Any) -> None:
    page = visit(running.address)
    facts = page.locator(".facts-of-run span")
    folder, machine, time = (text.strip("\u200e") for text in facts.all_inner_texts())
    assert Path(folder).name.startswith("trouble") and Path(folder).is_dir()
    assert machine == socket.gethostname()
    assert re.fullmatch(r"up \d+ (s|min)", time)
    wait_until(lambda: facts.last.inner_text() != time or "min" in time, page, "the next second")


@pytest.mark.slow
def test_a_dataflow_with_the_common_name_is_called_by_its_folder(tmp_path: Path, visit: Any) -> None:
    folder = tmp_path / "kitchen"
    folder.mkdir()
    running = Running(folder, PROGRAMS, FLOW, file="dataflow.yml")
    try:
        page = visit(running.address)
        page.wait_for_selector('header h1 >> text="kitchen"')
        assert page.title() == "kitchen · dora"
    finally:
        running.end()


def test_red_is_for_losses_that_nobody_asked_for(running: Running, visit: Any) -> None:
    page = visit(running.address)
    # One look at all of it: from one moment to the next, a busy machine may let a receiver take nothing.
    page.wait_for_function(
        """() => {
            const labels = [...document.querySelectorAll(".remark.drop_oldest, .remark.latest")];
            const losing = labels.filter((label) => /−[0-9.]+ Hz/.test(label.textContent));
            const tones = [...document.querySelectorAll(".edge.link")].map((edge) => edge.dataset.tone);
            return losing.length === 3 && tones.slice(0, 3).join() === "fine,fine,bad";
        }"""
    )
    assert page.locator(".details .item b", has_text="loses").count() == 1
    assert page.locator(".details .item b", has_text="asks").count() == 0
    page.get_by_role("tab", name="Nodes").click()

    def cell(node: str) -> Any:
        row = page.locator(".nodes tr").filter(has=page.locator(f'th >> text="{node}"'))
        return row.locator("td").nth(4)

    wait_until(lambda: cell("asks").inner_text() != "0", page, "a loss that was asked for")
    assert colour_of(cell("loses")) == RED["light"]
    assert colour_of(cell("asks")) == colour_of(cell("latest")) == colour_of(cell("camera"))


@pytest.mark.slow
def test_the_end_names_no_loss_that_was_asked_for(tmp_path: Path, visit: Any) -> None:
    without = "\n".join(line for line in FLOW.splitlines() if "loses" not in line)
    running = Running(tmp_path, PROGRAMS, without)
    try:
        page = visit(running.address)
        page.wait_for_function(
            """() => [...document.querySelectorAll(".remark text")].filter(
                (label) => /−[0-9.]+ Hz/.test(label.textContent)).length === 2"""
        )
        page.locator("nav").get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Really stop?").click()
        page.wait_for_selector(".outcome >> text=/no message lost; [0-9,]+ dropped, as the inputs ask/")
    finally:
        running.end()


def test_rates_are_spelled_in_one_way(running: Running, visit: Any) -> None:
    page = visit(running.address)
    page.wait_for_selector(".remark text >> text=/[0-9.]+ Hz · −[0-9.]+ Hz/")
    page.wait_for_selector('[data-chart="Drops"] li b >> text=/[0-9.]+ Hz/')
    page.get_by_role("tab", name="Details").click()
    page.locator(edge("loses")).dispatch_event("click")
    page.wait_for_selector(".details >> text=/dropped since the start, [0-9.]+ Hz now/")
    words = page.locator("body").inner_text() + "".join(page.locator(".remark").all_text_contents())
    assert re.findall(r"[0-9] ?/ ?s\b|a second|per second|msg/s", words) == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_is_as_high_as_its_window_and_does_not_move(
    running: Running, visit: Any, width: int, height: int
) -> None:
    page = visit(running.address, {"width": width, "height": height})
    page.locator(".panel").first.wait_for(state="attached")
    whole = "[document.documentElement.scrollHeight, document.documentElement.scrollWidth]"
    assert page.evaluate(whole) == [height, width]
    top = page.locator("#app > header").bounding_box()
    for separator in page.get_by_role("separator").all():
        if separator.is_visible():
            separator.focus()
            separator.scroll_into_view_if_needed()
    for outer in ("document.getElementById('app')", "document.scrollingElement", "document.body"):
        assert page.evaluate(f"({outer}.scrollTop = 50, {outer}.scrollTop)") == 0
    assert page.locator("#app > header").bounding_box() == top


MANY_LINKS = "\n".join(
    [
        *FLOW.splitlines()[:6],
        *(
            f"  - {{id: s{number}, path: latest.py, inputs: {{number: camera/number}}}}"
            for number in range(6)
        ),
    ]
)


@pytest.fixture(scope="module")
def many_links(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("links"), PROGRAMS, MANY_LINKS)
    yield running
    running.end()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_most_of_each_chart_is_curves(many_links: Running, visit: Any, width: int, height: int) -> None:
    page = visit(many_links.address, {"width": width, "height": height})
    if width == PHONE["width"]:
        page.get_by_role("tab", name="Rates").click()
    for name in ("Rates", "Drops", "CPU"):
        chart = page.locator(f'[data-chart="{name}"]')
        chart.locator(".uplot").wait_for()
        wait_until(lambda chart=chart: chart.locator("li").count() >= 2, page, f"curves of {name}")
        whole, legend = chart.bounding_box(), chart.locator("ul").bounding_box()
        plot = chart.locator(".plot").bounding_box()
        assert legend["height"] < 0.4 * whole["height"], name
        assert plot["height"] > 0.48 * whole["height"], name
        assert not overlap(plot, legend), name
    numbers = page.locator('.panel[data-topic="camera/number"]')
    if width == PHONE["width"]:
        page.get_by_role("tab", name="Data").click()
    numbers.scroll_into_view_if_needed()
    numbers.locator(".uplot").wait_for()
    assert numbers.locator(".uplot").bounding_box()["height"] > 0.4 * numbers.bounding_box()["height"]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_toast_covers_nothing_and_fades(running: Running, visit: Any, width: int, height: int) -> None:
    page = visit(running.address, {"width": width, "height": height})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Record", exact=True).click()
    recording = page.get_by_role("button", name="Stop recording")
    page.wait_for_function("""() => /[1-9]/.test(document.querySelector(".recording")?.textContent)""")
    path = recording.get_attribute("title")
    recording.click()
    toast = page.locator(".toast")
    toast.hover()  # it stays
    area = toast.bounding_box()
    assert area["x"] >= 0 and area["x"] + area["width"] <= width
    header = page.locator("#app > header").bounding_box()
    assert area["y"] + area["height"] <= header["y"] + header["height"]
    others = page.locator("nav button, .chip, h1, .reason, .facts-of-run, .tools, .chart, .panel, .tab")
    for other in others.all():
        if other.is_visible():
            covered = other.bounding_box()
            assert not overlap(area, covered), other.evaluate("element => element.outerHTML.slice(0, 80)")
    toast.get_by_role("button", name="Copy").click()
    toast.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == path
    toast.get_by_role("button", name="Replay").click()
    toast.get_by_role("button", name="Copied").wait_for()
    assert toast.locator("code").inner_text() == f"dora replay {path}"
    assert page.evaluate("navigator.clipboard.readText()") == f"dora replay {path}"
    # It fades by itself when neither the pointer nor the focus is on it.
    state = "getComputedStyle(document.querySelector('.toast')).animationPlayState"
    assert page.evaluate(state) == "paused"
    page.mouse.move(5, height - 5)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_function(f"() => !document.querySelector('.toast') || {state} === 'running'")
    page.evaluate("document.querySelector('.toast').getAnimations().forEach((one) => one.finish())")
    toast.wait_for(state="detached")
    page.wait_for_selector(".facts-of-run, .reason")


TITLES = "all => all.map((title) => title.getBoundingClientRect().height)"


CHAIN = """
nodes:
  - {id: camera, path: dynamic, outputs: [image]}
  - {id: detector, path: dynamic, inputs: {image: camera/image}, outputs: [boxes]}
  - {id: plan, path: dynamic, inputs: {boxes: detector/boxes, image: camera/image}, outputs: [speed]}
  - {id: arm, path: dynamic, inputs: {speed: plan/speed}}
  - {id: clock, path: asks.py, inputs: {tick: dora/timer/secs/1}}
"""


@pytest.mark.slow
def test_the_graph_is_as_large_as_on_its_own_page_and_goes_from_left_to_right(
    tmp_path: Path, visit: Any
) -> None:
    running = Running(tmp_path, PROGRAMS, CHAIN)
    try:
        page = visit(running.address, {"width": 1440, "height": 900})
        page.wait_for_selector('.box[data-id="camera"] .program >> text="Not connected"')
        chain = ("camera", "detector", "plan", "arm")
        boxes = [page.locator(f'.box[data-id="{name}"]').bounding_box() for name in chain]
        for before, after in itertools.pairwise(boxes):
            assert before["x"] + before["width"] < after["x"]
        subprocess.run([sys.executable, "-m", "dora", "graph", "robot.yml"], cwd=tmp_path, check=True)
        own = visit((tmp_path / "robot-graph.html").as_uri(), {"width": 1440, "height": 900})

        def sizes(page: Any) -> list[int]:
            found: list[int] = page.locator(".box .title").evaluate_all(TITLES)
            return found

        wait_until(lambda: min(sizes(page)) >= min(sizes(own)) - 1, page, "letters as large")
    finally:
        running.end()


COLOURS = """() => {
    const canvas = document.querySelector('[data-topic="camera/boxes"] canvas.picture');
    if (!canvas) return [];
    const context = canvas.getContext("2d");
    const scale = canvas.width / 160; // a small picture is drawn larger
    const at = (x, y) => [...context.getImageData(scale * x, scale * y, 1, 1).data].slice(0, 3).join();
    return [at(10, 70), at(60, 70), at(110, 70), at(100, 20)];
}"""


@pytest.mark.slow
def test_each_class_of_boxes_has_a_colour_of_its_own(running: Running, visit: Any) -> None:
    page = visit(running.address)
    page.locator('[data-topic="camera/boxes"] select').wait_for()
    page.locator('[data-topic="camera/boxes"] select').select_option("camera/image")

    def drawn() -> list[str]:
        found: list[str] = page.evaluate(COLOURS)
        return found

    wait_until(lambda: len(set(drawn())) > 1, page, "boxes")
    cat, dog, other_cat, picture = drawn()
    assert cat == other_cat and len({cat, dog, picture}) == 3
