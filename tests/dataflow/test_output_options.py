"""Outputs with options, in YAML and in the builder: what they mean, and which are refused."""

from __future__ import annotations

import pytest

import dora.dataflow
from dora.builder import DataflowBuilder
from dora.dataflow.graph import flowchart, graph_of
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.errors import DataflowError
from dora.wire.output_rules import LatchRule, OutputRules

CONTEXT = RunContext(dataflow_id="d", run_dir="/r", prefix="dora_r_", board="/b")


def parsed(text: str) -> Dataflow:
    return dora.dataflow.parse(text, working_dir="/w", environ={})


def check(marked: str, message: str, hint: str) -> None:
    """Expect exactly one error, under the marked characters."""
    with pytest.raises(DataflowError) as caught:
        parsed(marked.replace("«", "").replace("»", ""))
    (problem,) = caught.value.problems
    before, _, rest = marked.partition("«")
    assert message in problem.message
    assert hint in problem.hint if hint else not problem.hint
    assert (problem.line, problem.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))
    assert problem.source[problem.column - 1 :][: problem.width] == rest.partition("»")[0]


def test_an_output_is_a_name_or_a_name_with_options() -> None:
    dataflow = parsed(
        """
nodes:
  - id: a
    path: a.py
    outputs:
      - plain
      - empty: {}
      - map: {latched: 2}
      - limits: {latched: {depth: 3, survive_restart: true}}
  - id: rt
    operators:
      - {id: one, python: 1.py, inputs: {map: a/map}, outputs: [{box: {latched: {}}}]}
"""
    )
    a, runtime = dataflow.nodes
    assert a.outputs == ("plain", "empty", "map", "limits")
    assert a.output_rules == {
        "map": OutputRules(latched=LatchRule(2)),
        "limits": OutputRules(latched=LatchRule(3, survive_restart=True)),
    }
    assert runtime.output_rules == {"one/box": OutputRules(latched=LatchRule(1))}
    config = plan(dataflow, CONTEXT).configs["rt"]
    assert config.outputs[0].latched is not None
    assert config.inputs[0].source_rules.latched
    assert config.run_config["outputs"] == ["one/box"]


def test_programs_see_the_names_of_outputs_alone() -> None:
    dataflow = parsed("nodes: [{id: a, path: a.py, outputs: [{map: {latched: 1}}, b]}]")
    described = dora.dataflow.describe.describe(dataflow)
    assert described["nodes"][0]["outputs"] == ["b", "map"]


def test_a_graph_shows_latched_outputs() -> None:
    dataflow = parsed(
        "nodes:\n"
        "  - {id: a, path: a.py, outputs: [{map: {latched: 2}}]}\n"
        "  - {id: b, path: b.py, inputs: {map: a/map}}\n"
    )
    graph = graph_of(dataflow)
    assert [rule.label for edge in graph.edges for rule in edge.rules] == ["latched 2"]
    assert "map, latched 2" in flowchart(graph)


def test_an_output_has_a_priority_between_machines() -> None:
    dataflow = parsed(
        "nodes:\n"
        "  - id: a\n    path: a.py\n"
        "    outputs: [{stop: {priority: control}}, {map: {latched: 1, priority: bulk}}, x]\n"
        "  - {id: rt, operators: [{id: one, python: 1.py, outputs: [{box: {priority: normal}}]}]}\n"
    )
    outputs = plan(dataflow, CONTEXT).configs["a"].outputs
    assert {output.id: output.priority for output in outputs} == {
        "stop": "control",
        "map": "bulk",
        "x": None,
    }
    assert outputs[1].latched is not None
    assert plan(dataflow, CONTEXT).configs["rt"].outputs[0].priority == "normal"


def test_a_sender_knows_the_greatest_age_at_its_receivers() -> None:
    dataflow = parsed(
        "nodes:\n"
        "  - {id: a, path: a.py, outputs: [x]}\n"
        "  - {id: b, path: b.py, inputs: {x: {source: a/x, max_age: 100ms}, y: a/x}}\n"
    )
    links = plan(dataflow, CONTEXT).configs["a"].outputs[0].links
    assert {link.consumer: link.max_age_ns for link in links} == {"b/x": 100_000_000, "b/y": 0}


def test_a_builder_writes_options() -> None:
    builder = DataflowBuilder()
    node = builder.add_node("a", path="a.py")
    node.add_output("map", latched=1)
    node.add_output("limits")
    node.add_output("limits", latched={"depth": 2, "survive_restart": True}, priority="bulk")
    assert str(node.add_output("limits")) == "a/limits"
    (found,) = parsed(builder.to_yaml() or "").nodes
    assert found.outputs == ("map", "limits")
    assert found.output_rules["limits"] == OutputRules(
        latched=LatchRule(2, survive_restart=True), priority="bulk"
    )


@pytest.mark.parametrize(
    ("outputs", "message", "hint"),
    [
        ("[{x: {latched: «0»}}]", "keeps 1 to 1000 messages, not 0", "leave `latched` out"),
        ("[{x: {latched: «-3»}}]", "keeps 1 to 1000 messages, not -3", "leave `latched` out"),
        ("[{x: {latched: {depth: «100000»}}}]", "keeps 1 to 1000 messages", "`latched: 1`"),
        ("[{x: {latched: «true»}}]", "expected how many messages are kept, found `true`", "write `1`"),
        ("[{x: {latched: {«dept»: 1}}}]", "`latched` has no field `dept`", "`depth`?"),
        ("[{x: {latched: {survive_restart: «1»}}}]", "expected `true` or `false`", "`true`"),
        ("[{x: {priority: «bulky»}}]", "`bulky` is not one of", "`bulk`?"),
        ("[{x: {priority: «1»}}]", "`1` is not one of `control`, `normal`", ""),
        ("[{x: {«latch»: 1}}]", "an output has no field `latch`", "`latched`?"),
        ("[{x: «1»}]", "expected a mapping for an output", "{latched: 1}"),
        ("[«{x: }»]", "expected the id of an input or output", "write `x`"),
        ("[«{id: x, latched: 1}»]", "an output is a name, or a name with its options", "- map:"),
        ("«{x: {latched: 1}}»", "expected a list of output ids, found a mapping", "`-`"),
        ("[x, «{x: {latched: 1}}»]", "`x` is listed twice", "keep"),
    ],
)
def test_options_that_cannot_be(outputs: str, message: str, hint: str) -> None:
    check(f"nodes:\n  - id: a\n    path: a.py\n    outputs: {outputs}\n", message, hint)


def test_a_latched_output_has_no_receiver_that_makes_it_wait() -> None:
    check(
        "nodes:\n"
        "  - {id: a, operator: {python: a.py, outputs: [{map: {latched: 1}}]}}\n"
        "  - id: b\n    path: b.py\n    inputs:\n"
        "      map: {source: a/map, queue_policy: «backpressure»}\n",
        "the input `map` of node `b` makes its sender wait, but `a/map` is latched",
        "remove `queue_policy: backpressure`",
    )


def test_answers_are_not_latched() -> None:
    check(
        "nodes:\n  - id: a\n    path: a.py\n    pattern: service-server\n"
        "    outputs: [{answer: {«latched»: 1}}]\n",
        "the output `answer` of node `a` cannot be latched, because node `a` declares "
        "`pattern: service-server`",
        "from a node without `pattern`",
    )


def test_lines_of_text_are_not_latched() -> None:
    check(
        "nodes:\n  - id: a\n    path: a.py\n    send_stdout_as: log\n"
        "    outputs: [{log: {«latched»: 1}}]\n",
        "the output `log` of node `a` cannot be latched: `send_stdout_as` sends lines of text there",
        "remove `latched`",
    )


def test_options_of_an_output_in_a_module_count(tmp_path) -> None:
    (tmp_path / "m.yml").write_text(
        "module: {name: m, outputs: [map]}\n"
        "nodes:\n  - {id: server, path: s.py, outputs: [{map: {latched: 4}}]}\n"
    )
    (tmp_path / "flow.yml").write_text(
        "nodes:\n  - {id: maps, module: m.yml}\n  - {id: b, path: b.py, inputs: {map: maps/map}}\n"
    )
    dataflow = dora.dataflow.load(tmp_path / "flow.yml")
    assert dataflow.node("maps.server").output_rules == {"map": OutputRules(latched=LatchRule(4))}
