"""Opt-in tests that treat dataflows badly, for minutes: ``make stress``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from arena import Arena


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """A place for runs that must be empty at the end."""
    arena = Arena(tmp_path, tempfile.mkdtemp(prefix="dora-stress-", dir="/tmp"))  # short enough for sockets
    monkeypatch.setenv("DORA_RUNTIME_DIR", arena.root)
    monkeypatch.setenv("TMPDIR", arena.temp)
    monkeypatch.setattr(tempfile, "tempdir", arena.temp)
    try:
        yield arena
        assert arena.remains() == []
    finally:
        arena.clean_up()
        for folder in (arena.root, arena.temp):
            shutil.rmtree(folder, ignore_errors=True)
