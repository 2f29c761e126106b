"""Ports and folders of each test's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from system import System, free_port


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's is too long for sockets
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DORA_COORDINATOR_PORT", str(free_port()))
    monkeypatch.delenv("DORA_AUTH_TOKEN", raising=False)
    system = System(tmp_path)
    yield system
    try:
        system.clean_up()
    finally:
        shutil.rmtree(root, ignore_errors=True)
