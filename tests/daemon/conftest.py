"""Runs of each test, and the proof that they leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Bench


@pytest.fixture
def bench(tmp_path: Path, runtime_root: str) -> Iterator[Bench]:
    bench = Bench(tmp_path, runtime_root)
    yield bench
    try:
        for dataflow_id in bench.ids:
            bench.assert_nothing_left(dataflow_id)
    finally:
        bench.clean_up()
