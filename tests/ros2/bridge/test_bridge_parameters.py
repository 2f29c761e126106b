"""Parameters of dora as parameters of ROS: their names, their values, and changes on both sides."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from commands import run_command
from waiting import TIMEOUT, wait_until

from dora import DaemonLost, ParamDeleted, ParamUpdate, Ros2NodeOptions, Ros2QosPolicies
from dora.ros2.api.parameters import ParameterError, record_of, type_of
from dora.ros2.bridge.parameters import BridgeParameters

if TYPE_CHECKING:
    from ros_flow import RosFlow


class DoraSide:
    """Stands for the node, and for its daemon: keeps what the node sets."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self.sent: list[dict[str, Any]] = []
        self.is_lost = False

    def set_parameters(self, values: dict[str, Any]) -> None:
        if self.is_lost:
            raise DaemonLost("the daemon is gone")
        self.sent.append(values)


def bridge(parameters: dict[str, Any]) -> tuple[DoraSide, BridgeParameters, list[str]]:
    side, warnings = DoraSide(parameters), list[str]()
    node: Any = side
    return side, BridgeParameters(node, warnings.append), warnings


def in_ros(found: BridgeParameters) -> dict[str, Any]:
    names = found.ros.names()
    assert "use_sim_time" in names
    return {name: found.ros.get(name) for name in names if name != "use_sim_time"}


def test_mappings_are_parameters_with_dots_in_their_names() -> None:
    _, found, warnings = bridge(
        {"gain": 0.5, "arm": {"speed": 1, "joint": {"limit": [1, 2.5]}}, "none": {}}
    )
    assert in_ros(found) == {"gain": 0.5, "arm.speed": 1, "arm.joint.limit": [1.0, 2.5]}
    assert warnings == []


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"a": [1, "two"]}, "parameter `a`: the items of a list have the same type"),
        ({"a": [[1], [2]]}, "parameter `a`: the items of a list have the same type"),
        ({"a": {"b": []}}, "parameter `a.b`: an empty list has no type"),
        ({"a": 1 << 63}, "parameter `a`: 9223372036854775808 does not fit into 64 bits"),
        ({"a.b": 1, "a": {"b": 2}}, "parameter `a.b` is there twice, as one key and in a mapping"),
        ({"use_sim_time": "yes"}, "parameter `use_sim_time`, which every ROS node has, is a bool"),
    ],
)
def test_a_value_that_ros_does_not_have_is_left_out_and_told(
    parameters: dict[str, Any], reason: str
) -> None:
    _, found, warnings = bridge({**parameters, "good": 1})
    assert in_ros(found)["good"] == 1
    assert found.ros.get("use_sim_time") is False
    assert len(warnings) == 1
    assert warnings[0].startswith(f"not in ROS: {reason}")


def test_a_change_in_ros_sets_the_whole_parameter_of_dora() -> None:
    side, found, _ = bridge({"limits": {"low": -1, "high": 1}, "gain": 0.5})
    found.ros.set_all({"limits.low": -2, "gain": 1.5})
    found.ros.set("limits.high", 2)
    found.ros.set("use_sim_time", False)
    assert side.sent == [
        {"limits": {"low": -2, "high": 1}, "gain": 1.5},
        {"limits": {"low": -2, "high": 2}},
        {"use_sim_time": False},
    ]
    assert side.parameters["limits"] == {"low": -1, "high": 1}  # until the daemon says so


def test_an_own_change_that_comes_back_late_does_not_undo_the_next_one() -> None:
    side, found, _ = bridge({"limits": {"low": -1, "high": 1}})
    found.ros.set("limits.low", -2)
    found.ros.set("limits.high", 2)
    found.handle(ParamUpdate("limits", side.sent[0]["limits"]))
    assert in_ros(found) == {"limits.low": -2, "limits.high": 2}
    found.ros.set("limits.low", -3)
    assert side.sent[2] == {"limits": {"low": -3, "high": 2}}
    for sent in side.sent[1:]:
        found.handle(ParamUpdate("limits", sent["limits"]))
    found.handle(ParamUpdate("limits", {"low": 0, "high": 0}))
    assert in_ros(found) == {"limits.low": 0, "limits.high": 0}


def test_a_change_in_dora_that_came_before_an_own_one_does_not_undo_it() -> None:
    _, found, _ = bridge({"gain": 0})
    found.ros.set("gain", 2)
    found.handle(ParamUpdate("gain", 1))
    assert in_ros(found) == {"gain": 2}
    found.handle(ParamUpdate("gain", 2))
    found.handle(ParamUpdate("gain", 3))
    assert in_ros(found) == {"gain": 3}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("gain", float("nan"), "the value of parameter `gain` has nan, which JSON does not know"),
        ("free", b"raw", "parameter `free` cannot become bytes, which dora does not have"),
        ("text", "x" * 70_000, "the value of parameter `text` has 70002 bytes as JSON, more than 65536"),
        ("gain", 1, "parameter `gain` is a float, and cannot become an int"),
        ("missing", 1, "there is no parameter `missing`"),
    ],
)
def test_a_change_that_dora_cannot_have_is_refused_with_all_that_come_with_it(
    name: str, value: Any, reason: str
) -> None:
    side, found, _ = bridge({"gain": 0.5, "free": None, "text": "a", "other": 1})
    before = in_ros(found)
    with pytest.raises(ParameterError, match=reason):
        found.ros.set_all({"other": 2, name: value})
    assert (in_ros(found), side.sent) == (before, [])


def test_a_change_in_ros_after_the_end_of_the_dataflow_is_refused() -> None:
    side, found, _ = bridge({"gain": 0.5})
    side.is_lost = True
    with pytest.raises(ParameterError, match="the dataflow has ended: the daemon is gone"):
        found.ros.set("gain", 1.5)


def test_a_change_in_dora_may_bring_names_and_types_and_take_them() -> None:
    _, found, warnings = bridge({"gain": 0.5, "limits": {"low": 1}})
    found.handle(ParamUpdate("gain", 2))
    found.handle(ParamUpdate("limits", {"high": "far"}))
    found.handle(ParamUpdate("new", True))
    assert in_ros(found) == {"gain": 2.0, "limits.high": "far", "new": True}
    found.handle(ParamUpdate("new", [1, "two"]))
    found.handle(ParamDeleted("limits"))
    assert in_ros(found) == {"gain": 2.0}
    assert len(warnings) == 1
    found.handle(ParamUpdate("new", "back"))
    assert in_ros(found) == {"gain": 2.0, "new": "back"}


def test_ros_may_set_use_sim_time_after_dora_has_deleted_it() -> None:
    side, found, _ = bridge({"use_sim_time": True})
    found.handle(ParamDeleted("use_sim_time"))
    found.ros.set("use_sim_time", True)
    assert side.sent == [{"use_sim_time": True}]


def test_changes_on_both_sides_at_once_do_not_wait_for_each_other() -> None:
    _, found, _ = bridge({"gain": 0.5})
    events = [ParamUpdate("other", number) for number in range(500)]
    threads = [
        threading.Thread(target=lambda: [found.handle(event) for event in events], daemon=True),
        threading.Thread(target=lambda: [found.ros.set("gain", 1.5) for _ in events], daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert in_ros(found) == {"gain": 1.5, "other": 499}


def test_use_sim_time_is_told_at_the_start_and_at_each_change() -> None:
    told: list[bool] = []
    _, found, _ = bridge({"use_sim_time": True})
    found.ros.follow(told.append)
    found.ros.set("use_sim_time", False)
    found.handle(ParamUpdate("use_sim_time", False))  # what was set comes back
    found.handle(ParamUpdate("use_sim_time", True))
    found.handle(ParamDeleted("use_sim_time"))
    assert told == [True, False, True, False]
    assert found.ros.get("use_sim_time") is False


@pytest.mark.processes
def test_a_parameter_of_a_dataflow_is_read_and_set_through_ros(serving_flow: RosFlow) -> None:
    flow = serving_flow
    flow.node(
        "talker",
        """
        from dora import Node

        for event in Node():
            pass
        """,
        inputs={"tick": "dora/timer/1s"},
        outputs=["text"],
    )
    block = {"topic": "/chatter", "message_type": "std_msgs/String", "direction": "publish"}
    flow.ros2("base", block, inputs={"text": "talker/text"}, parameters={"gain": 0.5, "mode": "slow"})
    node = flow.context().new_node("asker", "/", Ros2NodeOptions())
    reliable = Ros2QosPolicies(reliable=True, keep_last=100)
    topic = node.create_topic("/parameter_events", "rcl_interfaces/ParameterEvent", reliable)
    events = node.create_subscription(topic)
    flow.start()

    def ask(service: str, request: dict[str, Any]) -> Any:
        kind = f"rcl_interfaces/{service.title().replace('_', '')}"
        client = node.create_service_client(f"/base/{service}", kind, reliable)
        return client.call(request, TIMEOUT)[0].as_py()

    def dora(*arguments: str) -> str:
        status, text = run_command("param", *arguments, folder=flow.folder)
        assert status == 0, (text, flow.log())
        return text

    def change(name: str, value: Any) -> dict[str, Any]:
        return {"name": name, "value": record_of(type_of(name, value), value)}

    changes = {"parameters": [change("gain", 1.5), change("mode", 7)]}
    results = ask("set_parameters", changes)["results"]
    assert [item["successful"] for item in results] == [True, False]
    assert results[1]["reason"] == "parameter `mode` is a text, and cannot become an int"
    expected = {"gain": 1.5, "mode": "slow"}
    wait_until(
        lambda: json.loads(dora("list", "base", "-f", "json")) == expected, "the value that ROS has set"
    )
    dora("set", "base", "mode", "fast")
    wait_until(
        lambda: ask("get_parameters", {"names": ["mode"]})["values"][0]["string_value"] == "fast",
        "the value that dora has set",
    )
    changed: list[Any] = []
    while "mode" not in changed:
        event = events.next(TIMEOUT)
        assert event is not None, changed
        found = event[0].as_py()
        changed += [item["name"] for item in found["changed_parameters"] if found["node"] == "/base"]
    assert changed == ["gain", "mode"]
    flow.stop()
    assert "Traceback" not in flow.log()
