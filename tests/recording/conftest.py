"""Dataflows that are recorded."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_flows import Folder
from shared_template import share_template
from waiting import TIMEOUT


@pytest.fixture
def folder(tmp_path: Path, runtime_root: str) -> Iterator[Folder]:
    """A folder with programs; whatever was started there is ended by the test's end."""
    share_template(runtime_root)
    folder = Folder(tmp_path, runtime_root)
    yield folder
    try:
        for process in reversed(folder.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=TIMEOUT)
        folder.assert_nothing_left()
    finally:
        for process in folder.processes:
            process.kill()
