"""Services and parameters of the Python interface, over the engines that have services."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from ros_meeting import wait_for_subscription
from waiting import TIMEOUT

from dora import CallTimedOut, Ros2NodeOptions, Ros2QosPolicies, TransportError
from dora.ros2 import ValueMismatch
from dora.ros2.api import context as contexts
from dora.ros2.api.parameters import ParameterError, RosParameters, list_names

if TYPE_CHECKING:
    from conftest import Robot

OPTIONS = Ros2NodeOptions()
RELIABLE = Ros2QosPolicies(reliable=True, keep_last=10)
SET_BOOL = "std_srvs/SetBool"


class Served:
    """A server that answers in a thread until it is closed."""

    def __init__(self, robot: Robot) -> None:
        node = robot.context().new_node("server", "/", OPTIONS)
        self.server = node.create_service_server("/lamp", SET_BOOL, RELIABLE)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while (taken := self.server.take_request(TIMEOUT)) is not None:
            number, request = taken
            asked = request[0].as_py()["data"]
            self.server.send_response(number, {"success": asked, "message": str(asked)})


def test_a_call_returns_the_response_as_a_struct_array(serving_robot: Robot) -> None:
    served = Served(serving_robot)
    node = serving_robot.context().new_node("client", "/", OPTIONS)
    client = node.create_service_client("/lamp", SET_BOOL, RELIABLE)
    yes, no = {"success": True, "message": "True"}, {"success": False, "message": "False"}
    assert client.call({"data": True}, timeout_s=TIMEOUT).to_pylist() == [yes]
    assert client.call([{}], timeout_s=TIMEOUT).to_pylist() == [no]
    with pytest.raises(ValueMismatch, match="field 'data' of std_srvs/srv/SetBool_Request"):
        client.call({"data": "two"})
    served.server.close()
    served.thread.join(TIMEOUT)


def test_a_response_that_does_not_fit_may_be_replaced_and_each_is_sent_once(serving_robot: Robot) -> None:
    node = serving_robot.context().new_node("server", "/", OPTIONS)
    server = node.create_service_server("/lamp", SET_BOOL, RELIABLE)
    asking = serving_robot.context().new_node("client", "/", OPTIONS)
    client = asking.create_service_client("/lamp", SET_BOOL, RELIABLE)
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(client.call({"data": True}, TIMEOUT)))
    caller.start()
    taken = server.take_request(TIMEOUT)
    assert taken is not None
    number, _ = taken
    with pytest.raises(ValueMismatch):
        server.send_response(number, {"succeeded": True})
    server.send_response(number, {"message": "done"})
    caller.join(TIMEOUT)
    assert answers[0].to_pylist() == [{"success": False, "message": "done"}]
    with pytest.raises(TransportError, match=f"/lamp has no open request {number}"):
        server.send_response(number, {"message": "done"})
    assert server.take_request(0) is None


@pytest.mark.lengthy
def test_a_client_says_that_no_server_comes(serving_robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "SERVER_TIMEOUT", 0.2)
    node = serving_robot.context().new_node("client", "/", OPTIONS)
    with pytest.raises(CallTimedOut, match=r"no server of /lamp \(std_srvs/srv/SetBool\) has come"):
        node.create_service_client("/lamp", SET_BOOL, RELIABLE)


def test_a_service_has_to_be_reliable(serving_robot: Robot) -> None:
    node = serving_robot.context().new_node("server", "/", OPTIONS)
    with pytest.raises(ValueError, match="a service of ROS needs `reliable=True`"):
        node.create_service_server("/lamp", SET_BOOL, Ros2QosPolicies())


# ---------------------------------------------------------------------- parameters

DECLARED: dict[str, Any] = {
    "speed": 1.5,
    "name": "robot",
    "gain": 7,
    "waypoints": [1.0, 2.0],
    "flags": [True, False],
    "key": b"\x01\x02",
}


def ask(robot: Robot, service: str, request: dict[str, Any]) -> Any:
    node = robot.context().new_node("asker", "/", OPTIONS)
    client = node.create_service_client(
        f"/robot/arm/{service}", f"rcl_interfaces/{service.title().replace('_', '')}", RELIABLE
    )
    return client.call(request, TIMEOUT)[0].as_py()


@pytest.mark.lengthy
def test_parameters_are_served_to_other_nodes(serving_robot: Robot) -> None:
    node = serving_robot.context().new_node("arm", "/robot", OPTIONS, parameters=DECLARED)
    listed = ask(serving_robot, "list_parameters", {})["result"]["names"]
    assert listed == sorted([*DECLARED, "use_sim_time"])
    values = ask(serving_robot, "get_parameters", {"names": ["speed", "flags", "none"]})["values"]
    assert (values[0]["type"], values[0]["double_value"]) == (3, 1.5)
    assert (values[1]["type"], values[1]["bool_array_value"]) == (6, [True, False])
    assert values[2]["type"] == 0
    change = {"name": "gain", "value": {"type": 2, "integer_value": 9}}
    wrong = {"name": "speed", "value": {"type": 2, "integer_value": 9}}
    results = ask(serving_robot, "set_parameters", {"parameters": [change, wrong]})["results"]
    assert [item["successful"] for item in results] == [True, False]
    assert results[1]["reason"] == "parameter `speed` is a float, and cannot become an int"
    assert (node.get_parameter("gain"), node.get_parameter("speed")) == (9, 1.5)


def test_parameters_that_are_set_together_are_all_set_or_none(serving_robot: Robot) -> None:
    node = serving_robot.context().new_node("arm", "/robot", OPTIONS, parameters=DECLARED)
    changes = [
        {"name": "gain", "value": {"type": 2, "integer_value": 9}},
        {"name": "missing", "value": {"type": 2, "integer_value": 9}},
    ]
    result = ask(serving_robot, "set_parameters_atomically", {"parameters": changes})["result"]
    assert (result["successful"], node.get_parameter("gain")) == (False, 7)


def test_changes_of_parameters_are_published(serving_robot: Robot) -> None:
    asking = serving_robot.context().new_node("watcher", "/", OPTIONS)
    topic = asking.create_topic("/parameter_events", "rcl_interfaces/ParameterEvent", RELIABLE)
    events = asking.create_subscription(topic)
    node = serving_robot.context().new_node("arm", "/robot", OPTIONS, parameters={"gain": 1})
    server = node.parameters._server
    assert server is not None
    wait_for_subscription(server._events)
    node.set_parameter("gain", 2)
    while (event := events.next(TIMEOUT)) is not None:
        found = event[0].as_py()
        if found["changed_parameters"]:
            break
    assert event is not None
    assert found["node"] == "/robot/arm"
    assert [(item["name"], item["value"]["integer_value"]) for item in found["changed_parameters"]] == [
        ("gain", 2)
    ]


def test_a_declared_parameter_keeps_its_type() -> None:
    parameters = RosParameters(DECLARED)
    assert parameters.names() == sorted([*DECLARED, "use_sim_time"])
    parameters.set("speed", 2.0)
    parameters.set("flags", [])
    assert (parameters.get("speed"), parameters.get("flags"), parameters.get("none")) == (2.0, [], None)
    with pytest.raises(ParameterError, match="`gain` is an int, and cannot become a text"):
        parameters.set("gain", "seven")
    with pytest.raises(ParameterError, match="there is no parameter `none`"):
        parameters.set("none", 1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, "two"], "the items of a list have the same type"),
        ([1, True], "the items of a list have the same type"),
        ([], "an empty list has no type"),
        ({}, "is a dict; ROS has"),
        (1 << 64, "does not fit into 64 bits"),
    ],
)
def test_values_that_ros_does_not_have_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        RosParameters({"a": value})


def test_use_sim_time_is_there_and_a_bool() -> None:
    assert RosParameters({}).get("use_sim_time") is False
    assert RosParameters({"use_sim_time": True}).get("use_sim_time") is True
    with pytest.raises(ParameterError, match="`use_sim_time`, which every ROS node has, is a bool"):
        RosParameters({"use_sim_time": 1})
    parameters = RosParameters({})
    with pytest.raises(ParameterError, match="cannot become an int"):
        parameters.set("use_sim_time", 1)


def test_a_parameter_without_a_type_may_become_anything() -> None:
    parameters = RosParameters({"mode": None, "gain": 1})
    assert (parameters.type("mode"), parameters.may_become_anything("mode")) == (0, True)
    for value, number in ((7, 2), ("fast", 4), ([1.5], 8), (None, 0)):
        parameters.set("mode", value)
        assert (parameters.get("mode"), parameters.type("mode")) == (value, number)
    with pytest.raises(ParameterError, match="parameter `gain` is an int, and cannot be removed"):
        parameters.set("gain", None)


def test_values_decided_elsewhere_may_have_other_names_and_types() -> None:
    parameters = RosParameters({"speed": 1.5, "track": [0.5], "name": "robot"})
    parameters.take_over({"speed": 2, "track": [1, 2.5], "new": True}, gone=["name"])
    assert {name: parameters.get(name) for name in parameters.names()} == {
        "speed": 2.0,
        "track": [1.0, 2.5],
        "new": True,
        "use_sim_time": False,
    }
    assert (type(parameters.get("speed")), parameters.type("new")) == (float, 1)
    parameters.take_over({"speed": "slow", "track": []})
    assert (parameters.type("speed"), parameters.type("track")) == (4, 8)


def test_names_are_listed_below_prefixes_to_a_depth() -> None:
    names = ["a", "arm.speed", "arm.joint.gain", "armour"]
    assert list_names(names, [], 0) == names
    assert list_names(names, [], 1) == ["a", "armour"]
    assert list_names(names, ["arm"], 0) == ["arm.speed", "arm.joint.gain"]
    assert list_names(names, ["arm"], 1) == ["arm.speed"]
