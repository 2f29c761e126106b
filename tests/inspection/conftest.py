"""Dataflows that run, and commands that look at them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import Running, end, nothing_left


@pytest.fixture
def running(tmp_path: Path, runtime_root: str) -> Iterator[Running]:
    """Start a dataflow: ``running(text, name="arm")``. All of them are ended by the test's end."""
    running = Running(tmp_path)
    yield running
    try:
        for look in running.looks:
            look.kill()
            look.wait()
        for process in running.processes:
            end(process)
        nothing_left(runtime_root, tmp_path)
    finally:
        for process in running.processes:
            process.kill()
