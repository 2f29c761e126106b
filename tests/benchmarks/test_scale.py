"""`benchmarks.scale` runs each shape of dataflow, and accounts for it."""

from __future__ import annotations

import json

import pytest
from benchmarks.scale import MESSAGES, SHAPES, Shape, measure

from dora.dataflow import parse


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_shape_has_the_links_that_its_figures_assume(shape: Shape) -> None:
    for size in shape.sizes:
        dataflow = parse(_text(shape, size), working_dir="/", environ={})
        assert not dataflow.warnings
        sinks = [node for node in dataflow.nodes if node.args[:1] == ("sink",)]
        sources = [node for node in dataflow.nodes if node.args[:1] == ("source",)]
        assert (len(sources), len(sinks)) == (shape.senders(size), shape.receivers(size))


@pytest.mark.slow
@pytest.mark.processes
def test_a_small_chain_is_measured() -> None:
    figures = measure(SHAPES["chain"], 3)
    assert (figures.sent, figures.dropped) == (MESSAGES, 0)
    assert figures.ready_s > 0 and figures.latency_s > 0 and figures.stop_s > 0
    assert figures.daemon_memory < figures.memory
    assert figures.shared_memory > 2 * 100_000  # two links


def _text(shape: Shape, size: int) -> str:
    return json.dumps({"nodes": shape.nodes(size)})
