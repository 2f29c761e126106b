"""Take the pictures of the dashboard, of `dora view` and of `dora top` in docs/images.

``.venv/bin/python tools/site/screenshots.py [NAME …]``; without names, all. Runs examples/object-detection
and looks at its page with Chromium (Debian: apt install chromium). The machine should be idle: the pictures
show rates, losses and latencies.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Playwright, sync_playwright

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "object-detection"
IMAGES = ROOT / "docs" / "images"
PICTURES: dict[str, tuple[tuple[int, int], Literal["light", "dark"]]] = {
    "dashboard-light": ((1440, 900), "light"),
    "dashboard-dark": ((1440, 900), "dark"),
    "dashboard-phone": ((390, 844), "light"),
}
VIEWS: dict[str, tuple[tuple[int, int], Literal["light", "dark"]]] = {  # of `dora view`
    "view-light": ((1440, 900), "light"),
    "view-phone": ((390, 844), "light"),
}
RECORDED = "20s"  # how long the recording for them is
SHOWN_MOMENT = 0.62  # of its length
TOP = "dora-top"
TOP_SIZE = (124, 16)  # columns and rows
TOP_TIME = 62.0  # seconds until the bars of the last minute are complete
TOP_LOOK = 2.0  # seconds until there is a message
MINUTE = 62_000  # milliseconds until the curves of the last minute are complete
LARGEST = 300_000  # bytes


def take(browser: Browser, address: str, name: str, wait: int) -> None:
    (width, height), scheme = PICTURES[name]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body.ready")
    page.wait_for_selector(".panel canvas.picture[data-own=true]")
    page.get_by_role("button", name="Measure latencies").click()
    page.wait_for_timeout(wait)
    save(page.screenshot(), name, width, height)
    context.close()


def save(screenshot: bytes, name: str, width: int, height: int) -> None:
    path = IMAGES / f"{name}.webp"
    Image.open(io.BytesIO(screenshot)).save(path, quality=82, method=6)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {width} × {height}, {size // 1000} kB")
    if size > LARGEST:
        raise SystemExit(f"error: {path} is larger than {LARGEST // 1000} kB")


def launch(engine: Playwright) -> Browser:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: there is no Chromium here (Debian: apt install chromium)")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    return engine.chromium.launch(executable_path=chromium, args=arguments)


def take_views(names: list[str], place: Path) -> None:
    """Record the example, and take the pictures of `dora view`."""
    dora = [sys.executable, "-m", "dora"]
    environment = {**os.environ, "FRAMES": "1000000"}
    recorded = [*dora, "record", "dataflow.yml", "-o", "drive.mcap", "--stop-after", RECORDED]
    subprocess.run(recorded, cwd=place, env=environment, stdout=subprocess.DEVNULL, check=True)
    view = subprocess.Popen(
        [*dora, "view", "--no-open", "drive.mcap"], cwd=place, stderr=subprocess.PIPE, text=True
    )
    try:
        assert view.stderr is not None
        address = view.stderr.readline().split()[-1]
        with sync_playwright() as engine:
            browser = launch(engine)
            for name in names:
                take_view(browser, address, name)
            browser.close()
    finally:
        view.send_signal(signal.SIGINT)
        view.wait(30)


def take_view(browser: Browser, address: str, name: str) -> None:
    (width, height), scheme = VIEWS[name]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body.ready")
    axis = page.locator(".axis").bounding_box()
    assert axis is not None
    page.mouse.click(axis["x"] + axis["width"] * SHOWN_MOMENT, axis["y"] + axis["height"] / 4)
    page.wait_for_selector(".panel canvas.picture[data-own=true]")
    page.wait_for_timeout(3000)
    save(page.screenshot(), name, width, height)
    context.close()


def take_top() -> None:
    from dora.cli.running import find_running
    from dora.cli.snapshots import snapshots_of
    from dora.cli.top_commands import TopCommands
    from dora.cli.top_screen import TopScreen

    async def look() -> str:
        with snapshots_of([find_running(None)], 1.0, latency=True) as snapshots:
            screen = TopScreen(snapshots, TopCommands(), 1.0)
            async with screen.run_test(size=TOP_SIZE) as pilot:
                await pilot.pause(TOP_TIME)
                await pilot.press("j", "o")  # the messages of the second node
                await pilot.pause(TOP_LOOK)
                return screen.export_screenshot(title="dora top --latency")

    text = asyncio.run(look())
    # A page of the documentation loads nothing from other hosts, fonts included.
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)
    path = IMAGES / f"{TOP}.svg"
    path.write_text("".join(f"{line.rstrip()}\n" for line in text.splitlines()))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def main() -> None:
    names = sys.argv[1:] or [TOP, *PICTURES, *VIEWS]
    if unknown := set(names) - {TOP, *PICTURES, *VIEWS}:
        raise SystemExit(f"error: no picture is called {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as runtime, tempfile.TemporaryDirectory() as above:
        os.environ["DORA_RUNTIME_DIR"] = runtime  # `dora top` sees the run of this script, and no other
        place = Path(above, EXAMPLE.name)  # a copy, since the page shows the name of the folder
        shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("out", "__pycache__"))
        if views := [name for name in names if name in VIEWS]:
            take_views(views, place)
        if names := [name for name in names if name not in VIEWS]:
            _take(names, place)


def _take(names: list[str], place: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", "--ui", "dataflow.yml"],
        cwd=place,
        env={**os.environ, "FRAMES": "1000000"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stderr is not None
        address = next(found[0] for line in run.stderr if (found := re.search(r"http://\S+", line)))
        threading.Thread(target=run.stderr.read, daemon=True).start()
        if TOP in names:
            take_top()
        with sync_playwright() as engine:
            browser = launch(engine)
            for name in (name for name in PICTURES if name in names):
                take(browser, address, name, 3000 if name == "dashboard-phone" else MINUTE)
            browser.close()
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(30)


if __name__ == "__main__":
    main()
