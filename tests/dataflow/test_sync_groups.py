"""Groups of synchronised inputs in a dataflow file."""

from __future__ import annotations

import re

import pytest

from dora.builder import DataflowBuilder
from dora.dataflow import parse
from dora.dataflow.graph import graph_of
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.errors import DataflowError
from dora.wire.input_rules import SyncGroup

TEXT = """\
nodes:
  - {{id: cameras, path: dynamic, inputs: {{tick: dora/timer/hz/30}}, outputs: [left, right]}}
  - {{id: arm, path: dynamic, outputs: [state]}}
  - id: fusion
    path: dynamic
    inputs:
      {{left: cameras/left, right: cameras/right, arm: arm/state, tick: dora/timer/hz/10, log: dora/logs}}
    sync:
      - {group}
      - {other}
"""
LINE = 9


def parsed(group: str, other: str = "") -> Dataflow:
    text = TEXT.format(group=group, other=other)
    return parse(text if other else text[: text.rindex("      - ")], working_dir="/", environ={})


def group_of(text: str) -> SyncGroup:
    (group,) = parsed(text).node("fusion").syncs
    return group


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("{inputs: [left, right]}", SyncGroup(("left", "right"), "exact")),
        ("{inputs: [left, right], tolerance: 0}", SyncGroup(("left", "right"), "exact")),
        ("{inputs: [left, right], policy: exact}", SyncGroup(("left", "right"), "exact")),
        (
            "{inputs: [left, arm], tolerance: 5ms}",
            SyncGroup(("left", "arm"), "nearest", tolerance_ns=5_000_000),
        ),
        (
            "{inputs: [left, arm], policy: latest, history: {arm: [-9, 0]}, timeout: 1s}",
            SyncGroup(
                ("left", "arm"), "latest", tolerance_ns=None, history={"arm": 9}, timeout_ns=1_000_000_000
            ),
        ),
        ("{inputs: [tick, log], by: arrival}", SyncGroup(("tick", "log"), "latest", "arrival", None)),
    ],
)
def test_a_group_is_read_with_its_defaults(text: str, group: SyncGroup) -> None:
    assert group_of(text) == group


@pytest.mark.parametrize(
    ("group", "marked", "message", "hint"),
    [
        ("{inputs: [left, rights]}", "rights", "has no input `rights`", "did you mean `right`?"),
        ("{inputs: [left]}", "[left]", "two inputs or more", "for example `inputs: [left, right]`"),
        ("{inputs: [left, right], tolerance: 5}", "5", "a duration with its unit", "write `5ms`"),
        ("{inputs: [left, arm], tolerance: 5}", "5", "a duration with its unit", "write `5ms`"),
        ("{inputs: [left, right], timeout: 100}", "100", "a duration with its unit", "write `100ms`"),
        ("{inputs: [left, arm], by: arrival, tolerance: 5ms}", "tolerance", "no timestamps", "leave out"),
        ("{inputs: [left, arm], by: arrival, timeout: 5ms}", "timeout", "nothing waits", "leave out"),
        ("{inputs: [left, arm], by: arrival, policy: exact}", "exact", "no timestamps", "policy: latest"),
        ("{inputs: [left, arm], policy: nearest}", "nearest", "needs a tolerance", "tolerance: 5ms"),
        ("{inputs: [left, arm], policy: exact, tolerance: 5ms}", "5ms", "equal timestamps", "leave one"),
        ("{inputs: [left, log], tolerance: 5ms}", "log", "carry no timestamp", "by: arrival"),
        (
            "{inputs: [left, arm], policy: latest, history: {arm: [-10, 0]}}",
            "[-10, 0]",
            "11 messages, but the queue of `arm` holds 10",
            "`arm: {source: arm/state, queue_size: 11}`",
        ),
        (
            "{inputs: [left, arm], policy: latest, history: {arms: [-1, 0]}}",
            "arms",
            "no input of this group",
            "did you mean `arm`?",
        ),
        (
            "{inputs: [left, arm], policy: latest, history: {arm: [-1, 1]}}",
            "1]}}",
            "whose number is 0",
            "`[-1, 0]`",
        ),
        ("{inputs: [left, arm], policy: latest, history: {arm: 3}}", "3", "first and last", "`[-8, 0]`"),
        ("{inputs: [left, right], tolerances: 5ms}", "tolerances", "no field", "did you mean `tolerance`?"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(group: str, marked: str, message: str, hint: str) -> None:
    with pytest.raises(DataflowError) as caught:
        parsed(group)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert hint in problem.hint
    column = f"      - {group}".rindex(marked) + 1
    assert (problem.line, problem.column) == (LINE, column)


def test_an_input_is_in_one_group() -> None:
    with pytest.raises(DataflowError) as caught:
        parsed("{inputs: [left, right]}", "{inputs: [arm, right], tolerance: 1ms}")
    (problem,) = caught.value.problems
    assert "the input `right` of node `fusion` is in two groups" in problem.message
    assert "the first is on line 9" in problem.message
    assert (problem.line, problem.column) == (LINE + 1, 24)


@pytest.mark.parametrize("other", ["arm", "tick"])
def test_equal_timestamps_of_inputs_without_a_common_source_are_warned_of(other: str) -> None:
    (warning,) = parsed(f"{{inputs: [left, {other}]}}").warnings
    assert f"`left` and `{other}` never share a source" in warning.message
    assert (warning.line, warning.column) == (LINE, 18)
    assert parsed(f"{{inputs: [left, {other}], tolerance: 5ms}}").warnings == ()
    assert parsed("{inputs: [left, right]}").warnings == ()


def test_a_queue_of_one_place_is_warned_of() -> None:
    text = TEXT.replace("arm: arm/state", "arm: {{source: arm/state, queue_policy: latest}}")
    group = "{inputs: [left, arm], tolerance: 5ms}"
    text = text.format(group=group, other="")
    (warning,) = parse(text[: text.rindex("      - ")], working_dir="/", environ={}).warnings
    assert "the queue of `arm` keeps the latest message only" in warning.message
    assert (warning.line, warning.column) == (LINE, 25)


def test_the_plan_has_the_groups_of_operators_under_the_names_of_their_node() -> None:
    flow = parse(
        """
nodes:
  - {id: cameras, path: dynamic, outputs: [left, right]}
  - id: runtime
    operators:
      - id: fusion
        python: fusion.py
        inputs: {left: cameras/left, right: cameras/right}
        sync: [{inputs: [left, right], tolerance: 1ms, history: {right: [-2, 0]}}]
""",
        working_dir="/",
        environ={},
    )
    configs = plan(flow, RunContext("id", "/run", "p", "/board")).configs
    assert configs["runtime"].syncs == [
        SyncGroup(
            ("fusion/left", "fusion/right"), "nearest", tolerance_ns=1_000_000, history={"fusion/right": 2}
        )
    ]
    kept = {item.id: item.kept_by_sync for item in configs["runtime"].inputs}
    assert kept == {"fusion/left": 10, "fusion/right": 12}
    edges = graph_of(flow).edges
    assert {edge.sync for edge in edges} == {"left: nearest within 1ms"}


def test_the_builder_writes_groups() -> None:
    flow = DataflowBuilder()
    source = flow.add_node("source", path="dynamic").add_output("out")
    node = flow.add_node("fusion", path="dynamic").add_input("a", source).add_input("b", source)
    node.add_sync("a", "b", tolerance="5ms", history={"b": (-3, 0)}, timeout="1s")
    assert re.findall(r"sync:\n(.*)", flow.to_yaml() or "", re.DOTALL)
    assert flow.check().node("fusion").syncs == (
        SyncGroup(("a", "b"), tolerance_ns=5_000_000, history={"b": 3}, timeout_ns=1_000_000_000),
    )
