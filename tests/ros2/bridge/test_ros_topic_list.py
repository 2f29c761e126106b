"""``dora topic list --ros2`` and the line of ``dora doctor`` about ROS 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import run_command_line

from dora import Ros2NodeOptions, Ros2QosPolicies
from dora.cli.commands.doctor import _ros2

if TYPE_CHECKING:
    from ros_flow import RosFlow


@pytest.mark.lengthy
def test_the_topics_of_a_domain_are_listed_with_their_nodes(
    flow: RosFlow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = flow.context().new_node("talker", "/robot", Ros2NodeOptions())
    topic = node.create_topic("/chatter", "std_msgs/String", Ros2QosPolicies())
    node.create_publisher(topic)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(flow.domain))
    rmw = {"zenoh": "rmw_zenoh_cpp"}.get(flow.engine, "rmw_fastrtps_cpp")
    monkeypatch.setenv("RMW_IMPLEMENTATION", rmw)
    assert run_command_line(["topic", "list", "--ros2", "--format", "json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {
        "name": "/chatter",
        "types": ["std_msgs/msg/String"],
        "publishers": ["/robot/talker"],
        "subscribers": [],
    } in found


def test_a_wrong_domain_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "x")
    assert run_command_line(["topic", "list", "--ros2"]) == 1
    assert "$ROS_DOMAIN_ID is a number of at least 0, not 'x'" in capsys.readouterr().err


def test_doctor_names_the_engines_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_zenoh_cpp")
    monkeypatch.setenv("DORA_ROS2_PYTHON", str(Path(sys.executable)))
    (found,) = _ros2()
    assert found.level == "PASS"
    assert found.text.startswith("ROS 2: there is zenoh, ")
    assert f"rclpy ({sys.executable}); by default zenoh: $RMW_IMPLEMENTATION is rmw_zenoh_cpp" in found.text
