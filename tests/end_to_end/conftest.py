"""A private place for the runs of each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flow import Flow


@pytest.fixture
def flow(tmp_path: Path, runtime_root: str) -> Iterator[Flow]:
    flow = Flow(tmp_path, runtime_root)
    yield flow
    try:
        flow.assert_nothing_left()
    finally:
        flow.kill_the_rest()
