"""A private place for the runs of each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow import Flow


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flow]:
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    flow = Flow(tmp_path, root)
    yield flow
    try:
        flow.assert_nothing_left()
    finally:
        flow.kill_the_rest()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["iceoryx2", "zenoh"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each engine."""
    name: str = request.param
    pytest.importorskip(name)
    monkeypatch.setenv("DORA_ENGINE", name)
    return name
