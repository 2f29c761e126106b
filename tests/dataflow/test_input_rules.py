"""Every rule of inputs that is declared reaches everything that has to carry it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from rule_values import value_of

from dora.builder import DataflowBuilder
from dora.cli.commands.node import connect
from dora.dataflow import parse
from dora.dataflow.edit import with_link
from dora.dataflow.graph import flowchart, graph_of
from dora.dataflow.layout import Link, RunContext
from dora.dataflow.model import Dataflow, InputSpec
from dora.dataflow.parser.fields import INPUT
from dora.dataflow.plan import plan
from dora.dataflow.rules import input_rules_in_yaml
from dora.errors import DataflowError
from dora.wire.input_rules import INPUT_RULES, InputOptions, InputRule, InputRules
from dora.wire.node_config import InputConfig, LinkConfig
from dora.wire.operations import ConnectOperation

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "dataflow-yaml.md").read_text()
MANUAL = PAGE.partition("\n## Inputs\n")[2].partition("\n## ")[0]
rules = pytest.mark.parametrize("rule", INPUT_RULES, ids=lambda rule: rule.name)
rules_of_messages = pytest.mark.parametrize(
    "rule", [rule for rule in INPUT_RULES if rule.source != "timer"], ids=lambda rule: rule.name
)


def parsed(text: str) -> Dataflow:
    return parse(text, working_dir="/w", environ={}, file="/w/flow.yml")


def dataflow_with(rule: InputRule) -> Dataflow:
    source = "dora/timer/millis/50" if rule.source == "timer" else "a/x"
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py").add_output("x")
    builder.add_node("b", path="b.py").add_input("i", source, **{rule.name: value_of(rule)})
    return parsed(builder.to_yaml() or "")


def test_the_records_have_the_same_rules_as_the_table() -> None:
    assert {rule.attribute for rule in INPUT_RULES} == set(InputRules.__struct_fields__)
    assert set(InputOptions.__struct_fields__) == {
        rule.name for rule in INPUT_RULES if rule.source != "timer"
    }


@rules
def test_yaml_and_builder_have_a_rule_and_the_manual_explains_it(rule: InputRule) -> None:
    assert INPUT.fields[rule.name].description == rule.description
    assert f"| `{rule.name}` |" in MANUAL
    (item,) = dataflow_with(rule).node("b").inputs
    assert getattr(item, rule.attribute) != getattr(InputRules(), rule.attribute)
    assert input_rules_in_yaml(item) == {rule.name: value_of(rule)}


@rules
def test_a_node_and_the_sender_get_a_rule(rule: InputRule) -> None:
    planned = plan(dataflow_with(rule), RunContext("id", "/r", "p", "/b"))
    (config,) = planned.configs["b"].inputs
    expected = getattr(dataflow_with(rule).node("b").inputs[0], rule.attribute)
    assert getattr(config, rule.attribute) == expected
    if rule.source != "timer":
        (link,) = planned.configs["a"].outputs[0].links
        assert getattr(link, rule.attribute) == expected
        assert getattr(planned.links[0], rule.attribute) == expected


@rules
def test_node_config_has_a_rule(rule: InputRule) -> None:
    planned = plan(dataflow_with(rule), RunContext("id", "/r", "p", "/b"))
    (written,) = planned.configs["b"].run_config["inputs"].values()
    assert written[rule.name] == value_of(rule)


@rules
def test_graphs_show_a_rule(rule: InputRule) -> None:
    found = graph_of(dataflow_with(rule))
    (edge,) = found.edges
    value = value_of(rule)
    words = " ".join(value) if rule.kind == "keys" else str(value)
    if rule.name not in ("queue_size", "queue_policy"):
        assert [item.name for item in edge.rules] == [rule.name]
        assert words in edge.rules[0].sentence
        assert edge.rules[0].sentence.endswith(".")
        assert "{}" not in edge.rules[0].label + edge.rules[0].sentence
    if rule.label:
        assert rule.label.format(words) in flowchart(found)
    else:
        assert words.partition(":")[0] not in flowchart(found)  # before what a flowchart escapes


@rules_of_messages
def test_a_link_that_is_added_later_may_have_a_rule(rule: InputRule) -> None:
    text = "nodes: [{id: a, path: a.py, outputs: [x]}, {id: b, path: b.py}]"
    value = tuple(value_of(rule)) if rule.kind == "keys" else value_of(rule)
    operation = ConnectOperation("a/x", "b/i", **{rule.name: value})
    (item,) = with_link(parsed(text), operation).dataflow.node("b").inputs
    assert input_rules_in_yaml(item) == {rule.name: value_of(rule)}
    assert f"--{rule.name.replace('_', '-')}" in [name for item in connect.params for name in item.opts]


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_description_is_refused(text: str) -> None:
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py").add_output("x")
    builder.add_node("b", path="b.py").add_input("i", "a/x", description=text)
    with pytest.raises(DataflowError, match="expected a description, found an empty text"):
        parsed(builder.to_yaml() or "")


@pytest.mark.parametrize("rule", [rule for rule in INPUT_RULES if rule.loses], ids=lambda rule: rule.name)
def test_a_rule_that_loses_messages_contradicts_back_pressure(rule: InputRule) -> None:
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py").add_output("x")
    receiver = builder.add_node("b", path="b.py")
    receiver.add_input("i", "a/x", queue_policy="backpressure", **{rule.name: value_of(rule)})
    with pytest.raises(DataflowError, match=f"`{rule.name}` .*gets every message"):
        parsed(builder.to_yaml() or "")


@pytest.mark.parametrize(
    "rule", [rule for rule in INPUT_RULES if rule.source != "any"], ids=lambda rule: rule.name
)
def test_a_rule_is_refused_at_a_source_that_it_is_not_for(rule: InputRule) -> None:
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py").add_output("x")
    source = "a/x" if rule.source == "timer" else "dora/timer/millis/50"
    builder.add_node("b", path="b.py").add_input("i", source, **{rule.name: value_of(rule)})
    with pytest.raises(DataflowError, match=f"`{rule.name}`"):
        parsed(builder.to_yaml() or "")


@rules
def test_the_builder_names_a_rule_in_its_signature(rule: InputRule) -> None:
    parameters = inspect.signature(DataflowBuilder().add_node("n", path="n.py").add_input).parameters
    assert rule.name in parameters


def test_all_records_of_an_input_carry_the_same_rules() -> None:
    assert all(issubclass(record, InputRules) for record in (InputSpec, Link, LinkConfig, InputConfig))
