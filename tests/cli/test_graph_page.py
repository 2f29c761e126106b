"""The page of ``dora graph`` in a real browser: where things lie, and what happens at a click."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from dora.cli.main import run_command_line

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)"),
]

WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

ROBOT = """
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/hz/30, goal: ui/goal}
    outputs: [image, depth]
  - id: eyes
    operators:
      - id: resize
        python: resize.py
        inputs: {image: {source: camera/image, queue_size: 1}}
        outputs: [image]
      - id: detect
        python: detect.py
        inputs: {image: eyes/resize/image, depth: camera/depth, tick: dora/timer/millis/100}
        outputs: [bbox]
  - id: plan
    path: plan.py
    inputs: {bbox: eyes/detect/bbox, feedback: motor/feedback}
    outputs: [command]
  - id: motor
    path: motor.py
    inputs: {command: {source: plan/command, queue_policy: backpressure, queue_size: 100}}
    outputs: [feedback]
  - id: ui
    path: dynamic
    inputs: {image: camera/image, bbox: eyes/detect/bbox, own: ui/goal, warnings: dora/logs/warn}
    outputs: [goal]
"""


def large() -> str:
    """Return a dataflow of fifty nodes, each of which listens to some that came before it."""
    lines = ["nodes:"]
    for number in range(50):
        lines += [f"  - id: node{number}", f"    path: node{number}.py", "    outputs: [first, second]"]
        sources = {number // 2, max(0, number - 6)} if number else set()
        inputs = [f"in{source}: node{source}/{'first' if source % 3 else 'second'}" for source in sources]
        if number % 5 == 0:
            inputs.append("tick: dora/timer/millis/20")
        lines.append(f"    inputs: {{{', '.join(inputs)}}}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def show(browser, tmp_path_factory):
    """Write a dataflow, draw it, and return the page as soon as it is laid out."""

    def show_dataflow(text: str, size: dict[str, int] = WIDE, **options: Any) -> Any:
        folder = tmp_path_factory.mktemp("graph")
        (folder / "flow.yml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert run_command_line(["graph", "flow.yml"]) == 0
        page = browser.new_page(viewport=size, offline=True, **options)
        page.set_default_timeout(60_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((folder / "flow-graph.html").as_uri())
        page.wait_for_selector("body.ready")
        assert errors == []
        return page

    return show_dataflow


@pytest.fixture(scope="module")
def shared(show):
    return show(ROBOT)


@pytest.fixture
def page(shared):
    """Return the page of a robot as it looks at first."""
    shared.keyboard.press("Escape")
    shared.mouse.move(2, 2)
    return shared


# In the coordinates of the drawing: boxes, corners of edges (a rounded corner counts as its bend),
# texts, labels. One call, because each costs a round trip.
GEOMETRY = """() => {
  const area = (element) => {
    const inside = element.getBBox(), by = element.transform.baseVal.consolidate()?.matrix;
    return [inside.x + (by?.e ?? 0), inside.y + (by?.f ?? 0), inside.width, inside.height];
  };
  const card = (box) => {
    const by = box.transform.baseVal.consolidate().matrix, rect = box.querySelector(".card");
    return [by.e, by.f, rect.width.baseVal.value, rect.height.baseVal.value];
  };
  const all = (selector) => [...document.querySelectorAll(selector)];
  return {
    boxes: all(".box").map((box) => ({
      id: box.dataset.id, area: card(box),
      texts: [...box.querySelectorAll("text")].map(area),
    })),
    labels: all(".remark").map(area),
    edges: all(".edge .line").map((line) => {
      const numbers = line.getAttribute("d").match(/-?[0-9.]+/g).map(Number);
      return numbers.flatMap((x, index) => index % 2 ? [] : [[x, numbers[index + 1]]]);
    }),
  };
}"""


def overlap(a: list[float], b: list[float], slack: float = 0.5) -> bool:
    return (
        a[0] + slack < b[0] + b[2]
        and b[0] + slack < a[0] + a[2]
        and a[1] + slack < b[1] + b[3]
        and b[1] + slack < a[1] + a[3]
    )


def segments(edge: list[list[float]]) -> Iterator[list[float]]:
    for (x1, y1), (x2, y2) in pairwise(edge):
        yield [min(x1, x2), min(y1, y2), abs(x1 - x2), abs(y1 - y2)]


@pytest.mark.parametrize(
    ("text", "size"),
    [(ROBOT, WIDE), (ROBOT, PHONE), (large(), WIDE)],
    ids=["robot", "robot on a phone", "fifty nodes"],
)
def test_nothing_covers_anything_else(show, text: str, size: dict[str, int]) -> None:
    drawn = show(text, size).evaluate(GEOMETRY)
    boxes = drawn["boxes"]
    assert len(boxes) > 6 and all(len(edge) >= 2 for edge in drawn["edges"])
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            assert not overlap(box["area"], other["area"]), (box["id"], other["id"])
        for number, words in enumerate(box["texts"]):
            assert not any(overlap(words, others, 1.5) for others in box["texts"][:number]), box["id"]
            inside = box["area"]
            assert words[2] <= inside[2], box["id"]
        for edge in drawn["edges"]:
            assert not any(overlap(part, box["area"], 1) for part in segments(edge)), (box["id"], edge)
        for label in drawn["labels"]:
            assert not overlap(label, box["area"]), box["id"]


def test_a_click_shows_a_node_and_follows_its_edges(page) -> None:
    panel = page.locator("#panel")
    assert panel.is_hidden()
    page.click('.box[data-id="eyes/detect"]')
    assert page.locator("#panel h2").inner_text() == "detect"
    assert "operator eyes/detect" in panel.inner_text()
    near = page.locator(".box.near").evaluate_all("all => all.map((box) => box.dataset.id)")
    assert sorted(near) == [
        "camera",
        "dora/timer/millis/100",
        "eyes/detect",
        "eyes/resize",
        "plan",
        "ui",
    ]
    panel.get_by_role("button", name="bbox plan/bbox").click()
    assert page.locator("#panel h2").inner_text() == "eyes/detect/bbox → plan/bbox"
    panel.get_by_role("button", name="to plan").click()
    assert page.locator("#panel h2").inner_text() == "plan"
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")


def test_hovering_an_edge_shows_its_queue(page) -> None:
    page.hover(".remark.backpressure")
    assert page.locator(".tip").inner_text().splitlines() == [
        "plan/command → motor/command",
        "Queue of 100; when it is full, the sender waits (backpressure).",
    ]
    page.hover("h1")
    page.wait_for_selector(".tip", state="hidden")


def test_keys_choose_as_clicks_do(page) -> None:
    page.focus('.box[data-id="plan"]')
    page.keyboard.press("Enter")
    assert page.locator("#panel h2").inner_text() == "plan"


def test_light_and_dark(page) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_on_a_phone_the_graph_goes_down_and_the_chosen_box_stays_in_sight(show) -> None:
    page = show(ROBOT, PHONE, has_touch=True, is_mobile=True)
    top = page.locator('.box[data-id="camera"]').bounding_box()
    below = page.locator('.box[data-id="motor"]').bounding_box()
    assert below["y"] > top["y"] + top["height"]
    page.locator('.box[data-id="motor"]').tap()
    box, panel = page.locator(".box.chosen").bounding_box(), page.locator("#panel").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert box["y"] + box["height"] <= panel["y"]


@pytest.mark.slow
def test_moving_and_scaling(show) -> None:
    page = show(ROBOT)

    def scale() -> float:
        return page.locator("svg.graph > g").evaluate("g => g.transform.baseVal.consolidate().matrix.a")

    first = scale()
    page.click("#larger")
    page.wait_for_function(f"""() => {first} * 1.25 <
        document.querySelector("svg.graph > g").transform.baseVal.consolidate().matrix.a""")
    page.click("#fit")
    assert scale() == pytest.approx(first)
    page.click("#turn")
    page.wait_for_function("""() => {
        const [a, b] = ["camera", "plan"].map((id) => document.querySelector(`[data-id="${id}"]`));
        return a.getBoundingClientRect().bottom < b.getBoundingClientRect().top; }""")


@pytest.mark.slow
def test_an_empty_dataflow_is_an_empty_page(show) -> None:
    assert show("nodes: []").locator(".box").count() == 0
