"""`dora run --open`: the browser gets a file that only this user can read, and it leads to the page."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from waiting import guardian_of, wait_until

pytestmark = pytest.mark.processes

WAITING = "from dora import Node\nfor _ in Node():\n    pass\n"


class Opened:
    """A run with ``--open``, and what it gave to the browser."""

    def __init__(self, folder: Path) -> None:
        self._told = folder / "told"
        browser = folder / "browser"
        browser.write_text(f'#!/bin/sh\necho "$@" >{self._told}.new\nmv {self._told}.new {self._told}\n')
        browser.chmod(0o755)
        (folder / "a.py").write_text(WAITING)
        (folder / "flow.yml").write_text(
            "nodes: [{id: a, path: a.py, inputs: {tick: dora/timer/millis/100}}]"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", "flow.yml", "--open"],
            cwd=folder,
            env={**os.environ, "BROWSER": f"{browser} %s"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def page_file(self) -> Path:
        """Wait for the browser, and return the file that it got."""
        wait_until(self._told.exists, "a browser is opened")
        address = self._told.read_text().strip()
        assert address.startswith("file:///")
        return Path(address.removeprefix("file://"))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    run = Opened(tmp_path)
    try:
        yield run
    finally:
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=60)


def test_the_browser_gets_a_file_that_leads_to_the_page(opened: Opened) -> None:
    page = opened.page_file()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    address = r'content="0; url=http://127\.0\.0\.1:(\d+)(/open\?ticket=[0-9a-f]+)"'
    found = re.search(address, page.read_text())
    assert found is not None
    connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
    connection.request("GET", found[2])
    answer = connection.getresponse()
    assert answer.status == 303 and "dora-session" in answer.headers["set-cookie"]
    connection.close()
    opened.process.send_signal(signal.SIGINT)
    opened.process.wait(60)
    assert not page.exists()


def test_the_file_is_removed_when_the_run_is_killed(opened: Opened) -> None:
    page = opened.page_file()
    wait_until(lambda: guardian_of(opened.process.pid), "the guardian, which removes the rest")
    opened.process.kill()
    wait_until(lambda: not page.exists(), "the file is removed")


def is_page_server(process: Any) -> bool:
    """Return whether a process serves the page; one may have just ended."""
    import psutil

    try:
        return "dora.cluster.dashboard.local_server" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def test_the_file_is_removed_when_the_server_of_the_page_is_killed(opened: Opened) -> None:
    import psutil

    page = opened.page_file()
    (server,) = (child for child in psutil.Process(opened.process.pid).children() if is_page_server(child))
    server.kill()
    opened.process.send_signal(signal.SIGINT)
    opened.process.wait(60)
    assert not page.exists()
