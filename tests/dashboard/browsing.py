"""A real browser for the tests of the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokens import bearer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)"
)

WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
TIMEOUT = 60_000  # milliseconds


class Opened:
    """A page, and what went wrong in it."""

    def __init__(self, browser: Any, size: dict[str, int], **options: Any) -> None:
        self.context = browser.new_context(viewport=size, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))


class Running:
    """``dora run --ui`` in a folder."""

    def __init__(
        self, folder: Path, programs: Mapping[str, str], flow: str, *options: str, file: str = "robot.yml"
    ) -> None:
        for name, text in programs.items():
            (folder / name).write_text(textwrap.dedent(text))
        (folder / file).write_text(flow)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", "--ui", file, *options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.address = ""  # at which a browser is let in
        for line in self.process.stderr:
            if found := re.search(r"http://\S+", line):
                self.address = found[0]
                break

    @property
    def base(self) -> str:
        """The address of the page without the ticket."""
        return self.address.partition("open?")[0]

    @property
    def ticket(self) -> str:
        """What lets a browser in."""
        return self.address.partition("ticket=")[2]

    @property
    def uuid(self) -> str:
        """The UUID of the dataflow."""
        request = urllib.request.Request(f"{self.base}api/dataflows", headers=self.headers)
        with urllib.request.urlopen(request) as response:
            (listed,) = json.loads(response.read())
        return str(listed["uuid"])

    @property
    def headers(self) -> dict[str, str]:
        """What lets in who is no browser."""
        return bearer(self.ticket)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=TIMEOUT / 1000)
        finally:
            self.process.kill()


def wait_for_line(page: Any, text: str) -> None:
    page.locator(".entry .message", has_text=text).wait_for()


def overlap(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether two boxes on the screen (`bounding_box`) cover each other, if only in part."""
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "width"), ("y", "height"))
    )


def wait_until(condition: Any, page: Any, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT / 1000
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in time"
        page.wait_for_timeout(50)
