"""A private place for the runs of each test, and the proof that they leave nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Bench


@pytest.fixture
def runtime_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory for runs: not pytest's, whose path is too long for sockets."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def bench(tmp_path: Path, runtime_root: str) -> Iterator[Bench]:
    bench = Bench(tmp_path, runtime_root)
    yield bench
    try:
        for dataflow_id in bench.ids:
            bench.assert_nothing_left(dataflow_id)
    finally:
        bench.clean_up()
