"""The panes of the dashboard: previews as people arrange them, nothing cut off at any width."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, PHONE, Running, overlap, wait_until

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]

PROGRAMS = {
    "camera.py": """
        import numpy as np
        import pyarrow as pa
        from dora import Node
        picture = np.full((120, 160, 3), 90, np.uint8).reshape(-1)
        points = np.random.default_rng(1).random(300, np.float32)
        count = 0
        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                count += 1
                node.send_output("picture", picture, {"width": 160, "height": 120, "encoding": "rgb8"})
                node.send_output("speed", np.array([count / 3, 0.1 + 0.2]))
                node.send_output("cloud", points, {"primitive": "points3d"})
                node.send_output("word", pa.array(["hello"]))
                node.send_output("table", pa.array([{"a_third": count / 3, "list": [0.1 + 0.2]}]))
        """,
    "moving.py": """
        import numpy as np
        from dora import Node
        count = 0
        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                count += 1
                picture = np.full((120, 160, 3), 40, np.uint8)
                picture[40:60, count * 8 % 140 :][:, :20] = 255
                metadata = {"width": 160, "height": 120, "encoding": "rgb8"}
                node.send_output("image", picture.reshape(-1), metadata)
        """,
    "finder.py": """
        import time
        import numpy as np
        import pyarrow as pa
        from dora import Node
        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                time.sleep(0.12)  # in this time the square moves by more than its width
                left = int(np.nonzero(event["value"].to_numpy().reshape(120, 160, 3)[50, :, 0] > 200)[0][0])
                box = {"x": float(left), "y": 40.0, "width": 20.0, "height": 20.0}
                node.send_output("found", pa.array([box]), event["metadata"])
        """,
    "a_node_with_a_long_name.py": """
        from dora import Node
        for event in Node():
            pass
        """,
}
FLOW = """
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/millis/50}
    outputs: [word, table, speed, picture, cloud, never]
  - id: a_node_with_a_long_name_that_goes_on
    path: a_node_with_a_long_name.py
    inputs: {speed_of_the_camera: camera/speed, picture: camera/picture}
    parameters: {gain: 2}
"""
FINDS = """
nodes:
  - {id: moving, path: moving.py, inputs: {tick: dora/timer/millis/50}, outputs: [image]}
  - {id: finder, path: finder.py, inputs: {image: {source: moving/image, queue_size: 3}}, outputs: [found]}
"""
TOPICS = ["camera/picture", "camera/cloud", "camera/speed", "camera/table", "camera/word"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("layout"), PROGRAMS, FLOW)
    yield running
    running.end()


def topics(page: Any) -> list[str]:
    found: list[str] = page.locator(".panel").evaluate_all("all => all.map((panel) => panel.dataset.topic)")
    return found


def wait_for_topics(page: Any, wanted: list[str]) -> None:
    wait_until(lambda: topics(page) == wanted, page, f"{wanted}")


@pytest.mark.slow
def test_the_most_informative_outputs_come_first_and_silent_ones_not(running: Running, visit: Any) -> None:
    page = visit(running.address)
    wait_for_topics(page, TOPICS)
    left, right = (page.locator(".panel").nth(index).bounding_box() for index in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"], "side by side"
    assert page.get_by_label("Add a preview").locator("option").all_inner_texts() == [
        "Add …",
        "camera/never",
    ]


@pytest.mark.slow
def test_an_arrangement_is_remembered(running: Running, visit: Any) -> None:
    page = visit(running.address)
    wait_for_topics(page, TOPICS)
    page.get_by_role("button", name="Close camera/word").click()
    page.get_by_role("button", name="Move camera/cloud").press("ArrowLeft")
    arranged = ["camera/cloud", "camera/picture", "camera/speed", "camera/table"]
    wait_for_topics(page, arranged)
    panel = page.locator('.panel[data-topic="camera/speed"]')
    panel.scroll_into_view_if_needed()
    before = panel.bounding_box()
    corner = page.get_by_role("button", name="Resize camera/speed").bounding_box()
    page.mouse.move(corner["x"] + 8, corner["y"] + 8)
    page.mouse.down()
    page.mouse.move(corner["x"] + 8 + before["width"] * 0.6, corner["y"] + 8 + 104, steps=4)
    page.mouse.up()
    wait_until(lambda: panel.bounding_box()["width"] > before["width"] * 1.5, page, "a wider panel")
    after = panel.bounding_box()
    assert after["height"] == before["height"] + 104
    page.reload()
    page.wait_for_selector("body.ready")
    wait_for_topics(page, arranged)
    size = page.locator('.panel[data-topic="camera/speed"]').bounding_box()
    assert (size["width"], size["height"]) == (after["width"], after["height"])
    page.get_by_label("Add a preview").select_option("camera/word")
    wait_for_topics(page, [*arranged, "camera/word"])
    target = page.locator('.panel[data-topic="camera/cloud"]')
    target.scroll_into_view_if_needed()
    target = target.bounding_box()
    grip = page.get_by_role("button", name="Move camera/picture").bounding_box()
    page.mouse.move(grip["x"] + 5, grip["y"] + 5)
    page.mouse.down()
    page.mouse.move(target["x"] + 40, target["y"] + 40, steps=4)
    page.mouse.up()
    wait_for_topics(page, ["camera/picture", "camera/cloud", *arranged[2:], "camera/word"])
    page.get_by_role("button", name="Reset").click()
    wait_for_topics(page, TOPICS)


@pytest.mark.slow
def test_a_border_is_moved_and_stays(running: Running, visit: Any) -> None:
    page = visit(running.address)
    border = page.get_by_role("separator", name="Width of the details")
    before = border.bounding_box()["x"]
    border.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_until(lambda: border.bounding_box()["x"] > before + 80, page, "wider details")
    moved = border.bounding_box()["x"]
    page.reload()
    page.wait_for_selector("body.ready")
    assert abs(page.get_by_role("separator", name="Width of the details").bounding_box()["x"] - moved) < 1


def test_numbers_are_rounded(running: Running, visit: Any) -> None:
    page = visit(running.address)
    table = page.locator('[data-topic="camera/table"]')
    table.locator("td").nth(1).wait_for()
    assert table.locator("td").nth(1).inner_text() == "[0.3]"
    assert len(table.locator("td").nth(0).inner_text()) < 9
    assert page.locator('[data-topic="camera/speed"] .numbers').inner_text().split()[1] == "0.3"


# Whatever has text and is cut off without a way to scroll to it, or lies outside the window.
CLIPPED = """() => {
    const found = [];
    const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflow);
    for (const element of document.querySelectorAll("#app *:not(svg *):not(select *)")) {
        if (!element.checkVisibility({visibilityProperty: true})) continue;
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own && element.tagName !== "BUTTON") continue;
        const box = element.getBoundingClientRect();
        const style = getComputedStyle(element);
        const hides = style.overflowX === "hidden" && style.textOverflow !== "ellipsis";
        const cut = hides && element.scrollWidth > element.clientWidth + 1;
        let scroller = element.parentElement;
        while (scroller && !scrolls(scroller)) scroller = scroller.parentElement;
        const limit = scroller ? scroller.getBoundingClientRect() : {left: 0, right: innerWidth};
        const scrollable = scroller && scroller.scrollWidth > scroller.clientWidth;
        if (cut || scrollable || box.left < limit.left - 1 || box.right > limit.right + 1)
            found.push(`${element.tagName}.${element.className} ${element.textContent.slice(0, 40)}`);
    }
    const wide = [...document.querySelectorAll("#app *:not(svg *)")].filter((element) => {
        if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
        let parent = element.parentElement;
        const open = (element) => getComputedStyle(element).overflowX === "visible";
        while (parent && open(parent)) parent = parent.parentElement;
        return parent === null || parent === document.body;
    });
    found.push(...wide.map((element) => `too wide: ${element.tagName}.${element.className}`));
    return found;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 1024, PHONE["width"]])
def test_nothing_is_cut_off(running: Running, visit: Any, width: int) -> None:
    narrow = width == PHONE["width"]
    page = visit(running.address, {"width": width, "height": 844}, has_touch=narrow, is_mobile=narrow)
    wait_for_topics(page, TOPICS)
    page.wait_for_selector('.box[data-id="camera"][data-tone="fine"]', state="attached")
    if narrow:
        page.get_by_role("tab", name="Graph").click()
    page.click('.box[data-id="a_node_with_a_long_name_that_goes_on"]')
    page.get_by_role("tab", name="Details").click()
    page.get_by_label("gain", exact=True).wait_for()
    for tab in ("Data", "Graph", "Rates", "Details", "Nodes", "Logs") if narrow else ("Details", "Nodes"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(f"[role=tab][aria-selected=true] >> text={tab}")
        assert page.evaluate(CLIPPED) == [], tab
    # Each box of the graph is in its pane, and not under the buttons.
    if narrow:
        page.get_by_role("tab", name="Graph").click()
    pane, tools = page.locator("#graph").bounding_box(), page.locator(".tools").bounding_box()
    for box in page.locator(".box").all():
        area = box.bounding_box()
        assert pane["x"] <= area["x"] and area["x"] + area["width"] <= pane["x"] + pane["width"]
        assert pane["y"] <= area["y"] and area["y"] + area["height"] <= pane["y"] + pane["height"]
        assert not overlap(area, tools)


SQUARE = """() => {
    const canvas = document.querySelector('[data-topic="finder/found"] canvas.picture');
    if (canvas?.dataset.own !== "true") return null;
    const scale = canvas.width / 160; // a small picture is drawn larger
    const row = canvas.getContext("2d").getImageData(0, 50 * scale, canvas.width, 1).data;
    const white = [], green = [];
    for (let x = 0; x < canvas.width; x++) {
        const [red, g, blue] = row.slice(4 * x, 4 * x + 3);
        if (red > 150 && blue > 150) white.push(x / scale);
        else if (g > 120 && red < 110) green.push(x / scale);
    }
    return [Math.min(...green), Math.max(...green), Math.min(...white), Math.max(...white)];
}"""


@pytest.mark.slow
def test_boxes_are_drawn_on_the_frame_they_were_found_in(tmp_path: Path, visit: Any) -> None:
    running = Running(tmp_path, PROGRAMS, FINDS)
    try:
        page = visit(running.address)
        seen: set[int] = set()

        def matched() -> bool:
            found = page.evaluate(SQUARE)
            if found is not None:
                left, right, first, last = found
                assert abs(left - first) <= 3 and abs(right - last) <= 3, found
                seen.add(first)
            return len(seen) >= 6

        wait_until(matched, page, "six places of the square")
    finally:
        running.end()


@pytest.mark.slow
def test_the_last_minute_of_what_is_selected(running: Running, visit: Any) -> None:
    page = visit(running.address)
    rates, cpu = page.locator('[data-chart="Rates"]'), page.locator('[data-chart="CPU"]')
    rates.locator(".uplot").wait_for()
    assert rates.locator("li span").all_inner_texts() == [
        "a_node_with_a_long_name_that_goes_on/speed_of_the_camera",
        "a_node_with_a_long_name_that_goes_on/picture",
    ]
    page.wait_for_function(
        """() => parseFloat(document.querySelector('[data-chart="Rates"] li b').textContent) > 10"""
    )
    assert "none" in page.locator('[data-chart="Drops"]').inner_text()
    page.click('.box[data-id="camera"]')
    wait_until(lambda: cpu.locator("li span").all_inner_texts() == ["camera"], page, "one node")
    page.locator('[data-chart="Latencies"]').get_by_role("button", name="Measure").click()
    page.wait_for_selector('[data-chart="Latencies"] li b >> text=/[0-9.]+ ms/')


def seconds_of(page: Any) -> int:
    """Return how long the curves of a page are."""
    page.locator('[data-chart="CPU"] .uplot').wait_for()
    return int(page.locator('[data-chart="CPU"]').get_attribute("aria-label").split()[-2])


@pytest.mark.slow
def test_the_last_minute_is_there_at_once_after_a_reload_and_in_a_second_browser(
    running: Running, visit: Any
) -> None:
    page = visit(running.address)
    wait_until(lambda: seconds_of(page) >= 6, page, "six seconds")
    running.process.send_signal(signal.SIGSTOP)  # no new figures come: what is shown is from before
    try:
        before = seconds_of(page)
        page.reload()
        wait_until(lambda: seconds_of(page) >= before, page, "the seconds before the reload")
        second = visit(running.address)
        wait_until(lambda: seconds_of(second) >= before, second, "the seconds before the second browser")
    finally:
        running.process.send_signal(signal.SIGCONT)


def test_pointing_at_one_curve_shows_the_figures_of_that_time_in_all(running: Running, visit: Any) -> None:
    page = visit(running.address)
    plot = page.locator('[data-chart="Rates"] .u-over')
    wait_until(lambda: seconds_of(page) >= 8, page, "eight seconds")
    area = plot.bounding_box()
    page.mouse.move(area["x"] + area["width"] * (1 - 4 / 60), area["y"] + 20)
    page.locator('[data-chart="Rates"] figcaption', has_text=re.compile(r"−[2-7] s")).wait_for()
    page.locator('[data-chart="CPU"] figcaption', has_text=re.compile(r"−[2-7] s")).wait_for()
    page.mouse.move(5, 5)
    page.locator('[data-chart="CPU"] figcaption', has_text=re.compile(r"^CPU\s*$")).wait_for()


@pytest.mark.slow
def test_a_preview_fills_the_pane_and_pauses(running: Running, visit: Any) -> None:
    page = visit(running.address)
    wait_for_topics(page, TOPICS)
    page.get_by_role("button", name="Enlarge camera/speed").click()
    wait_for_topics(page, ["camera/speed"])
    pane, panel = (page.locator(place).bounding_box() for place in ("#data", ".panel"))
    assert panel["width"] > 0.9 * pane["width"] and panel["height"] > 0.75 * pane["height"]
    page.get_by_role("button", name="Shrink camera/speed").click()
    wait_for_topics(page, TOPICS)

    def number() -> int:
        return int(page.locator('[data-topic="camera/speed"]').get_attribute("data-number"))

    page.get_by_role("button", name="Pause the previews").click()
    last = number()

    def resting() -> bool:
        nonlocal last
        before, last = last, number()
        page.wait_for_timeout(500)
        return before == last == number()

    wait_until(resting, page, "pause")
    page.get_by_role("button", name="Go on").click()
    wait_until(lambda: number() > last, page, "later number")
