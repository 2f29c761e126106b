"""Safe states of outputs in a dataflow file."""

from __future__ import annotations

import pytest

from dora import dataflow as dataflows
from dora.builder import DataflowBuilder
from dora.dataflow.graph import flowchart, graph_of
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.errors import DataflowError
from dora.wire.output_rules import SafeState

FILE = """nodes:
  - id: planner
    path: planner.py
    outputs:
      - command:
          safe_state: {%s}
  - {id: motor, path: motor.py, inputs: {command: planner/command}}
"""


def parse(text: str) -> Dataflow:
    return dataflows.parse(text, working_dir="/nowhere", environ={})


def safe_state(options: str, file: str = FILE) -> SafeState:
    found = parse(file % options).node("planner").output_rules["command"].safe_state
    assert found is not None
    return found


def test_the_fields_of_a_safe_state() -> None:
    options = "value: [0, 0.5], type: float32, metadata: {mode: hold, gains: [1, 2]}, silence: 100ms"
    assert safe_state(f"{options}, when: [silent, failed]") == SafeState(
        (0, 0.5), "float32", ("silent", "failed"), {"mode": "hold", "gains": [1, 2]}, 100_000_000
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [("0", "int64"), ("[0, 1.5]", "float64"), ("true", "bool"), ("hold", "string"), ("[]", "int64")],
)
def test_without_a_type_it_is_that_of_the_values(value: str, kind: str) -> None:
    assert safe_state(f"value: {value}").type == kind


def test_without_conditions_it_has_all_that_are_possible() -> None:
    assert safe_state("value: 0").when == ("failed",)
    assert safe_state("value: 0, silence: 1s").when == ("failed", "silent")


def test_a_deadline_of_an_input_is_a_condition() -> None:
    file = FILE.replace("command: planner/command", "command: {source: planner/command, deadline: 50ms}")
    assert safe_state("value: 0", file).when == ("deadline", "failed")
    assert safe_state("value: 0, when: [deadline]", file).when == ("deadline",)


def test_the_type_is_the_declared_one_of_the_output() -> None:
    typed = FILE.replace("    outputs:", "    output_types: {command: std/core/v1/Float32}\n    outputs:")
    assert safe_state("value: [0, 0]", typed).type == "float32"


def test_receivers_get_it_with_the_plan() -> None:
    dataflow = parse(FILE % "value: [0, 0], type: float32, silence: 100ms")
    planned = plan(dataflow, RunContext(dataflow_id="0", run_dir="", prefix="", board=""))
    config = planned.configs["motor"].inputs[0].source_rules.safe_state
    assert config is not None
    assert (config.values, config.type, config.when) == ((0, 0), "float32", ("failed", "silent"))
    assert config.silence_ns == 100_000_000


def test_the_graph_shows_it() -> None:
    assert "safe state" in flowchart(graph_of(parse(FILE % "value: 0")))


def test_the_builder_writes_it() -> None:
    builder = DataflowBuilder("flow")
    planner = builder.add_node("planner", path="planner.py")
    command = planner.add_output("command", safe_state={"value": [0, 0], "type": "uint8"})
    builder.add_node("motor", path="motor.py").add_input("command", command)
    options = parse(builder.to_yaml()).node("planner").output_rules["command"]
    assert options.safe_state == SafeState((0, 0), "uint8", ("failed",))


@pytest.mark.parametrize(
    ("marked", "message", "hint"),
    [
        ("«type»: uint8", "the field `value` of `safe_state` is missing", ""),
        ("value: «{x: 1}»", "expected a finite number, a flag or a text", "`value: [0.0, 0.0]`"),
        ("value: [0, «300»], type: uint8", "`300` is not a value of the type `uint8`", "another `type`"),
        ("value: [«0.5»], type: int32", "`0.5` is not a value of the type `int32`", "another `type`"),
        ("value: [0, «true»]", "`true` is not a value of the type", ""),
        ("value: «hold», type: bool", "the text `hold` is not a value of the type `bool`", "another"),
        ("value: «1.0e39», type: float32", "is not a value of the type `float32`", "another `type`"),
        ("value: 0, type: «float»", "is not one of", "did you mean `float64`?"),
        ("value: 0, when: «[]»", "has no condition", "leave out `when`"),
        ("value: 0, when: [«crashed»]", "is not one of", ""),
        ("value: 0, when: [failed, «deadline»]", "no input that the output `command` of", "silence: 50ms"),
        ("value: 0, when: [«budget»]", "no path with `on_miss: safe_state` ends at an input", "paths: [{"),
        ("value: 0, when: [«silent»]", "needs the time that counts as silence", "add `silence: 100ms`"),
        ("value: 0, when: [failed], «silence»: 1s", "is for the condition `silent`", "[failed, silent]"),
        ("value: 0, silence: «100»", "a duration with its unit", "write `100ms`"),
        ("value: [0.0, «.inf»]", "expected a finite number", "`value: [0.0, 0.0]`"),
        ("value: 0, metadata: {«timestamp»: now}", "`timestamp` is the time", "another name"),
        ("value: 0, metadata: {a: 1, «safe_state»: hold}", "`safe_state` is the reason", "another name"),
        ("value: 0, metadata: «hold»", "expected a mapping of metadata", "`metadata: {mode: hold}`"),
    ],
)
def test_problems(marked: str, message: str, hint: str) -> None:
    with pytest.raises(DataflowError) as caught:
        parse(FILE % marked.replace("«", "").replace("»", ""))
    (problem,) = [problem for problem in caught.value.problems if problem.severity == "error"]
    assert message in problem.message
    assert hint in (problem.hint or "")
    if "missing" not in message:
        line = "          safe_state: {" + marked.partition("«")[0]
        assert (problem.line, problem.column) == (6, len(line) + 1)


def test_an_output_of_lines_has_none() -> None:
    text = FILE.replace("    outputs:", "    send_stdout_as: command\n    outputs:")
    with pytest.raises(DataflowError, match="`send_stdout_as` sends lines of text there"):
        parse(text % "value: 0")


def test_an_output_of_structs_has_none() -> None:
    typed = FILE.replace("    outputs:", "    output_types: {command: std/control/v1/Twist}\n    outputs:")
    with pytest.raises(DataflowError, match="a safe value consists of numbers, flags or texts"):
        parse(typed % "value: 0")


def test_an_output_of_synchronised_inputs_has_none() -> None:
    inputs = "inputs: {command: planner/command, b: planner/command}"
    group = "sync: [{inputs: [command, b], tolerance: 5ms}]"
    text = FILE.replace("inputs: {command: planner/command}", f"{inputs}, {group}")
    with pytest.raises(DataflowError, match="which is in a `sync` group: a safe value would wait there"):
        parse(text % "value: 0")


PATH = "paths: [{from: planner/command, to: motor/command, budget: 40ms, on_miss: safe_state}]\n"


def test_a_budget_of_a_path_is_a_condition() -> None:
    assert safe_state("value: 0", FILE + PATH).when == ("budget", "failed")
    assert safe_state("value: 0, when: [budget]", FILE + PATH).when == ("budget",)


def test_a_path_needs_a_safe_state_for_its_misses() -> None:
    text = FILE.replace("      - command:\n          safe_state: {%s}\n", "      - command\n") + PATH
    with pytest.raises(DataflowError) as caught:
        parse(text)
    (problem,) = caught.value.problems
    assert "the output `planner/command`, which feeds `motor/command`, has no safe state" in problem.message
    assert problem.hint == "give it one: `- command: {safe_state: {value: [0.0]}}`"
    line = text.splitlines()[problem.line - 1]
    assert line[problem.column - 1 :].startswith("safe_state}]")


def test_a_path_and_the_conditions_of_the_safe_state_do_not_contradict_each_other() -> None:
    with pytest.raises(DataflowError) as caught:
        parse(FILE % "value: 0, when: [failed]" + PATH)
    (problem,) = caught.value.problems
    assert problem.message == (
        "the path from `planner/command` to `motor/command` has `on_miss: safe_state`, but `when` of the "
        "output `command` of node `planner` lacks `budget`"
    )
    assert problem.hint == "write `when: [failed, budget]`, or another `on_miss`"
    assert (problem.line, problem.column) == (6, 40)
