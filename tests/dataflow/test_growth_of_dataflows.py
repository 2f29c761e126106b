"""The work for a dataflow grows with its size, not with the square of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from growth import assert_grows_linearly, steps

from dora.dataflow import parse
from dora.dataflow.graph import graph_of
from dora.dataflow.layout import Plan, RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan

CONTEXT = RunContext("0123456789ab", "/run", "dora_", "/dev/shm/board")
Nodes = list[dict[str, Any]]


def chain(size: int) -> Nodes:
    return [
        {"id": f"n{i}", "path": "a.py", "inputs": {"in": f"n{i - 1}/out"} if i else {}, "outputs": ["out"]}
        for i in range(size)
    ]


def one_to_many(size: int) -> Nodes:
    receivers = [{"id": f"n{i}", "path": "a.py", "inputs": {"in": "hub/out"}} for i in range(size)]
    return [{"id": "hub", "path": "a.py", "outputs": ["out"]}, *receivers]


def many_to_one(size: int) -> Nodes:
    senders = [{"id": f"n{i}", "path": "a.py", "outputs": ["out"]} for i in range(size)]
    return [*senders, {"id": "hub", "path": "a.py", "inputs": {f"i{i}": f"n{i}/out" for i in range(size)}}]


def through_a_hub(size: int) -> Nodes:
    *senders, hub = many_to_one(size)
    receivers = [{"id": f"r{i}", "path": "a.py", "inputs": {"in": "hub/out"}} for i in range(size)]
    return [*senders, {**hub, "outputs": ["out"]}, *receivers]


def operators(size: int) -> Nodes:
    row = [
        {
            "id": f"o{i}",
            "python": "a.py",
            "inputs": {"in": f"n/o{i - 1}/out"} if i else {},
            "outputs": ["out"],
        }
        for i in range(size)
    ]
    return [{"id": "n", "operators": row}]


SHAPES = [chain, one_to_many, many_to_one, through_a_hub, operators]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


def read(nodes: Nodes) -> Dataflow:
    return parse(json.dumps({"nodes": nodes}), working_dir="/", environ={})


@pytest.mark.lengthy
@each_shape
def test_checking_a_file(shape: Callable[[int], Nodes]) -> None:
    assert_grows_linearly(lambda size: steps(lambda: read(shape(size))))


@pytest.mark.lengthy
@each_shape
def test_planning(shape: Callable[[int], Nodes]) -> None:
    def work(size: int) -> int:
        dataflow = read(shape(size))
        return steps(lambda: plan(dataflow, CONTEXT))

    assert_grows_linearly(work)


@pytest.mark.lengthy
@each_shape
def test_planning_a_change(shape: Callable[[int], Nodes]) -> None:
    def work(size: int) -> int:
        dataflow = read(shape(size))
        former = plan(dataflow, CONTEXT)
        return steps(lambda: plan(dataflow, CONTEXT, former))

    assert_grows_linearly(work)


@each_shape
def test_drawing(shape: Callable[[int], Nodes]) -> None:
    def work(size: int) -> int:
        dataflow = read(shape(size))
        return steps(lambda: graph_of(dataflow))

    assert_grows_linearly(work)


def test_the_file_is_encoded_once_for_all_nodes() -> None:
    planned: Plan = plan(read(chain(20)), CONTEXT)
    assert len({id(config.descriptor) for config in planned.configs.values()}) == 1
    assert isinstance(planned.configs["n0"].descriptor, msgspec.Raw)
