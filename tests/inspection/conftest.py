"""Dataflows that run, and commands that look at them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import Running, end, nothing_left


@pytest.fixture(params=["iceoryx2", "zenoh"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each engine."""
    name: str = request.param
    pytest.importorskip(name)
    monkeypatch.setenv("DORA_ENGINE", name)
    return name


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Start a dataflow: ``running(text, name="arm")``. All of them are ended by the test's end."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    running = Running(tmp_path)
    yield running
    try:
        for look in running.looks:
            look.kill()
            look.wait()
        for process in running.processes:
            end(process)
        nothing_left(root, tmp_path)
    finally:
        for process in running.processes:
            process.kill()
        shutil.rmtree(root, ignore_errors=True)
