"""The field `ros2`: what its block means, and the sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dora.dataflow import parse
from dora.dataflow.graph import graph_of
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.ros2 import Ros2Block, Ros2BlockCalls, Ros2BlockQos, Ros2BlockTopic
from dora.errors import DataflowError

TOPIC = {"topic": "/chatter", "message_type": "std_msgs/String"}
SERVICE = {"service": "/add", "service_type": "example_interfaces/AddTwoInts"}
ACTION = {"action": "/fibonacci", "action_type": "example_interfaces/Fibonacci"}
OUT = {"outputs": ["out"]}
IN = {"inputs": {"in": "source/out"}}


def read(block: Any, **fields: Any) -> Dataflow:
    source = {"id": "source", "path": "source", "outputs": ["out"]}
    nodes = [source, {"id": "bridge", "ros2": block, **fields}]
    return parse(yaml.safe_dump({"nodes": nodes}), working_dir="/nowhere", environ={})


def node_of(block: Any, **fields: Any) -> NodeSpec:
    return read(block, **fields).node("bridge")


def block_of(block: Any, **fields: Any) -> Ros2Block:
    found = node_of(block, **fields).ros2
    assert found is not None
    return found


def errors_of(block: Any, **fields: Any) -> list[str]:
    with pytest.raises(DataflowError) as caught:
        read(block, **fields)
    return [problem.message for problem in caught.value.problems]


def test_a_topic_is_subscribed_to_unless_it_says_otherwise() -> None:
    topic = Ros2BlockTopic(**TOPIC, direction="subscribe", ports=("out",))
    assert block_of(TOPIC, **OUT) == Ros2Block((topic,))
    published = block_of({**TOPIC, "direction": "publish"}, **IN)
    assert published.topics[0].ports == ("in",)
    assert node_of(TOPIC, **OUT).path == "dora-ros2"


def test_outputs_for_logs_and_timers_as_inputs_are_no_messages() -> None:
    node = node_of(TOPIC, outputs=["out", "log"], send_logs_as="log")
    assert node.ros2 is not None
    assert node.ros2.topics[0].ports == ("out",)
    timed = {"in": "source/out", "tick": "dora/timer/1s"}
    assert block_of({**TOPIC, "direction": "publish"}, inputs=timed).topics[0].ports == ("in",)


@pytest.mark.parametrize("name", ["rosgraph_msgs/Clock", "rosgraph_msgs::msg::Clock"])
def test_a_timer_is_a_message_for_a_clock(name: str) -> None:
    clock = {"topic": "/clock", "message_type": name, "direction": "publish"}
    ticks = {"tick": "dora/timer/10ms"}
    assert block_of(clock, inputs=ticks).topics[0].ports == ("tick",)
    several = {"topics": [{**clock, "input": "tick"}]}
    assert block_of(several, inputs=ticks).topics[0].ports == ("tick",)
    text = {"topics": [{**TOPIC, "direction": "publish", "input": "tick"}]}
    (message,) = errors_of(text, inputs=ticks)
    assert message.endswith(" has no input `tick`")


def test_of_several_topics_each_names_its_port_or_has_the_name_of_the_topic() -> None:
    block = {
        "topics": [
            {"topic": "/turtle1/pose", "message_type": "turtlesim/Pose", "qos": {"keep_last": 3}},
            {**TOPIC, "direction": "publish", "input": "in"},
        ],
        "qos": {"reliable": True},
    }
    first, second = block_of(block, outputs=["turtle1_pose"], **IN).topics
    assert (first.ports, first.qos) == (("turtle1_pose",), Ros2BlockQos(keep_last=3))
    assert (second.ports, second.qos) == (("in",), Ros2BlockQos(reliable=True))


@pytest.mark.parametrize(
    ("block", "role", "ports"),
    [
        (SERVICE, "client", {"request": "in", "response": "out"}),
        (SERVICE, "server", {"request": "out", "response": "in"}),
        (ACTION, "client", {"goal": "in", "result": "result", "feedback": "feedback"}),
        (ACTION, "server", {"goal": "out", "result": "result", "feedback": "feedback"}),
    ],
)
def test_the_parts_of_calls_have_their_names_or_are_the_only_ones(
    block: dict[str, str], role: str, ports: dict[str, str]
) -> None:
    both = [name for part, name in ports.items() if part in ("feedback", "result")]
    if block is SERVICE:
        found = block_of({**block, "role": role}, **IN, **OUT).service
    elif role == "client":
        found = block_of({**block, "role": role}, **IN, outputs=both).action
    else:
        inputs = dict.fromkeys(both, "source/out")
        found = block_of({**block, "role": role}, inputs=inputs, **OUT).action
    assert isinstance(found, Ros2BlockCalls)
    assert (found.role, found.ports) == (role, ports)


def test_everything_else_has_the_defaults_of_ros() -> None:
    block = block_of(TOPIC, **OUT)
    assert (block.namespace, block.node_name, block.transport, block.domain_id) == ("/", "", None, None)
    more = {
        "namespace": "/robot",
        "node_name": "ears",
        "transport": {"kind": "zenoh", "compatibility": "humble", "config_uri": "z.json5"},
        "domain_id": 7,
        "ros_paths": ["msgs"],
    }
    found = block_of({**TOPIC, **more}, **OUT)
    assert (found.namespace, found.node_name, found.domain_id) == ("/robot", "ears", 7)
    assert found.ros_paths == ("msgs",)
    assert (found.transport, found.compatibility, found.config_uri) == ("zenoh", "humble", "z.json5")


@pytest.mark.parametrize(
    ("block", "fields", "message"),
    [
        ({}, {}, "`ros2` of node `bridge` does not say what it connects"),
        (True, {}, "expected a mapping for `ros2`, found `true`"),
        ({**TOPIC, **SERVICE}, OUT, "`ros2` of node `bridge` has `topic` and `service`"),
        ({"topic": "/x"}, OUT, "`ros2` of node `bridge` has `topic`, but no `message_type`"),
        ({"service": "/x", "role": "client"}, {**IN, **OUT}, "has `service`, but no `service_type`"),
        (SERVICE, {**IN, **OUT}, "`ros2` of node `bridge` has `service`, but no `role`"),
        (ACTION, {**IN, **OUT}, "`ros2` of node `bridge` has `action`, but no `role`"),
        ({**TOPIC, "topic": "/a b"}, OUT, "`/a b` is not the name of a ROS topic"),
        ({**TOPIC, "message_type": "String"}, OUT, "`String` is not the name of a type such as `std_msgs"),
        ({**TOPIC, "direction": "in"}, OUT, "`in` is not one of `subscribe` and `publish`"),
        ({**TOPIC, "role": "client"}, OUT, "`role` has no meaning beside `topic`"),
        (TOPIC, IN, "node `bridge` needs an output for `direction: subscribe`"),
        ({**TOPIC, "direction": "publish"}, OUT, "node `bridge` needs an input for `direction: publish`"),
        ({"topics": []}, OUT, "`topics` has 1 to 64 entries, not 0"),
        ({"topics": [TOPIC] * 65}, {"outputs": ["chatter"]}, "`topics` has 1 to 64 entries, not 65"),
        ({"topics": [TOPIC]}, OUT, "node `bridge` has no output `chatter`"),
        ({"topics": [{**TOPIC, "output": "x"}]}, OUT, "node `bridge` has no output `x`"),
        (
            {"topics": [{**TOPIC, "input": "out"}]},
            OUT,
            "with `direction: subscribe` has an `output`",
        ),
        ({"topics": [{**TOPIC, "direction": "publish"}]}, IN, "node `bridge` has no input `chatter`"),
        ({"topics": [{"topic": "/x"}]}, OUT, "the field `message_type` of a topic in `topics` is missing"),
        ({**SERVICE, "role": "client"}, OUT, "node `bridge` needs an input `request` for `role: client`"),
        ({**SERVICE, "role": "server"}, OUT, "node `bridge` needs an input `response` for `role: server`"),
        ({**ACTION, "role": "client"}, IN, "node `bridge` needs an output `result` for `role: client`"),
        (
            {**SERVICE, "role": "client", "qos": {"reliable": False}},
            {**IN, **OUT},
            "always reliable",
        ),
        ({**TOPIC, "qos": {"keep_last": 0}}, OUT, "expected a whole number from 1 to 10000, found `0`"),
        (
            {**TOPIC, "qos": {"keep_last": 5, "keep_all": True}},
            OUT,
            "contradicts `keep_all: true`",
        ),
        (
            {**TOPIC, "qos": {"durability": "kept"}},
            OUT,
            "`kept` is not one of `volatile` and",
        ),
        ({**TOPIC, "qos": {"lease_duration": -1}}, OUT, "expected a number of seconds greater than zero"),
        ({**TOPIC, "namespace": "/a b"}, OUT, "`/a b` is not a ROS namespace"),
        ({**TOPIC, "node_name": "a-b"}, OUT, "`a-b` is not the name of a ROS node"),
        ({**TOPIC, "domain_id": 233}, OUT, "expected a whole number from 0 to 232, found `233`"),
        ({**TOPIC, "transport": {"kind": "tcp"}}, OUT, "`tcp` is not one of `dds`, `zenoh` and `rclpy`"),
        ({**TOPIC, "transport": {}}, OUT, "the field `kind` of `transport` is missing"),
        (
            {**TOPIC, "transport": {"kind": "dds", "config_uri": "x"}},
            OUT,
            "`config_uri` is an option of `kind: zenoh` only",
        ),
        ({**TOPIC, "format": "image"}, OUT, "`format: image` is for images, and not for std_msgs/String"),
        (TOPIC, {**OUT, "path": "x.py"}, "the node `bridge` has both `path` and `ros2`"),
        (TOPIC, {**OUT, "args": "x"}, "node `bridge` has `args` beside `ros2`, and runs no program"),
    ],
)
def test_a_mistake_in_the_block_is_told_in_one_sentence(
    block: Any, fields: dict[str, Any], message: str
) -> None:
    found = errors_of(block, **fields)
    assert any(message in text for text in found), found


@pytest.mark.parametrize(
    "block", [{**TOPIC, "direction": "publish"}, {**SERVICE, "role": "client"}], ids=["topic", "service"]
)
def test_an_input_whose_source_is_not_there_is_one_mistake(block: dict[str, str]) -> None:
    found = errors_of(block, inputs={"request": "nobody/out"}, outputs=["response"])
    assert found == ["there is no node `nobody`, which the input `request` of node `bridge` refers to"]


def test_a_drawing_says_what_a_node_connects() -> None:
    block = {"topics": [TOPIC, {**TOPIC, "topic": "/cmd", "direction": "publish", "input": "in"}]}
    graph = graph_of(read(block, outputs=["chatter"], **IN))
    (box,) = [box for box in graph.boxes if box.id == "bridge"]
    assert box.label == "bridge: ROS 2 /chatter, /cmd"
    assert box.program == "ROS 2: /chatter → chatter; in → /cmd"
    graph = graph_of(read({**SERVICE, "role": "client"}, **IN, **OUT))
    assert [box.program for box in graph.boxes if box.id == "bridge"] == ["ROS 2: client of /add"]
