"""What a running dataflow becomes: nodes and links added, exchanged and taken out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dora.dataflow.describe import document_fault
from dora.dataflow.edit import (
    Change,
    make_change,
    proposal_of,
    with_link,
    with_node,
    with_replaced,
    without_link,
    without_node,
)
from dora.dataflow.layout import RunContext
from dora.dataflow.loader import parse
from dora.dataflow.model import Dataflow, LogOptions, NodeSpec, TimerSource
from dora.dataflow.plan import plan
from dora.errors import DataflowError, DoraError
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    RemoveOperation,
    ReplaceOperation,
    TopologyOperation,
)

TEXT = """
nodes:
  - id: a
    path: a.py
    env: {ROOM: $ROOM}
    outputs: [o]
    output_types: {o: std/media/v1/Image}
  - id: b
    path: b.py
    inputs: {i: a/o}
  - id: r
    operators:
      - id: p
        python: p.py
        inputs: {x: {source: a/o, queue_size: 3}}
        outputs: [y]
      - id: q
        python: q.py
        inputs: {x: r/p/y}
  - id: s
    operator:
      python: s.py
      inputs: {x: a/o}
      outputs: [z]
"""


@pytest.fixture
def running() -> Dataflow:
    return parse(TEXT, working_dir="/w", environ={"ROOM": "kitchen"}, file="/w/df.yml")


def inputs(dataflow: Dataflow, node_id: str) -> dict[str, str]:
    return {item.id: str(item.source) for item in dataflow.node(node_id).inputs}


def add(running: Dataflow, text: str, **options: bool) -> Change:
    return with_node(running, AddOperation(text, "new.yml", **options), {})


def agrees(dataflow: Dataflow) -> None:
    """Check that the document says what the model says: it could have been the file."""
    text = json.dumps(dataflow.descriptor)
    again = parse(text, working_dir="/w", environ={"ROOM": "kitchen"}, file="/w/df.yml")
    for node in again.nodes:
        ours = dataflow.node(node.id)
        assert (ours.inputs, ours.outputs, ours.path) == (node.inputs, node.outputs, node.path)
        assert [(o.id, o.inputs) for o in ours.operators] == [(o.id, o.inputs) for o in node.operators]
    assert again.types == dataflow.types


def test_a_node_is_added_behind_the_others(running: Dataflow) -> None:
    change = add(running, "id: c\npath: c.py\ninputs: {z: s/z}\n")
    assert [node.id for node in change.dataflow.nodes] == ["a", "b", "r", "s", "c"]
    assert inputs(change.dataflow, "c") == {"z": "s/z"}
    assert [program.path for program in change.programs] == ["c.py"], "what runs already is not looked for"
    assert not change.warnings
    agrees(change.dataflow)


def test_running_nodes_keep_their_environment(running: Dataflow) -> None:
    """A command that adds a node lacks the variables of the command that started the dataflow."""
    assert add(running, "id: c\npath: c.py").dataflow.node("a").env == {"ROOM": "kitchen"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id: c\npath: c.py\ninputs:\n  z: a/x\n", r"new.yml:4:8: error: the node `a` has no output `x`"),
        ("id: c\npath: c.py\ninputs:\n  z: aa/o\n", r"new.yml:4:6: .*`aa`(.|\n)*did you mean `a/o`"),
        ("id: c\npath: c.py\nqueu: 3\n", r"new.yml:3:1: error: a node has no field `queu`"),
        ("id: a\npath: c.py\n", r"new.yml:1:5: error: the running dataflow has a node `a` already"),
        ("path: c.py\n", r"new.yml:1:1: error: .*`id`"),
        ("nodes: []\n", r"new.yml:1:1: error: this is a dataflow"),
        ("id: c\nmodule: m.yml\n", r"new.yml:2:1: error: a node that uses a module"),
        ("", r"new.yml:1:1: error: a node is a mapping"),
        ("- 1\n- 2\n", r"new.yml:1:1: error: a node is a mapping"),
        ("id: [", r"new.yml:\d+:\d+: error"),
        ("id: c\npath: $NOWHERE/c.py\nenv: {X: $NOWHERE}", r"new.yml:3:11: error: .*`NOWHERE` is not set"),
    ],
)
def test_a_problem_of_an_added_node_names_its_place(running: Dataflow, text: str, message: str) -> None:
    with pytest.raises(DataflowError, match=message) as caught:
        add(running, text)
    assert "<the running dataflow>" not in str(caught.value)


def test_types_are_checked_against_running_nodes(running: Dataflow) -> None:
    text = "id: c\npath: c.py\ninputs: {z: a/o}\ninput_types: {z: std/math/v1/Vector3}"
    change = add(running, text)
    (warning,) = change.warnings
    assert (warning.file, warning.line) == ("new.yml", 4)
    assert "expects `std/math/v1/Vector3`, but `a/o` sends `std/media/v1/Image`" in warning.message
    with pytest.raises(DataflowError, match="expects `std/math/v1/Vector3`"):
        add(running, text, strict_types=True)


def test_a_replacement_keeps_the_fields_it_does_not_set(running: Dataflow) -> None:
    change = with_replaced(running, ReplaceOperation("a", "path: other.py", "new.yml"), {})
    node = change.dataflow.node("a")
    assert (node.path, node.outputs) == ("other.py", ("o",))
    assert [known.id for known in change.dataflow.nodes] == ["a", "b", "r", "s"]
    agrees(change.dataflow)


@pytest.mark.parametrize(
    ("node_id", "text", "message"),
    [
        ("a", "id: z\npath: other.py", r"new.yml:1:5: error: a replacement keeps the id, which is `a`"),
        (
            "a",
            "path: other.py\noutputs: [p]",
            "the node `a` has no output `o`, which the input `i` of node `b`",
        ),
        ("a", "path: dynamic", "is started by you"),
        ("aa", "path: other.py", "no node `aa`; did you mean `a`"),
    ],
)
def test_a_wrong_replacement_is_refused(running: Dataflow, node_id: str, text: str, message: str) -> None:
    with pytest.raises(DoraError, match=message):
        with_replaced(running, ReplaceOperation(node_id, text, "new.yml"), {})


def test_a_removed_node_removes_the_inputs_from_its_outputs(running: Dataflow) -> None:
    left = without_node(running, "a")
    assert [node.id for node in left.nodes] == ["b", "r", "s"]
    assert inputs(left, "b") == inputs(left, "s") == {}
    assert inputs(left, "r") == {"q/x": "r/p/y"}
    agrees(left)


@pytest.mark.parametrize(
    ("source", "target", "node_id", "expected"),
    [
        ("a/o", "b/j", "b", {"i": "a/o", "j": "a/o"}),
        ("r/p/y", "b/j", "b", {"i": "a/o", "j": "r/p/y"}),
        ("s/z", "b/j", "b", {"i": "a/o", "j": "s/z"}),
        ("a/o", "r/q/j", "r", {"p/x": "a/o", "q/x": "r/p/y", "q/j": "a/o"}),
        ("a/o", "s/j", "s", {"x": "a/o", "j": "a/o"}),
        ("dora/logs/warn", "b/j", "b", {"i": "a/o", "j": "dora/logs/warn"}),
    ],
)
def test_a_link_is_added_and_removed(
    running: Dataflow, source: str, target: str, node_id: str, expected: dict[str, str]
) -> None:
    change = with_link(running, ConnectOperation(source, target, queue_size=7, queue_policy="backpressure"))
    assert change.node_id == node_id
    assert inputs(change.dataflow, node_id) == expected
    fresh = change.dataflow.node(node_id).inputs[-1]
    assert (fresh.queue_size, fresh.queue_policy) == (7, "backpressure")
    agrees(change.dataflow)
    back = without_link(change.dataflow, DisconnectOperation(source, target)).dataflow
    assert back.nodes == running.nodes
    agrees(back)


def test_a_new_link_may_have_the_options_of_an_input(running: Dataflow) -> None:
    operation = ConnectOperation(
        "a/o", "b/j", queue_policy="latest", deadline="50ms", max_age="1s", rate="100hz", keep=("s", "t")
    )
    change = with_link(running, operation)
    fresh = change.dataflow.node("b").inputs[-1]
    assert fresh.queue_policy == "latest"
    assert (fresh.deadline_ns, fresh.max_age_ns, fresh.period_ns) == (50_000_000, 10**9, 10_000_000)
    assert fresh.keep == ("s", "t")
    agrees(change.dataflow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline": "50"}, r":1:23: error: expected a duration with its unit, such as `50ms`"),
        ({"queue_size": 3, "rate": "10"}, r":1:34: error: expected a rate with its unit, such as `10hz`"),
        ({"max_age": "0s"}, r":1:22: error: expected a duration longer than zero"),
        ({"keep": ("stop", "")}, r":1:31: error: .*a metadata key"),
        ({"keep": ("stop",), "queue_policy": "backpressure"}, "`keep` is for queues that push messages"),
    ],
)
def test_a_bad_option_of_a_new_link_names_its_place(
    running: Dataflow, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataflowError, match=message):
        with_link(running, ConnectOperation("a/o", "b/j", **options))


def test_a_timer_may_be_connected(running: Dataflow) -> None:
    change = with_link(running, ConnectOperation("dora/timer/hz/5", "b/tick"))
    source = change.dataflow.node("b").inputs[-1].source
    assert isinstance(source, TimerSource)
    assert source.interval_ns == 200_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: with_link(r, ConnectOperation("a/oo", "b/j")),
            r"<command line>:1:3: .*(.|\n)*did you mean `a/o`",
        ),
        (lambda r: with_link(r, ConnectOperation("a/o", "b/i")), "`b/i` is fed by `a/o` already"),
        (lambda r: with_link(r, ConnectOperation("a/o", "bb/i")), "no node `bb`; did you mean `b`"),
        (lambda r: with_link(r, ConnectOperation("a/o", "b")), "`b` names no input"),
        (
            lambda r: with_link(r, ConnectOperation("a/o", "b/j k")),
            r":1:10: error: the id `j k`",
        ),
        (lambda r: with_link(r, ConnectOperation("a/o", "r/z")), "does not say which operator"),
        (lambda r: with_link(r, ConnectOperation("a/o", "r/z/x")), "no operator `z`"),
        (lambda r: with_link(r, ConnectOperation("r/p/y", "r/q/j")), "operators of one process"),
        (lambda r: without_link(r, DisconnectOperation("r/p/y", "r/q/x")), "operators of one process"),
        (
            lambda r: without_link(r, DisconnectOperation("a/o", "b/j")),
            "no input `j`; (did you mean|its inputs are) `i`",
        ),
        (lambda r: without_link(r, DisconnectOperation("s/z", "b/i")), "fed by `a/o`, not by `s/z`"),
    ],
)
def test_a_wrong_link_is_refused(
    running: Dataflow, change: Callable[[Dataflow], Change], message: str
) -> None:
    with pytest.raises(DoraError, match=message):
        change(running)


SAFE = """
nodes:
  - id: a
    path: a.py
    outputs: [{x: {safe_state: {value: [0.0]}, priority: control}}]
  - {id: b, path: b.py, inputs: {x: a/x}}
"""


def test_a_deadline_that_comes_while_running_is_a_condition_of_the_safe_state() -> None:
    running = parse(SAFE, working_dir="/w", environ={})
    fed = "inputs: {x: {source: a/x, deadline: 200ms}}"
    changes = {
        "node add": add(running, f"{{id: c, path: c.py, {fed}}}"),
        "node replace": with_replaced(
            running, ReplaceOperation("b", f"{{path: b.py, {fed}}}", "new.yml"), {}
        ),
        "node connect": with_link(running, ConnectOperation("a/x", "b/y", deadline="200ms")),
    }
    for command, change in changes.items():
        rules = change.dataflow.node("a").output_rules["x"]
        assert rules.priority == "control", command
        assert rules.safe_state is not None and rules.safe_state.when == ("deadline", "failed"), command
        context = RunContext(dataflow_id="0", run_dir="", prefix="", board="")
        for config in plan(change.dataflow, context).configs.values():
            for item in config.inputs:
                assert item.source_rules.safe_state == rules.safe_state, command


def test_a_safe_state_stays_after_the_last_input_with_its_condition_has_gone() -> None:
    text = SAFE.replace("value: [0.0]", "value: [0.0], when: [deadline]").replace(
        "inputs: {x: a/x}", "inputs: {x: {source: a/x, deadline: 200ms}}"
    )
    running = parse(text, working_dir="/w", environ={})
    left = without_link(running, DisconnectOperation("a/x", "b/x")).dataflow
    after = add(left, "{id: c, path: c.py}").dataflow
    assert after.node("a").output_rules == running.node("a").output_rules


@pytest.mark.parametrize("name", ["0", "1", "007", "01", "1.10", "1e3", "0x10", "True"])
def test_a_name_that_looks_like_a_number_stays_as_it_is_written(name: str) -> None:
    text = f"""
nodes:
  - {{id: {name}, path: a.py, outputs: [{name}, {{r.{name}: {{latched: 1}}}}]}}
  - {{id: b, path: b.py, inputs: {{{name}: {name}/{name}, y: {name}/r.{name}}}}}
  - id: r
    operators:
      - {{id: {name}, python: p.py, inputs: {{{name}: {name}/{name}}}, outputs: [{name}]}}
      - {{id: q, python: q.py}}
"""
    running = parse(text, working_dir="/w", environ={})
    assert document_fault(running) == ""
    assert running.node("r").outputs == (f"{name}/{name}",)
    kept = ReplaceOperation(name, "path: c.py", "new.yml")
    changed = [
        add(running, f"{{id: c, path: c.py, inputs: {{x: {name}/{name}}}}}").dataflow,
        with_replaced(running, kept, {}).dataflow,
        with_link(running, ConnectOperation(f"{name}/{name}", f"r/{name}/z")).dataflow,
        without_link(running, DisconnectOperation(f"{name}/{name}", f"r/{name}/{name}")).dataflow,
        without_node(running, "b"),
    ]
    for dataflow in changed:
        assert dataflow.node(name).outputs == (name, f"r.{name}")
        assert document_fault(dataflow) == ""
        agrees(dataflow)


def test_a_replacement_keeps_labels_and_the_version_of_python_as_they_are_written() -> None:
    text = """
nodes:
  - id: a
    path: a.py
    deploy: {labels: {version: 1.10, gpu: True}}
    parameters: {gain: 1.10}
  - {id: b, path: b.py, args: [--version, 3.10], python: {version: 3.20}}
"""
    running = parse(text, working_dir="/w", environ={})
    after = with_replaced(running, ReplaceOperation("a", "path: other.py", "new.yml"), {}).dataflow
    assert after.node("a").deploy.labels == {"version": "1.10", "gpu": "True"}
    first, second = running.descriptor["nodes"]
    assert first["parameters"] == {"gain": 1.1}
    assert (second["args"], second["python"]) == (["--version", "3.10"], {"version": "3.20"})


def test_a_replacement_keeps_what_belongs_to_the_inputs_and_outputs_that_it_keeps() -> None:
    text = """
nodes:
  - {id: s, path: s.py, outputs: [l, r]}
  - id: a
    path: a.py
    inputs: {l: s/l, r: s/r}
    sync: [{inputs: [l, r], tolerance: 5ms}]
    outputs: [lines, log]
    send_stdout_as: lines
    send_logs_as: log
    pattern: service-server
"""
    running = parse(text, working_dir="/w", environ={})
    former = running.node("a")

    def replaced(fields: str) -> NodeSpec:
        operation = ReplaceOperation("a", f"{{path: other.py, {fields}}}", "new.yml")
        return with_replaced(running, operation, {}).dataflow.node("a")

    same = replaced("")
    assert (same.syncs, same.log, same.pattern) == (former.syncs, former.log, former.pattern)
    other_inputs = replaced("inputs: {l: s/l}")
    assert (other_inputs.syncs, other_inputs.log, other_inputs.pattern) == ((), former.log, None)
    other_outputs = replaced("outputs: [lines]")
    assert (other_outputs.syncs, other_outputs.log) == (former.syncs, LogOptions())


def test_values_of_the_operation_go_before_the_environment_of_the_daemon(running: Dataflow) -> None:
    text, own, daemons = "path: c.py\nenv: {ROOM: $ROOM, HOME: $HOME}", {"ROOM": "hall"}, {"ROOM": "cellar"}
    environ = {**daemons, "HOME": "/root"}
    added = with_node(running, AddOperation(f"id: c\n{text}", "new.yml", env=own), environ)
    replaced = with_replaced(running, ReplaceOperation("b", text, "new.yml", env=own), environ)
    for change in (added, replaced):
        assert change.dataflow.node(change.node_id).env == {"ROOM": "hall", "HOME": "/root"}


def test_a_change_has_no_warnings_about_what_runs_already() -> None:
    text = TEXT + "  - {id: t, path: t.py, inputs: {x: a/o}, input_types: {x: std/math/v1/Vector3}}\n"
    running = parse(text, working_dir="/w", environ={"ROOM": "kitchen"}, file="/w/df.yml")
    assert len(running.type_warnings) == 1
    assert add(running, "{id: c, path: c.py}").warnings == ()
    change = with_replaced(running, ReplaceOperation("a", "path: c.py", "new.yml"), {})
    assert change.warnings == ()


def test_a_warning_about_a_running_node_has_no_place_in_a_file(running: Dataflow) -> None:
    vector = "path: c.py\noutput_types: {o: std/math/v1/Vector3}"
    typed = with_replaced(
        running, ReplaceOperation("b", "path: b.py\ninput_types: {i: std/media/v1/Image}"), {}
    )
    change = with_replaced(typed.dataflow, ReplaceOperation("a", vector, "new.yml"), {})
    (warning,) = change.warnings
    assert "`b` expects `std/media/v1/Image`, but `a/o` sends" in warning.message
    assert (warning.line, warning.source) == (0, "")


def test_what_is_said_about_an_input_goes_with_it() -> None:
    text = TEXT.replace("{i: a/o}", "{i: a/o}\n    input_types: {i: std/media/v1/Image}")
    running = parse(text, working_dir="/w", environ={"ROOM": "kitchen"}, file="/w/df.yml")
    lefts = [
        without_node(running, "a"),
        without_link(running, DisconnectOperation("a/o", "b/i")).dataflow,
    ]
    for left in lefts:
        again = parse(json.dumps(left.descriptor), working_dir="/w", environ={"ROOM": "kitchen"})
        assert again.type_warnings == ()
        agrees(left)


def test_a_node_that_the_user_has_started_cannot_be_replaced() -> None:
    running = parse("nodes: [{id: a, path: dynamic}]", working_dir="/w", environ={})
    with pytest.raises(DoraError, match="is started by you"):
        with_replaced(running, ReplaceOperation("a", "path: a.py", "new.yml"), {})


def test_a_node_that_does_not_run_cannot_be_removed(running: Dataflow) -> None:
    with pytest.raises(DoraError, match="no node `bb`; did you mean `b`"):
        make_change(RemoveOperation("bb"), running, {})
    assert len(make_change(RemoveOperation("b"), running, {}).dataflow.nodes) == 3


def test_a_link_from_the_only_operator_of_a_node_may_be_named_without_it() -> None:
    text = """
nodes:
  - {id: r, operators: [{id: p, python: p.py, outputs: [y]}]}
  - {id: b, path: b.py, inputs: {i: r/p/y}}
"""
    running = parse(text, working_dir="/w", environ={})
    for source in ("r/y", "r/p/y"):
        change = without_link(running, DisconnectOperation(source, "b/i"))
        assert (inputs(change.dataflow, "b"), change.removed) == ({}, f"{source} -> b/i")


def test_only_a_replacement_is_another_program(running: Dataflow) -> None:
    former, text = {"a program": 2}, "path: c.py"
    operations: list[tuple[TopologyOperation, dict[str, int], float | None]] = [
        (ReplaceOperation("a", text, grace=1.5), {"a program": 7}, 1.5),
        (ReplaceOperation("b", text), {"a program": 2, "b program": 7}, None),
        (AddOperation(f"id: c\n{text}"), former, None),
        (RemoveOperation("b", grace=2.5), former, 2.5),
        (ConnectOperation("a/o", "b/j"), former, None),
        (DisconnectOperation("a/o", "b/i"), former, None),
    ]
    for operation, generations, grace in operations:
        change = make_change(operation, running, {})
        proposal = proposal_of(change, operation, 7, former)
        assert (proposal.revision, proposal.generations, proposal.grace) == (7, generations, grace)
