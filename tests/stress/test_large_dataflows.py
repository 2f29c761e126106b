"""Dataflows of hundreds of nodes run, lose nothing, and cost in proportion to their size."""

from __future__ import annotations

import pytest
from benchmarks.scale import SHAPES, measure
from rounds import ROUNDS

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("name", "small", "most_times"), [
    ("chain", 30, 10), ("one-to-many", 20, 5), ("many-to-one", 20, 5), ("operators", 10, 5),
])  # fmt: skip
def test_a_large_dataflow_costs_in_proportion(name: str, small: int, most_times: int) -> None:
    times = max(most_times * ROUNDS // 100, 2)
    little, much = measure(SHAPES[name], small), measure(SHAPES[name], times * small)
    assert (little.dropped, much.dropped) == (0, 0)
    for figure in ("daemon_cpu_s", "memory", "daemon_files", "most_node_files", "shared_memory"):
        assert getattr(much, figure) <= 1.5 * times * getattr(little, figure), figure
