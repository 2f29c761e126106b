"""The paths of data through a dataflow, and how often it is passed on in a circle."""

from __future__ import annotations

import pytest

from dora.dataflow.edit import make_change
from dora.dataflow.loader import parse
from dora.dataflow.model import InputSpec, NodeOutput, NodeSpec, OperatorSpec
from dora.dataflow.paths import DataGraph, budgets_of, most_passes
from dora.errors import DataflowError
from dora.wire.operations import ConnectOperation, DisconnectOperation, RemoveOperation


def node(name: str, *sources: str) -> NodeSpec:
    inputs = tuple(
        InputSpec(f"in{number}", NodeOutput(*source.split("/"))) for number, source in enumerate(sources)
    )
    return NodeSpec(name, path=f"{name}.py", inputs=inputs, outputs=("out",))


def test_a_dataflow_without_a_circle_has_no_limit() -> None:
    assert most_passes([node("a"), node("b", "a/out"), node("c", "a/out", "b/out")]) == {}


def test_in_a_circle_data_is_passed_on_as_often_as_on_the_longest_way() -> None:
    nodes = [
        node("camera"),
        node("filter", "camera/out"),
        node("planner", "filter/out", "motor/out"),
        node("motor", "planner/out"),
        node("log", "motor/out"),
    ]
    assert most_passes(nodes) == {"planner": 3, "motor": 3}


def test_two_nodes_that_answer_each_other_pass_data_on_once() -> None:
    assert most_passes([node("ping", "pong/out"), node("pong", "ping/out")]) == {"ping": 1, "pong": 1}


def test_a_node_that_hears_itself_starts_anew() -> None:
    assert most_passes([node("a", "a/out")]) == {"a": 0}


def test_the_operators_of_a_runtime_are_stages_of_their_own() -> None:
    runtime = NodeSpec(
        "run",
        inputs=(
            InputSpec("one/in", NodeOutput("run", "two/out")),
            InputSpec("two/in", NodeOutput("a", "out")),
        ),
        outputs=("one/out", "two/out"),
        operators=(OperatorSpec("one", "one.py"), OperatorSpec("two", "two.py")),
    )
    nodes = [node("a"), runtime]
    assert most_passes(nodes) == {}
    between = DataGraph(nodes).between(NodeOutput("a", "out"), NodeOutput("run", "one/out"))
    assert {str(output) for output in between} == {"a/out", "run/two/out", "run/one/out"}


def test_the_outputs_between_two_are_those_of_all_ways() -> None:
    nodes = [
        node("camera"),
        node("left", "camera/out"),
        node("right", "camera/out"),
        node("join", "left/out", "right/out"),
        node("other", "right/out"),
        node("clock"),
    ]
    paths = DataGraph(nodes)
    between = paths.between(NodeOutput("camera", "out"), NodeOutput("join", "out"))
    assert {output.node for output in between} == {"camera", "left", "right", "join"}
    assert paths.between(NodeOutput("clock", "out"), NodeOutput("join", "out")) == set()
    assert paths.between(NodeOutput("join", "out"), NodeOutput("camera", "out")) == set()


BUDGET = """
nodes:
  - {id: a, path: a.py, outputs: [out]}
  - {id: b, path: b.py, inputs: {in: a/out}, outputs: [out]}
  - {id: c, path: c.py, inputs: {in: b/out}}
paths: [{from: a/out, to: c/in, budget: 40ms}]
"""


@pytest.mark.parametrize(
    "cut",
    [
        DisconnectOperation("b/out", "c/in"),
        DisconnectOperation("a/out", "b/in"),
        RemoveOperation("a"),
        RemoveOperation("b"),
        RemoveOperation("c"),
    ],
)
def test_a_budget_is_without_effect_while_its_path_is_cut(
    cut: DisconnectOperation | RemoveOperation,
) -> None:
    running = parse(BUDGET, working_dir="/w", environ={})
    assert list(budgets_of(running)[0]) == ["c/in"]
    cut_off = make_change(cut, running, {}).dataflow
    assert budgets_of(cut_off) == ({}, set())
    if isinstance(cut, DisconnectOperation):
        again = make_change(ConnectOperation(cut.source, cut.target), cut_off, {}).dataflow
        assert budgets_of(again) == budgets_of(running)


def test_a_path_cannot_begin_at_an_output_of_captured_lines() -> None:
    text = """nodes:
  - {id: a, path: a.py, outputs: [x, lines, log], send_stdout_as: lines, send_logs_as: log}
  - {id: b, path: b.py, inputs: {x: a/x, lines: a/lines, log: a/log}}
paths:
  - {from: a/x, to: b/x, budget: 40ms}
  - {from: a/lines, to: b/lines, budget: 40ms}
  - {from: a/log, to: b/log, budget: 40ms}
"""
    with pytest.raises(DataflowError) as caught:
        parse(text, working_dir="/", environ={})
    assert [(problem.line, problem.message) for problem in caught.value.problems] == [
        (6, "no time is measured from `a/lines`, which carries lines of text"),
        (7, "no time is measured from `a/log`, which carries lines of text"),
    ]
