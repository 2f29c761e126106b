"""Dataflows that are recorded."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_flows import PATIENCE, Folder


@pytest.fixture(params=["iceoryx2", "zenoh"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each engine."""
    name: str = request.param
    pytest.importorskip(name)
    monkeypatch.setenv("DORA_ENGINE", name)
    return name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A folder with programs; whatever was started there is ended by the test's end."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    folder = Folder(tmp_path, root)
    yield folder
    try:
        for process in reversed(folder.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=PATIENCE)
        folder.assert_nothing_left()
    finally:
        for process in folder.processes:
            process.kill()
        shutil.rmtree(root, ignore_errors=True)
