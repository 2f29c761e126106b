"""Every rule of outputs that is declared reaches everything that has to carry it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from rule_values import value_of

from dora.builder import DataflowBuilder
from dora.dataflow import describe, parse
from dora.dataflow.graph import flowchart, graph_of
from dora.dataflow.loader import expanded
from dora.dataflow.model import Dataflow
from dora.dataflow.parser.output_rules import OUTPUT
from dora.dataflow.plan import RunContext, plan
from dora.dataflow.rules import output_rules_in_words, output_rules_in_yaml
from dora.errors import DataflowError
from dora.recording.replay.replay_dataflow import ReplayRoles, replay_dataflow
from dora.wire.daemon_protocol import OutputView
from dora.wire.node_config import OutputConfig
from dora.wire.output_rules import OUTPUT_RULES, OutputRule, OutputRules, output_rules_of

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "dataflow-yaml.md").read_text()
MANUAL = PAGE.partition("\n## Outputs\n")[2].partition("\n## ")[0]
rules = pytest.mark.parametrize("rule", OUTPUT_RULES, ids=lambda rule: rule.name)


def parsed(text: str) -> Dataflow:
    return parse(text, working_dir="/w", environ={}, file="/w/flow.yml")


def builder_with(rule: OutputRule, **fields: Any) -> DataflowBuilder:
    """Return a dataflow of a sender `a`, whose output `x` has a rule, and a receiver `b`."""
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py", **fields).add_output("x", **{rule.name: value_of(rule)})
    builder.add_node("b", path="b.py").add_input("i", "a/x")
    return builder


def dataflow_with(rule: OutputRule) -> Dataflow:
    return parsed(builder_with(rule).to_yaml() or "")


def given(found: OutputRules) -> dict[str, Any]:
    return {name: value for name in OutputRules.__struct_fields__ if (value := getattr(found, name))}


def test_the_record_has_the_same_rules_as_the_table() -> None:
    assert {rule.name for rule in OUTPUT_RULES} == set(OutputRules.__struct_fields__)


def test_all_records_of_an_output_carry_the_same_rules() -> None:
    assert all(issubclass(record, OutputRules) for record in (OutputConfig, OutputView))


@rules
def test_yaml_and_builder_have_a_rule_and_the_manual_explains_it(rule: OutputRule) -> None:
    assert OUTPUT.fields[rule.name].description == rule.description
    assert f"| `{rule.name}` |" in MANUAL
    found = dataflow_with(rule).node("a").rules_of_output("x")
    assert given(found).keys() == {rule.name}
    assert output_rules_in_yaml(found) == {rule.name: value_of(rule)}


@rules
def test_the_builder_names_a_rule_in_its_signature(rule: OutputRule) -> None:
    parameters = inspect.signature(DataflowBuilder().add_node("n", path="n.py").add_output).parameters
    assert rule.name in parameters


@rules
def test_sender_receiver_and_observers_get_a_rule(rule: OutputRule) -> None:
    dataflow = dataflow_with(rule)
    configs = plan(dataflow, RunContext("id", "/r", "p", "/b")).configs
    expected = given(dataflow.node("a").rules_of_output("x"))
    (output,), (item,) = configs["a"].outputs, configs["b"].inputs
    assert given(output) == expected
    assert given(item.source_rules) == expected
    assert given(OutputView("x", 0, **output_rules_of(output))) == expected


@rules
def test_an_operator_may_have_a_rule(rule: OutputRule) -> None:
    builder = DataflowBuilder()
    operators = [{"id": "o", "python": "o.py", "outputs": [{"x": {rule.name: value_of(rule)}}]}]
    builder.add_node("a", operators=operators)
    found = parsed(builder.to_yaml() or "").node("a").rules_of_output("o/x")
    assert output_rules_in_yaml(found) == {rule.name: value_of(rule)}


@rules
def test_node_config_and_the_descriptor_have_a_rule_beside_the_names(rule: OutputRule) -> None:
    dataflow = dataflow_with(rule)
    written = plan(dataflow, RunContext("id", "/r", "p", "/b")).configs["a"].run_config
    for block in (written, describe.describe(dataflow)["nodes"][0]):
        assert block["outputs"] == ["x"]
        assert block["output_rules"] == {"x": {rule.name: value_of(rule)}}


@rules
def test_a_file_with_its_defaults_written_out_keeps_a_rule(rule: OutputRule, tmp_path: Path) -> None:
    text = builder_with(rule).to_yaml() or ""
    (tmp_path / "flow.yml").write_text(text)
    found = parsed(expanded(tmp_path / "flow.yml")).node("a").rules_of_output("x")
    assert output_rules_in_yaml(found) == {rule.name: value_of(rule)}


@rules
def test_graphs_and_descriptions_show_a_rule(rule: OutputRule) -> None:
    found = graph_of(dataflow_with(rule))
    (edge,) = found.edges
    ((shown, words),) = output_rules_in_words(dataflow_with(rule).node("a").rules_of_output("x"))
    assert shown is rule
    assert [item.name for item in edge.rules] == [rule.name]
    label, sentence = edge.rules[0].label, edge.rules[0].sentence
    assert words in sentence
    assert sentence.endswith(".")
    assert "{}" not in label + sentence
    if label:
        assert label in flowchart(found)
    else:
        assert words.partition(":")[0] not in flowchart(found)  # before what a flowchart escapes


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_description_is_refused(text: str) -> None:
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py").add_output("x", description=text)
    with pytest.raises(DataflowError, match="expected a description, found an empty text"):
        parsed(builder.to_yaml() or "")


@rules
@pytest.mark.parametrize("replaced", [True, False], ids=["a player", "the node itself"])
def test_a_replay_keeps_a_rule(rule: OutputRule, replaced: bool) -> None:
    roles = ReplayRoles(("a",), ("b",), ()) if replaced else ReplayRoles((), ("a", "b"), ())
    again = DataflowBuilder()
    replayed = replay_dataflow(dataflow_with(rule), roles, {})
    for node in replayed["nodes"]:
        again.add_node(**node)
    found = parsed(again.to_yaml() or "").node("a").rules_of_output("x")
    assert output_rules_in_yaml(found) == {rule.name: value_of(rule)}


@pytest.mark.parametrize(
    "rule", [rule for rule in OUTPUT_RULES if rule.not_of_text], ids=lambda rule: rule.name
)
def test_a_rule_is_refused_where_the_daemon_sends_lines_of_text(rule: OutputRule) -> None:
    text = builder_with(rule, send_logs_as="x").to_yaml() or ""
    with pytest.raises(DataflowError, match=f"cannot {rule.not_of_text}: `send_logs_as` sends") as caught:
        parsed(text)
    (problem,) = caught.value.problems
    assert problem.hint == f"remove `{rule.name}`"
    assert problem.source[problem.column - 1 :].startswith(rule.name)


@pytest.mark.parametrize(
    "rule", [rule for rule in OUTPUT_RULES if rule.no_backpressure], ids=lambda rule: rule.name
)
def test_a_rule_contradicts_receivers_that_make_the_sender_wait(rule: OutputRule) -> None:
    builder = builder_with(rule)
    builder.nodes[1].add_input("i", "a/x", queue_policy="backpressure")
    with pytest.raises(
        DataflowError, match=f"makes its sender wait, but `a/x` {rule.no_backpressure}"
    ) as caught:
        parsed(builder.to_yaml() or "")
    (problem,) = caught.value.problems
    assert problem.hint.endswith(f"or remove `{rule.name}` from the output")
    assert problem.source[problem.column - 1 :] == "backpressure"
