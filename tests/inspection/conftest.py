"""Dataflows that run, and commands that look at them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import Running, dataflows


@pytest.fixture
def running(tmp_path: Path, runtime_root: str) -> Iterator[Running]:
    """Start a dataflow: ``running(text, name="arm")``. All of them are ended by the test's end."""
    with dataflows(tmp_path, runtime_root) as running:
        yield running


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return the folder of a dataflow `arm`, which runs, for all tests that only look at it."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORA_RUNTIME_DIR", root)
        with dataflows(tmp_path_factory.mktemp("arm"), root) as running:
            running()
            yield running
    shutil.rmtree(root, ignore_errors=True)
