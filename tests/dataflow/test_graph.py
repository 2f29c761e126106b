"""The graph of a dataflow: boxes, groups and edges, and the same as a Mermaid flowchart."""

from __future__ import annotations

import json
from textwrap import dedent

import msgspec
import pytest

from dora.builder import DataflowBuilder
from dora.dataflow import load, parse
from dora.dataflow.graph import Box, Edge, EdgeRule, Graph, Group, flowchart, graph_of


def graph(text: str) -> Graph:
    return graph_of(parse(dedent(text), working_dir="/", environ={}))


@pytest.fixture
def robot() -> Graph:
    return graph(
        """
        nodes:
          - id: camera
            name: Front camera
            description: Reads the camera.
            path: camera.py
            args: --fps 30
            inputs: {tick: dora/timer/hz/30, goal: ui/goal}
            outputs: [image, lines]
            send_stdout_as: lines
          - id: eyes
            operators:
              - id: resize
                python: resize.py
                inputs: {image: {source: camera/image, queue_size: 1}}
                outputs: [image]
              - id: detect
                name: Detector
                python: detect.py
                inputs: {image: eyes/resize/image}
                outputs: [bbox]
          - id: plan
            operator:
              python: plan.py
              inputs: {bbox: eyes/detect/bbox, tick: dora/timer/hz/30}
              outputs: [command]
          - id: ui
            path: dynamic
            inputs:
              command: {source: plan/command, queue_policy: backpressure, input_timeout: 2.5}
              lines: camera/lines
              logs: dora/logs/warn/camera
            outputs: [goal]
        """
    )


def box(graph: Graph, id: str) -> Box:
    (found,) = [box for box in graph.boxes if box.id == id]
    return found


def edge(graph: Graph, target: str, input: str) -> Edge:
    (found,) = [edge for edge in graph.edges if (edge.target, edge.input) == (target, input)]
    return found


def test_nodes_operators_and_sources_of_dora_are_boxes(robot: Graph) -> None:
    assert {box.id: box.kind for box in robot.boxes} == {
        "dora/timer/hz/30": "timer",
        "dora/logs/warn/camera": "logs",
        "camera": "node",
        "eyes/resize": "operator",
        "eyes/detect": "operator",
        "plan": "operator",
        "ui": "dynamic",
    }
    assert box(robot, "camera") == Box(
        id="camera",
        label="Front camera",
        kind="node",
        program="camera.py --fps 30",
        description="Reads the camera.",
        inputs=("tick", "goal"),
        outputs=("image", "lines"),
    )
    assert box(robot, "ui").program == ""
    assert box(robot, "eyes/detect").label == "Detector"


def test_several_operators_are_a_group_and_a_single_one_is_a_box(robot: Graph) -> None:
    assert robot.groups == (Group("eyes", "eyes", "runtime"),)
    assert {box.id for box in robot.boxes if box.group == "eyes"} == {"eyes/resize", "eyes/detect"}
    assert box(robot, "plan").group is None


def test_edges_know_the_qos_of_their_input() -> None:
    found = graph(
        """
        nodes:
          - {id: a, path: a.py, outputs: [x]}
          - id: b
            path: b.py
            inputs:
              i: {source: a/x, queue_policy: latest, deadline: 0.05s, max_age: 1500us,
                  rate: 30Hz, keep: [s, t]}
        """
    )
    (edge,) = found.edges
    assert (edge.queue_policy, edge.queue_size) == ("latest", 1)
    assert {rule.name: rule.sentence for rule in edge.rules} == {
        "deadline": "Deadline: a message at least every 50ms.",
        "max_age": "Messages older than 1.5ms expire.",
        "rate": "At most 30hz.",
        "keep": "Never dropped: messages with s t.",
    }
    assert "x → i, latest, deadline 50ms, max age 1.5ms, 30hz, keeps s t" in flowchart(found)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("The road ahead", "The road ahead."),
        ("The road ahead.", "The road ahead."),
        ("Is it on?", "Is it on?"),
        ("Stop!", "Stop!"),
        ("Left, right, …", "Left, right, …"),
        ("{braces} stay\n", "{braces} stay."),
    ],
)
def test_descriptions_are_shown_as_written_with_a_stop_if_they_have_none(written: str, shown: str) -> None:
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py").add_output("x", description=written)
    builder.add_node("b", path="b.py").add_input("i", "a/x", description=written)
    (found,) = graph(builder.to_yaml() or "").edges
    assert [rule.sentence for rule in found.rules] == [
        f"Description: {shown}",
        f"Description of the input: {shown}",
    ]


def test_edges_say_what_a_late_receiver_of_a_latched_output_gets() -> None:
    found = graph(
        "nodes: [{id: a, path: a, outputs: [x: {latched: 2}]}, {id: b, path: b, inputs: {i: a/x}}]"
    )
    assert [rule.sentence for rule in found.edges[0].rules] == [
        "A receiver that joins late first gets the newest 2 messages."
    ]


def test_edges_know_their_contract(robot: Graph) -> None:
    assert edge(robot, "eyes/resize", "image") == Edge(
        "camera", "image", "eyes/resize", "image", "link", 1, "drop_oldest", asks_for_drops=True
    )
    timeout = EdgeRule("input_timeout", "timeout 2.5 s", "Closes after 2.5 s of silence.")
    assert edge(robot, "ui", "command") == Edge(
        "plan", "command", "ui", "command", "link", 10, "backpressure", (timeout,)
    )
    kinds = {f"{edge.target}/{edge.input}": edge.kind for edge in robot.edges}
    assert kinds == {
        "camera/tick": "timer",
        "camera/goal": "link",
        "eyes/resize/image": "link",
        "eyes/detect/image": "local",
        "plan/bbox": "link",
        "plan/tick": "timer",
        "ui/command": "link",
        "ui/lines": "text",
        "ui/logs": "text",
    }
    assert edge(robot, "plan", "tick").source == "dora/timer/hz/30"


def test_edges_know_the_type_of_their_messages() -> None:
    typed = graph(
        """
        nodes:
          - id: a
            path: a.py
            outputs: [image, other]
            output_types: {image: std/media/v1/Image}
          - id: b
            operators:
              - id: o
                python: b.py
                inputs: {image: a/image, other: a/other}
        """
    )
    assert [edge.type for edge in typed.edges] == ["std/media/v1/Image", ""]


def test_every_edge_joins_ports_that_exist(robot: Graph) -> None:
    for edge in robot.edges:
        assert edge.output in box(robot, edge.source).outputs
        assert edge.input in box(robot, edge.target).inputs


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("dora/timer/hz/29.97", "29.97 Hz"),
        ("dora/timer/30hz", "30hz"),
        ("dora/timer/5ms", "every 5ms"),
        ("dora/timer/millis/50", "every 50 ms"),
        ("dora/timer/secs/2", "every 2 s"),
        ("dora/timer/micros/500", "every 500 µs"),
        ("dora/logs", "all logs"),
        ("dora/logs/error", "logs: error and worse"),
        ("dora/logs/info/b", "logs: info and worse of b"),
    ],
)
def test_dora_sources_are_labelled_in_words(source: str, label: str) -> None:
    nodes = f"nodes:\n  - id: a\n    path: a.py\n    inputs: {{x: {source}}}\n  - id: b\n    path: b.py\n"
    assert graph(nodes).boxes[0].label == label


def test_modules_are_groups_and_their_nodes_are_called_as_inside(tmp_path) -> None:
    (tmp_path / "inner.yml").write_text(
        "module: {name: inner, inputs: [x], outputs: [y]}\n"
        "nodes:\n  - id: b\n    path: b.py\n    inputs: {x: _mod/x}\n    outputs: [y]\n"
    )
    (tmp_path / "outer.yml").write_text(
        "module: {name: outer, inputs: [x], outputs: [y]}\n"
        "nodes:\n"
        "  - id: a\n    operators:\n      - id: op1\n        python: a.py\n        inputs: {x: _mod/x}\n"
        "        outputs: [z]\n"
        "  - id: deep\n    module: inner.yml\n    inputs: {x: a/op1/z}\n"
    )
    (tmp_path / "dataflow.yml").write_text(
        "nodes:\n  - id: s\n    path: s.py\n    outputs: [x]\n"
        "  - id: pipe\n    module: outer.yml\n    inputs: {x: s/x}\n"
    )
    modular = graph_of(load(tmp_path / "dataflow.yml"))
    assert modular.groups == (
        Group("pipe", "pipe", "module"),
        Group("pipe.deep", "deep", "module", "pipe"),
        Group("pipe.a", "a", "runtime", "pipe"),
    )
    assert [(box.id, box.label, box.group) for box in modular.boxes] == [
        ("s", "s", None),
        ("pipe.a/op1", "op1", "pipe.a"),
        ("pipe.deep.b", "b", "pipe.deep"),
    ]


def test_the_graph_is_written_as_json(robot: Graph) -> None:
    data = json.loads(msgspec.json.encode(robot))
    assert list(data) == ["boxes", "groups", "edges"]
    assert msgspec.json.decode(json.dumps(data), type=Graph) == robot


def test_flowchart(robot: Graph) -> None:
    assert flowchart(robot) == dedent(
        """\
        flowchart LR
          subgraph runtime_eyes["eyes"]
            operator_eyes_resize(["resize"])
            operator_eyes_detect(["Detector"])
          end
          timer_dora_timer_hz_30(("30 Hz"))
          logs_dora_logs_warn_camera[("logs: warn and worse of camera")]
          node_camera["Front camera"]
          operator_plan(["plan"])
          dynamic_ui[/"ui"/]
          timer_dora_timer_hz_30 -.->|"tick"| node_camera
          dynamic_ui -->|"goal"| node_camera
          node_camera -->|"image, queue 1"| operator_eyes_resize
          operator_eyes_resize -->|"image"| operator_eyes_detect
          operator_eyes_detect -->|"bbox"| operator_plan
          timer_dora_timer_hz_30 -.->|"tick"| operator_plan
          operator_plan -->|"command, backpressure, timeout 2.5 s"| dynamic_ui
          node_camera -.->|"lines"| dynamic_ui
          logs_dora_logs_warn_camera -.->|"logs"| dynamic_ui
        """
    )


def test_flowchart_with_words_that_mean_something_in_mermaid() -> None:
    text = flowchart(
        graph(
            """
            nodes:
              - id: end
                name: 'say "<b>#1</b>"'
                path: a.py
                outputs: [click]
              - id: a.b
                path: a.py
                inputs: {x: end/click}
              - id: a_b
                path: a.py
            """
        )
    )
    assert 'node_end["say #quot;&lt;b&gt;#35;1&lt;/b&gt;#quot;"]' in text
    assert 'node_end -->|"click → x"| node_a_b\n' in text
    names = [line.split("[")[0].strip() for line in text.splitlines() if "[" in line]
    assert len(set(names)) == 3


def test_a_source_that_is_written_in_two_ways_is_one_box() -> None:
    found = graph(
        """
        nodes:
          - {id: a, path: a.py, inputs: {t: dora/timer/50ms, u: dora/timer/millis/50, l: dora/logs}}
          - {id: b, path: b.py, inputs: {t: dora/timer/20hz, u: dora/timer/60ms, l: dora/logs/stdout}}
        """
    )
    given = [box.id for box in found.boxes if box.kind in ("timer", "logs")]
    assert sorted(given) == ["dora/logs", "dora/timer/50ms", "dora/timer/60ms"]
    assert {edge.source for edge in found.edges} == set(given)
