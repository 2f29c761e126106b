"""Take the pictures of the dashboard in docs/images: ``.venv/bin/python tools/site/screenshots.py``.

Runs examples/object-detection and looks at its page with Chromium (Debian: apt install chromium).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "object-detection"
IMAGES = ROOT / "docs" / "images"
PICTURES: dict[str, tuple[tuple[int, int], Literal["light", "dark"]]] = {
    "dashboard-light": ((1440, 900), "light"),
    "dashboard-dark": ((1440, 900), "dark"),
    "dashboard-phone": ((390, 844), "light"),
}
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
    path = IMAGES / f"{name}.webp"
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=82, method=6)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {width} × {height}, {size // 1000} kB")
    if size > LARGEST:
        raise SystemExit(f"error: {path} is larger than {LARGEST // 1000} kB")
    context.close()


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: there is no Chromium here (Debian: apt install chromium)")
    run = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", "--ui", "dataflow.yml"],
        cwd=EXAMPLE,
        env={**os.environ, "FRAMES": "1000000"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stderr is not None
        address = next(found[0] for line in run.stderr if (found := re.search(r"http://\S+", line)))
        threading.Thread(target=run.stderr.read, daemon=True).start()
        with sync_playwright() as engine:
            browser = engine.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
            for name in PICTURES:
                take(browser, address, name, 3000 if name == "dashboard-phone" else MINUTE)
            browser.close()
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(30)


if __name__ == "__main__":
    main()
