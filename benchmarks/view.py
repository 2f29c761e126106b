"""Measure how fast a large recording opens in the browser: ``python -m benchmarks.view [--gigabytes 5]``.

Writes a file as the recorder does: three cameras of 1080p at 30 Hz, an IMU at 210 Hz, boxes, and a state of
the run once a second, compressed with zstd. Then starts `dora view` on it and asks its server, as a page
does, for all outputs at random moments; and looks at the memory of its two processes. With Playwright and
Chromium, it also opens the page in a browser that runs already, and says when its parts are on the screen.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.statistics import median
from dora.recording.mcap.channels import STATE_CHANNEL, ChannelTable, prefix_of
from dora.recording.mcap.chunk import Chunk, compress
from dora.recording.mcap.format import End, RecordingStart, TopicEnd
from dora.recording.mcap.writer import RecordingWriter
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata

CAMERAS = ("left", "right", "rear")
FRAMES = 30  # a second
IMU = 7  # messages a frame
WIDTH, HEIGHT = 1920, 1080
NOISE = 640, 360  # pixels of each image that do not compress
SECOND = 1_000_000_000
BEGIN = 1_800_000_000 * SECOND
ROOM = 8 << 20  # bytes of a chunk, in which one image is
JUMPS = 40
OPENINGS = 5  # in a browser


class File:
    """A recording that is being written."""

    def __init__(self, path: Path) -> None:
        self._channels = ChannelTable()
        self.writer = RecordingWriter(str(path), self._channels)
        nodes: list[dict[str, Any]] = [
            {"id": name, "path": "camera.py", "outputs": ["image"]} for name in CAMERAS
        ]
        inputs = {name: f"{name}/image" for name in CAMERAS}
        nodes.append({"id": "imu", "path": "imu.py", "outputs": ["data"]})
        nodes.append({"id": "detector", "path": "detector.py", "inputs": inputs, "outputs": ["boxes"]})
        start = RecordingStart(
            dora="1", dataflow_id="view", started=BEGIN, nodes=[node["id"] for node in nodes]
        )
        self.writer.begin(start, json.dumps({"nodes": nodes}).encode())
        self._state = self._channels.add(STATE_CHANNEL)
        self._counts: dict[str, int] = {}
        self._chunk = Chunk(ROOM)

    def add(self, topic: str, data: Any, metadata: dict[str, Any], time_ns: int) -> None:
        count = self._counts[topic] = self._counts.get(topic, 0) + 1
        payload = encode(data)
        sections = payload.encoding, payload.schema, encode_metadata(metadata), payload.size, count, time_ns
        message = Message(pack_head(*sections) + payload.to_bytes())
        number, form = self._channels.of_message(topic, message)
        self._chunk.add(number, count, time_ns, prefix_of(message, form), message)

    def add_state(self, time_ns: int) -> None:
        state: dict[str, list[Any]] = {"nodes": [], "links": [], "paths": [], "networks": []}
        self._chunk.add_data(self._state, 1, time_ns, json.dumps(state).encode())

    def flush(self) -> None:
        self.writer.write(compress(self._chunk, "zstd"))
        self._chunk = Chunk(ROOM)

    def finish(self, time_ns: int) -> None:
        self.flush()
        topics = {name: TopicEnd(count, 0, 1, count) for name, count in self._counts.items()}
        self.writer.finish(End(complete=True, stopped=time_ns, reason="asked", topics=topics))


def write_file(path: Path, size: int) -> float:
    """Write a recording of so many bytes, and return how many seconds it has."""
    file = File(path)
    noise = np.random.default_rng(1).integers(0, 255, (NOISE[1], NOISE[0], 3), np.uint8)
    slope = (np.indices((HEIGHT, WIDTH)).sum(0) % 255).astype(np.uint8)
    about = {"width": WIDTH, "height": HEIGHT, "encoding": "bgr8"}
    frame = 0
    while file.writer.size < size:
        now = BEGIN + frame * SECOND // FRAMES
        for number, name in enumerate(CAMERAS):
            image = np.dstack([np.roll(slope, 5 * frame + number, 1)] * 3)
            image[: NOISE[1], : NOISE[0]] = noise
            file.add(f"{name}/image", image.ravel(), about, now)
            file.flush()
        for number in range(IMU):
            later = number * SECOND // (FRAMES * IMU)
            file.add("imu/data", np.sin(np.arange(6) + frame / FRAMES), {}, now + later)
        box = {"x": 100.0 + frame % 500, "y": 200.0, "width": 300.0, "height": 200.0}
        file.add("detector/boxes", pa.array([{**box, "confidence": 0.8, "label": "car"}]), {}, now)
        if frame % FRAMES == 0:
            file.add_state(now)
        frame += 1
    file.finish(BEGIN + frame * SECOND // FRAMES)
    return frame / FRAMES


class Page:
    """Asks `dora view` as its page does."""

    def __init__(self, path: Path) -> None:
        self.begun = time.monotonic()
        command = [sys.executable, "-m", "dora", "view", "--no-open", str(path)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().split()[-1]
        self.opened = time.monotonic() - self.begun  # seconds until the page can be opened
        self._base, _, self._ticket = self.address.partition("open?ticket=")

    def ask(self, question: dict[str, Any]) -> tuple[float, bytes]:
        """Return how many seconds an answer took, and the answer."""
        headers = {"Authorization": f"Bearer {self._ticket}"}
        request = urllib.request.Request(
            f"{self._base}history/view", json.dumps(question).encode(), headers
        )
        begun = time.monotonic()
        with urllib.request.urlopen(request) as response:
            answer: bytes = response.read()
        return time.monotonic() - begun, answer

    def memory(self) -> int:
        """Return the bytes of memory of the command and of the process that reads the file."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(_resident(int(one)) for one in (pid, *children))

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate()


# Notes in the page when its parts are there, in milliseconds since the browser was told the address.
_LOOK = """
(() => {
  const seen = (window.seen = {});
  const note = (name, there) => there && !(name in seen) && (seen[name] = performance.now());
  const look = () => {
    note("the page", document.querySelector("header h1"));
    note("all pictures", document.querySelectorAll(".panel[data-number]").length >= OUTPUTS);
    note("the graph", document.body?.classList.contains("ready"));
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()
"""


def in_browser(path: Path) -> list[dict[str, float]]:
    """Return when the parts of the page were there, in s since the start of the command, for each opening.

    Empty without Playwright or Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    if chromium is None:
        return []
    outputs = len(CAMERAS) + 2
    found = []
    with sync_playwright() as engine:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = engine.chromium.launch(executable_path=chromium, args=options)
        for _ in range(OPENINGS):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            context.add_init_script(_LOOK.replace("OUTPUTS", str(outputs)))
            shown = context.new_page()
            time.sleep(1)  # the browser has its processes ready
            page = Page(path)
            try:
                told = time.monotonic() - page.begun
                shown.goto(page.address, wait_until="commit")
                shown.wait_for_function("() => window.seen && Object.keys(seen).length === 3")
                seen = shown.evaluate("() => window.seen")
                found.append({name: told + at / 1000 for name, at in seen.items()})
            finally:
                page.end()
                context.close()
        browser.close()
    return found


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def measure(path: Path) -> None:
    """Print the figures of a recording."""
    page = Page(path)
    try:
        facts = json.loads(page.ask({"type": "about"})[1])[0]
        topics = dict.fromkeys((output["name"] for output in facts["outputs"]), -1)
        chosen = random.Random(1)
        jumps = []
        for _ in range(JUMPS):
            moment = {"type": "moment", "recording": 0, "at": chosen.randrange(facts["length"])}
            jumps.append(1000 * page.ask({**moment, "topics": topics})[0])
        print(f"until the page can be opened: {page.opened:.2f} s")
        print(f"a jump: median {median(jumps):.0f} ms, longest {max(jumps):.0f} ms, of {JUMPS}")
        print(f"memory of both processes after it: {page.memory() / 1e6:.0f} MB")
    finally:
        page.end()
    openings = in_browser(path)
    for part in openings[0] if openings else ():
        times = [one[part] for one in openings]
        print(f"until the browser shows {part}: median {median(times):.2f} s, longest {max(times):.2f} s")


def main(arguments: list[str] | None = None) -> None:
    """Write a recording, measure and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the recording [5]")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where to write it")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = Path(folder, "drive.mcap")
        seconds = write_file(path, round(chosen.gigabytes * 1e9))
        print(f"{path.stat().st_size / 1e9:.2f} GB, {seconds:.0f} s of recording")
        measure(path)


if __name__ == "__main__":
    main()
