"""Dataflows of hundreds of nodes run, lose nothing, and cost in proportion to their size."""

from __future__ import annotations

import pytest
from benchmarks.scale import SHAPES, measure

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("name", "small", "large"), [
    ("chain", 30, 300), ("one-to-many", 20, 100), ("many-to-one", 20, 100), ("operators", 10, 50),
])  # fmt: skip
def test_a_large_dataflow_costs_in_proportion(name: str, small: int, large: int) -> None:
    little, much = measure(SHAPES[name], small), measure(SHAPES[name], large)
    assert (little.dropped, much.dropped) == (0, 0)
    times = large / small
    for figure in ("daemon_cpu_s", "memory", "daemon_files", "most_node_files", "shared_memory"):
        assert getattr(much, figure) <= 1.5 * times * getattr(little, figure), figure
