"""Every kind of preview as a browser draws it: what a person sees is what the node sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, WIDE, Opened, Running, wait_until

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]

PROGRAMS = {
    "show.py": """
        import numpy as np
        import pyarrow as pa
        from dora import Node
        # A square of points, all at one height: from above, it is as wide as it is deep.
        side = np.linspace(-1, 1, 40)
        cloud = np.stack([*np.meshgrid(side, side), np.zeros((40, 40))], axis=-1).astype(np.float32)
        wave = np.sin(np.arange(5000) / 5000 * 4 * np.pi)
        wave[1234] = 9.0  # one value that no thinning may lose
        # Explicit, since older pyarrow sorts the fields of what it infers.
        PERSON = pa.struct({"name": pa.string(), "age": pa.int64(), "likes": pa.list_(pa.string())})
        LINEAR = pa.struct({"x": pa.float64(), "y": pa.float64()})
        TWIST = pa.struct({"linear": LINEAR, "angular": pa.struct({"z": pa.float64()})})
        people = [{"name": "<b>Ada</b>", "age": 36, "likes": ["tea", "maps"]}] * 60
        picture = np.full((120, 160, 3), 40, np.uint8)
        depth = np.tile(np.linspace(0.5, 4.0, 64, dtype=np.float32), 48)
        masks = np.zeros((48, 64), np.uint8)
        masks[:, 32:] = 1
        boxes = np.array([[40.0, 30.0, 120.0, 90.0]], np.float32)
        count = 0
        node = Node()
        for event in node:
            if event["type"] != "INPUT":
                continue
            count += 1
            send = node.send_output
            send("cloud", cloud.reshape(-1), {"primitive": "points3d"})
            send("people", pa.array(people, PERSON))
            send("text", pa.array([f"line {count}", "<i>not slanted</i>"]))
            send("numbers", np.array([float(count), -2.5, float("nan")]))
            send("wave", wave)
            send("image", picture.reshape(-1), {"width": 160, "height": 120, "encoding": "rgb8"})
            send("depth", depth, {"primitive": "depth", "width": 64, "height": 48})
            send("masks", masks.reshape(-1), {"primitive": "masks", "width": 64, "height": 48})
            send("bytes", pa.array([None, 1, 2]))
            send("twist", pa.array([{"linear": {"x": 0.5, "y": 0.0}, "angular": {"z": -1.0}}], TWIST))
        """,
    "find.py": """
        import numpy as np
        from dora import Node
        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                corners = np.array([40.0, 30.0, 120.0, 90.0], np.float32)
                node.send_output("bbox", corners, {"primitive": "boxes2d", "format": "xyxy"})
        """,
}
FLOW = """
nodes:
  - id: show
    path: show.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [cloud, people, text, numbers, wave, image, depth, masks, bytes, twist]
    output_types: {twist: std/control/v1/Twist}
  - id: find
    path: find.py
    inputs: {image: show/image}
    outputs: [bbox]
"""

OUTPUTS = 11  # of both nodes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("show"), PROGRAMS, FLOW)
    yield running
    running.end()


@pytest.fixture(scope="module")
def page(running: Running, browser: Any) -> Iterator[Any]:
    """The page with the outputs of `show`, the same one for all tests.

    It has seen a message of each, because the first one of an output moves the others on the screen.
    """
    opened = Opened(browser, WIDE)
    opened.page.goto(running.address)
    opened.page.click('.box[data-id="show"]')
    seen = opened.page.locator('[data-topic]:not([data-number=""])')
    wait_until(lambda: seen.count() == OUTPUTS, opened.page, "message of each output")
    yield opened.page
    opened.context.close()
    assert opened.errors == []


def card(page: Any, topic: str) -> Any:
    """Wait for the preview of an output; return its part of the page, which is live on the screen only."""
    found = page.locator(f'[data-topic="{topic}"]')
    found.scroll_into_view_if_needed()
    found.locator("details.facts").wait_for()
    return found


def extent(page: Any, topic: str) -> tuple[int, int, int]:
    """Return how wide and how high the lowest points on a canvas are, and of how many pixels."""
    selector = json.dumps(f'[data-topic="{topic}"] canvas')
    wide, high, count = page.evaluate(f"""() => {{
        const canvas = document.querySelector({selector});
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const columns = new Set(), rows = new Set();
        let count = 0;
        for (let at = 0; at < data.length; at += 4) {{
            if (data[at] !== 68 || data[at + 1] !== 104) continue; // the colour of the lowest points
            count++;
            columns.add(at / 4 % canvas.width);
            rows.add(Math.floor(at / 4 / canvas.width));
        }}
        const span = (found) => found.size ? Math.max(...found) - Math.min(...found) : 0;
        return [span(columns), span(rows), count];
    }}""")
    return wide, high, count


def colour(page: Any, topic: str, x: float, y: float) -> tuple[int, int, int]:
    """Return the colour of a picture at a place between 0 and 1 from the left and from the top."""
    selector = json.dumps(f'[data-topic="{topic}"] canvas')
    red, green, blue, _ = page.evaluate(f"""() => {{
        const canvas = document.querySelector({selector});
        const at = [{x} * canvas.width, {y} * canvas.height].map(Math.floor);
        return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
    }}""")
    return red, green, blue


@pytest.mark.slow
def test_points_are_a_cloud_that_can_be_turned(page: Any) -> None:
    cloud = card(page, "show/cloud")
    canvas = cloud.locator("canvas.scene")
    wait_until(lambda: extent(page, "show/cloud")[2] > 1000, page, "the points")
    before = extent(page, "show/cloud")
    assert before[1] < before[0], "a level square that is seen from the side is wider than high"
    canvas.focus()
    for _ in range(11):
        page.keyboard.press("ArrowDown")
    after = extent(page, "show/cloud")
    assert after[1] > 1.4 * before[1], "from further above it is higher"
    # The next message does not turn it back.
    number = cloud.get_attribute("data-number")
    wait_until(lambda: cloud.get_attribute("data-number") != number, page, "the next message")
    assert extent(page, "show/cloud") == after
    canvas.hover()
    page.mouse.wheel(0, 400)
    wait_until(lambda: extent(page, "show/cloud")[0] < after[0], page, "a smaller cloud")


@pytest.mark.slow
def test_curves_zoom_with_the_wheel_and_pan_with_keys(page: Any) -> None:
    wave = card(page, "show/wave")
    area = wave.locator(".u-over").bounding_box()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.wheel(0, -300)
    whole = wave.get_by_role("button", name="All", exact=True)
    whole.wait_for()
    wave.locator(".plot").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("0")
    wait_until(lambda: whole.count() == 0, page, "the whole curve")
    page.keyboard.press("+")
    whole.click()
    assert whole.count() == 0


def test_structs_are_a_table(page: Any) -> None:
    people = card(page, "show/people")
    assert people.locator("th").all_inner_texts() == ["name", "age", "likes"]
    assert people.locator("tbody tr").count() == 50
    assert people.locator("tbody tr").first.locator("td").all_inner_texts() == [
        "<b>Ada</b>",
        "36",
        '["tea","maps"]',
    ]
    assert "10 more" in people.inner_text()


def test_text_messages_are_shown_verbatim_and_live(page: Any) -> None:
    text = card(page, "show/text").locator("pre")
    first = text.inner_text()
    assert first.endswith("\n<i>not slanted</i>") and first.startswith("line ")
    wait_until(lambda: text.inner_text() != first, page, "the next text")


def names(preview: Any) -> list[str]:
    """Return the names of the numbers of a preview, which have the colours of their curves."""
    found: list[str] = preview.locator(".numbers > span:has(i)").evaluate_all(
        "all => all.map((one) => one.title)"
    )
    return found


def test_few_numbers_are_followed(page: Any) -> None:
    numbers = card(page, "show/numbers")
    numbers.locator(".uplot").wait_for()
    count, constant, undefined = numbers.locator(".numbers").inner_text().split()
    assert float(count) >= 1 and constant == "-2.5" and undefined == "NaN"
    assert names(numbers) == ["[0]", "[1]", "[2]"]


def test_fields_of_a_declared_type_are_followed_by_their_names(page: Any) -> None:
    twist = card(page, "show/twist")
    twist.locator(".uplot").wait_for()
    assert names(twist) == ["linear.x", "linear.y", "angular.z"]
    words = twist.locator(".numbers").inner_text().split()
    assert words == ["linear.x", "0.5", "linear.y", "0", "angular.z", "-1"]


def test_many_numbers_are_a_curve_whose_peaks_are_kept(page: Any) -> None:
    wave = card(page, "show/wave")
    wave.locator(".uplot").wait_for()
    assert "greatest 9" in wave.inner_text() and "least -1," in wave.inner_text()
    assert "5,000 values" in wave.locator("summary").inner_text()


def test_depths_and_masks_are_pictures(page: Any) -> None:
    for topic in ("show/depth", "show/masks"):
        card(page, topic).locator("canvas.picture").wait_for()
    wait_until(
        lambda: colour(page, "show/depth", 0.05, 0.5) != colour(page, "show/depth", 0.95, 0.5),
        page,
        "near and far in different colours",
    )
    wait_until(
        lambda: colour(page, "show/masks", 0.25, 0.5) != colour(page, "show/masks", 0.75, 0.5),
        page,
        "another colour for what the mask covers",
    )


def test_missing_values_are_marked(page: Any) -> None:
    assert card(page, "show/bytes").locator("pre").inner_text().split() == ["null", "1", "2"]


@pytest.mark.slow
def test_boxes_are_drawn_over_the_picture_in_its_own_size(running: Running, visit: Any) -> None:
    page = visit(running.address)
    page.click('.box[data-id="find"]')
    card(page, "find/bbox").locator("canvas.picture").wait_for()

    def green(x: float, y: float) -> bool:
        red, green, _ = colour(page, "find/bbox", x, y)
        return green > 120 and green > red

    # The box from (40, 30) to (120, 90) in a picture of 160 x 120.
    wait_until(lambda: green(40.2 / 160, 0.5) and green(120.2 / 160, 0.5), page, "both sides")
    assert green(0.5, 30.2 / 120) and green(0.5, 90.2 / 120)
    assert not green(0.5, 0.5) and not green(0.1, 0.5) and not green(0.9, 0.9)
