"""The check of `ros2` blocks before anything starts, and the qualities that rules of the dataflow mean."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from dora.daemon.processes.launch_spec import missing_programs
from dora.dataflow import parse
from dora.dataflow.ros2 import Ros2Block, Ros2BlockQos, Ros2BlockTopic
from dora.ros2.bridge.qualities import calls_qos, publisher_qos, subscription_qos
from dora.ros2.qos import Durability, History, Qos, Reliability
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig
from dora.wire.output_rules import LatchRule, OutputRules

SUBSCRIBE = Ros2BlockTopic("/chatter", "std_msgs/String", "subscribe", ("out",))
PUBLISH = Ros2BlockTopic("/chatter", "std_msgs/String", "publish", ("in",))


def problems_of(block: dict[str, Any], folder: Path) -> list[str]:
    text = yaml.safe_dump({"nodes": [{"id": "ears", "ros2": block, "outputs": ["out"]}]})
    dataflow = parse(text, working_dir=str(folder), environ={})
    return [problem.message for problem in missing_programs(dataflow)]


def test_a_type_that_is_not_there_is_told_before_the_start(tmp_path: Path) -> None:
    found = problems_of({"topic": "/chatter", "message_type": "std_msgs/Stringg"}, tmp_path)
    assert len(found) == 1
    assert "the node `ears` cannot be started: there is no message type 'std_msgs/msg/Stringg'" in found[0]
    assert "near: std_msgs/msg/String" in found[0]


def test_types_of_a_folder_beside_the_dataflow_count(tmp_path: Path) -> None:
    (tmp_path / "msgs" / "my_msgs" / "msg").mkdir(parents=True)
    (tmp_path / "msgs" / "my_msgs" / "msg" / "Level.msg").write_text("float32 level\n")
    block = {"topic": "/level", "message_type": "my_msgs/Level"}
    assert problems_of({**block, "ros_paths": ["msgs"]}, tmp_path) == []
    assert "there is no message type 'my_msgs/msg/Level'" in problems_of(block, tmp_path)[0]
    assert "is no folder with message types" in problems_of({**block, "ros_paths": ["none"]}, tmp_path)[0]


@pytest.mark.parametrize("kind", ["zenoh", "dds"])
def test_without_the_extra_there_is_one_sentence_with_the_line_for_pip(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_spec = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in ("zenoh", "cyclonedds") else found_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.delenv("DORA_ROS2_PYTHON", raising=False)
    block = {"topic": "/chatter", "message_type": "std_msgs/String", "transport": {"kind": kind}}
    (found,) = problems_of(block, tmp_path)
    assert found.startswith("the node `ears` cannot be started: ROS 2 over ")
    assert 'pip install "dora-dataflow[ros2]"' in found


def test_a_publisher_is_reliable_and_as_deep_as_the_queue_of_its_input() -> None:
    qos = publisher_qos(PUBLISH, [InputConfig("in", "link", "a/out", queue_size=7, deadline_ns=50)]).qos
    assert qos == Qos(depth=7, deadline=50)


def test_a_publisher_of_several_inputs_has_the_deepest_queue_and_the_longest_deadline() -> None:
    inputs = [
        InputConfig("in", "link", "a/out", queue_size=size, deadline_ns=deadline)
        for size, deadline in ((3, 80), (7, 50), (5, 0))
    ]
    assert publisher_qos(PUBLISH, inputs).qos == Qos(depth=7, deadline=80)


def test_what_is_latched_is_kept_for_ros_and_asked_of_ros() -> None:
    rules = OutputRules(latched=LatchRule(3))
    offered = publisher_qos(PUBLISH, [InputConfig("in", "link", "a/out", source_rules=rules)]).qos
    assert (offered.durability, offered.depth) == (Durability.TRANSIENT_LOCAL, 3)
    asked = subscription_qos(SUBSCRIBE, [OutputConfig("out", latched=LatchRule(30))]).qos
    assert (asked.durability, asked.reliability) == (Durability.TRANSIENT_LOCAL, Reliability.RELIABLE)
    assert asked.depth == 30


def test_a_subscription_is_reliable_only_if_a_receiver_makes_the_sender_wait() -> None:
    assert subscription_qos(SUBSCRIBE, [OutputConfig("out")]).qos.reliability is Reliability.BEST_EFFORT
    link = LinkConfig(slot=0, node_slot=0, bell="", consumer="", queue_policy="backpressure")
    waiting = OutputConfig("out", links=[link])
    assert subscription_qos(SUBSCRIBE, [waiting]).qos.reliability is Reliability.RELIABLE


def test_what_the_block_says_wins() -> None:
    asked = Ros2BlockQos(
        reliable=False, durability="volatile", keep_all=True, lease_duration=2.0, max_blocking_time=0.5
    )
    topic = Ros2BlockTopic("/chatter", "std_msgs/String", "publish", ("in",), asked)
    rules = OutputRules(latched=LatchRule(3))
    qos = publisher_qos(topic, [InputConfig("in", "link", "a/out", source_rules=rules)]).qos
    assert (qos.reliability, qos.durability, qos.history) == (
        Reliability.BEST_EFFORT,
        Durability.VOLATILE,
        History.KEEP_ALL,
    )
    assert (qos.lease_duration, qos.max_blocking_time) == (2_000_000_000, 500_000_000)
    assert calls_qos(Ros2BlockQos(keep_last=5)).qos == Qos(depth=5)


def test_the_id_of_a_node_becomes_a_name_that_ros_allows() -> None:
    block = Ros2Block()
    names = [block.name_of(name) for name in ("ears", "left-ear", "2.ears")]
    assert names == ["ears", "left_ear", "_2_ears"]
    assert Ros2Block(node_name="head").name_of("ears") == "head"
