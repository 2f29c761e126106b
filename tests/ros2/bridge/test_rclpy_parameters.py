"""Parameters, clock and log of `ros2:` nodes, as a real rclpy (Kilted, Fast DDS) sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commands import run_command
from observing import Observer, observed_flow, observer_of_flow  # noqa: F401 - fixtures
from ros_flow import RosFlow
from waiting import wait_until

pytestmark = [pytest.mark.ros2, pytest.mark.processes]

SENT = {"topic": "/chatter", "message_type": "std_msgs/String", "direction": "publish"}
SILENT = """
    from dora import Node

    for event in Node():
        pass
"""


def dora(flow: RosFlow, *arguments: str) -> str:
    status, text = run_command(*arguments, folder=flow.folder)
    assert status == 0, (text, flow.log())
    return text


def start_with(flow: RosFlow, parameters: dict[str, Any], **block: Any) -> None:
    """Start a dataflow with the ROS node ``/base``."""
    flow.node("talker", SILENT, inputs={"tick": "dora/timer/1s"}, outputs=["text"])
    flow.ros2("base", {**SENT, **block}, inputs={"text": "talker/text"}, parameters=parameters)
    flow.start()


def test_parameters_of_dora_are_parameters_of_ros_both_ways(flow: RosFlow, observer: Observer) -> None:
    parameters = {
        "gain": 0.5,
        "count": 3,
        "mode": "slow",
        "on": True,
        "limits": {"low": -1.5, "high": {"soft": 1}},
        "track": [1, 2.5],
        "names": ["left", "right"],
        "free": None,
        "mixed": [1, "two"],
    }
    start_with(flow, parameters)
    names = ["count", "free", "gain", "limits.high.soft", "limits.low", "mode", "names", "on", "track"]
    assert observer.list(node="/base") == sorted([*names, "use_sim_time"])
    values = [3, None, 0.5, 1, -1.5, "slow", ["left", "right"], True, [1.0, 2.5]]
    assert observer.get(node="/base", names=names) == values
    assert observer.types(node="/base", names=names) == [2, 0, 3, 2, 3, 4, 9, 1, 8]
    assert observer.describe(node="/base", names=["free", "gain"]) == [
        ["free", 0, True],
        ["gain", 3, False],
    ]
    assert "not in ROS: parameter `mixed`: the items of a list have the same type" in flow.log()

    good = {"gain": 2.0, "limits.low": -3.0, "free": "anything", "names": []}
    assert observer.set(node="/base", values=good) == [[True, ""]] * 4
    assert observer.set(node="/base", values={"limits.high.soft": 7}) == [[True, ""]]
    expected = {"gain": 2.0, "limits": {"low": -3.0, "high": {"soft": 7}}, "free": "anything", "names": []}

    def of_dora() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(dora(flow, "param", "list", "base", "-f", "json"))
        return found

    wait_until(lambda: of_dora() == {**parameters, **expected}, lambda: f"the values: {of_dora()}")

    results = observer.set(
        node="/base", values={"gain": "much", "none": 1, "mode": float("nan"), "free": 1.5}
    )
    assert results == [
        [False, "parameter `gain` is a float, and cannot become a text"],
        [False, "there is no parameter `none`; it has to be declared with the node"],
        [False, "parameter `mode` is a text, and cannot become a float"],
        [True, ""],
    ]
    results = observer.set(node="/base", values={"free": float("nan"), "mode": "x" * 70_000})
    assert results == [
        [False, "the value of parameter `free` has nan, which JSON does not know"],
        [False, "the value of parameter `mode` has 70002 bytes as JSON, more than 65536"],
    ]
    together = observer.set_together(node="/base", values={"count": 4, "mode": 1})
    assert together == [False, "parameter `mode` is a text, and cannot become an int"]
    assert observer.set_together(node="/base", values={"count": 5, "mode": "fast"}) == [True, ""]
    wait_until(lambda: (of_dora()["count"], of_dora()["mode"]) == (5, "fast"), "both values")
    flow.stop()
    assert "Traceback" not in flow.log()


def test_a_change_in_dora_shows_in_ros_with_an_event(flow: RosFlow, observer: Observer) -> None:
    start_with(flow, {"gain": 0.5, "limits": {"low": 1, "high": 2}})
    observer.list(node="/base")
    for arguments in (
        ("set", "base", "gain", "2"),
        ("set", "base", "limits", '{"low": 0, "top": 3}'),
        ("set", "base", "new", "fast"),
        ("set", "base", "new", "[1, 2]"),
        ("delete", "base", "new"),
    ):
        dora(flow, "param", *arguments)

    def events() -> list[Any]:
        # Left out are the first ones, of which some may come before the other side has a subscription.
        first = {"use_sim_time", "start_type_description_service"}
        return [event for event in observer.events_of(node="/base") if not first & event[0].keys()]

    wait_until(lambda: len(events()) >= 5, lambda: f"the events: {events()}\n{flow.log()}")
    assert events() == [
        [{}, {"gain": 2.0}, {}],
        [{"limits.top": 3}, {"limits.low": 0}, {"limits.high": None}],
        [{"new": "fast"}, {}, {}],
        [{}, {"new": [1, 2]}, {}],
        [{}, {}, {"new": None}],
    ]
    assert observer.get(node="/base", names=["gain", "limits.top"]) == [2.0, 3]
    assert observer.list(node="/base") == ["gain", "limits.low", "limits.top", "use_sim_time"]
    flow.stop()


def test_what_ros_has_set_is_there_after_a_restart_of_the_node(flow: RosFlow, observer: Observer) -> None:
    start_with(flow, {"gain": 0.5})
    assert observer.set(node="/base", values={"gain": 2.0}) == [[True, ""]]
    wait_until(lambda: dora(flow, "param", "get", "base", "gain") == "2.0\n", "the value in dora")
    dora(flow, "node", "restart", "base")
    wait_until(lambda: observer.get(node="/base", names=["gain"]) == [2.0], "the value in ROS")
    flow.stop()
