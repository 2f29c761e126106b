"""The Python interface and a real rclpy (Kilted, Fast DDS) meet, in both directions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rclpy_process import RclpyPeer
from real_ros import VARIABLE
from ros_meeting import ros_python
from sample_messages import SAMPLES
from waiting import TIMEOUT, wait_until

from dora import Ros2Durability, Ros2Node, Ros2NodeOptions, Ros2QosPolicies

if TYPE_CHECKING:
    from conftest import Robot

pytestmark = [pytest.mark.ros2, pytest.mark.processes]

OPTIONS = Ros2NodeOptions()
RELIABLE = Ros2QosPolicies(reliable=True, keep_last=10)
SET_BOOL = "std_srvs/SetBool"
EXAMPLES = "example_interfaces"


@pytest.fixture
def peer(real_robot: Robot) -> Iterator[RclpyPeer]:
    found = RclpyPeer(real_robot.domain)
    yield found
    found.close()


@pytest.fixture
def node(real_robot: Robot) -> Ros2Node:
    return real_robot.context([ros_python().parents[1] / "share"]).new_node("ours", "/", OPTIONS)


both_engines = pytest.mark.parametrize("real_robot", ["dds", "rclpy"], indirect=True)
with_services = pytest.mark.parametrize("real_robot", ["rclpy"], indirect=True)


def has_examples() -> bool:
    """Return whether `make ros2` has built the package, which PyPI lacks."""
    folder = os.environ.get(VARIABLE)
    return bool(folder) and Path(str(folder), "share", EXAMPLES).is_dir()


needs_examples = pytest.mark.skipif(
    not has_examples(), reason=f"{EXAMPLES} needs a C++ compiler to be built"
)
each_fibonacci = pytest.mark.parametrize(
    "fibonacci", ["test_msgs/Fibonacci", pytest.param(f"{EXAMPLES}/Fibonacci", marks=needs_examples)]
)


@both_engines
@pytest.mark.parametrize("name", SAMPLES)
def test_a_message_of_each_kind_goes_both_ways_byte_for_byte(
    node: Ros2Node, peer: RclpyPeer, name: str
) -> None:
    kind, value = SAMPLES[name]
    topic = node.create_topic("/there", kind, RELIABLE)
    subscription = node.create_subscription(topic)
    publisher = node.create_publisher(node.create_topic("/back", kind, RELIABLE))
    expected = topic.type.encode(value)
    peer.publisher(topic="/there", type=kind)
    peer.sample_subscription(topic="/back", type=kind, size=len(expected))
    wait_until(lambda: peer.subscriptions_of(topic="/there"), "our subscription")
    received: list[Any] = []

    def hear() -> bool:  # the first ones may come before both sides know each other
        peer.publish_sample(topic="/there", sample=name)
        message = subscription.next(1)
        if message is not None:
            received.append(message)
        return bool(received)

    wait_until(hear, "a message of rclpy")
    message = received[0]
    message.validate(full=True)
    assert topic.type.encode(message) == expected
    wait_until(publisher.has_subscription, "the subscription of rclpy")
    publisher.publish(message)
    publisher.publish(value)
    assert peer.taken(topic="/back", count=2, timeout=TIMEOUT) == [sha256(expected).hexdigest()] * 2


@both_engines
def test_latecomers_get_latched_messages(node: Ros2Node, peer: RclpyPeer) -> None:
    latched = Ros2QosPolicies(reliable=True, durability=Ros2Durability.TransientLocal, keep_last=2)
    publisher = node.create_publisher(node.create_topic("/ours", "std_msgs/String", latched))
    for text in ("a", "b", "c"):
        publisher.publish({"data": text})
    peer.subscription(topic="/ours", depth=2, latched=True)
    assert peer.taken(topic="/ours", count=2, timeout=TIMEOUT) == ["b", "c"]
    peer.publisher(topic="/theirs", depth=2, latched=True)
    peer.publish(topic="/theirs", texts=["x", "y", "z"])
    subscription = node.create_subscription(node.create_topic("/theirs", "std_msgs/String", latched))
    received = [subscription.next(TIMEOUT) for _ in range(2)]
    assert [one.to_pylist() for one in received if one is not None] == [[{"data": "y"}], [{"data": "z"}]]


@with_services
def test_services_are_called_and_served(node: Ros2Node, peer: RclpyPeer) -> None:
    peer.server(service="/theirs")
    client = node.create_service_client("/theirs", SET_BOOL, RELIABLE)
    for value, said in ((True, "set"), (False, "unset")):
        response = client.call({"data": value}, TIMEOUT)
        assert response.to_pylist() == [{"success": value, "message": said}]
    server = node.create_service_server("/ours", SET_BOOL, RELIABLE)

    def serve() -> None:
        taken = server.take_request(TIMEOUT)
        assert taken is not None
        number, request = taken
        server.send_response(number, {"success": request[0].as_py()["data"], "message": "grüße"})

    thread = threading.Thread(target=serve)
    thread.start()
    assert peer.call(service="/ours", value=True) == [True, "grüße"]
    thread.join(TIMEOUT)


@needs_examples
@with_services
def test_two_numbers_are_added_there_and_here(node: Ros2Node, peer: RclpyPeer) -> None:
    peer.adder(service="/theirs")
    client = node.create_service_client("/theirs", f"{EXAMPLES}/AddTwoInts", RELIABLE)
    for a, b in ((2, 40), (-(2**40), 2**41)):
        assert client.call({"a": a, "b": b}, TIMEOUT).to_pylist() == [{"sum": a + b}]
    server = node.create_service_server("/ours", f"{EXAMPLES}/AddTwoInts", RELIABLE)

    def serve() -> None:
        taken = server.take_request(TIMEOUT)
        assert taken is not None
        number, request = taken
        server.send_response(number, {"sum": sum(request[0].as_py().values())})

    thread = threading.Thread(target=serve)
    thread.start()
    assert peer.add(service="/ours", a=-1, b=2**40) == 2**40 - 1
    thread.join(TIMEOUT)


@each_fibonacci
@with_services
def test_goals_go_to_an_action_of_rclpy_with_feedback_and_cancellation(
    node: Ros2Node, peer: RclpyPeer, fibonacci: str
) -> None:
    peer.fibonacci_server(action="/theirs", type=fibonacci)
    client = node.create_action_client("/theirs", fibonacci, RELIABLE)
    goal = client.send_goal({"order": 3}, TIMEOUT)
    assert goal is not None
    feedback = client.take_feedback(goal, TIMEOUT)
    assert feedback is not None
    assert feedback[0].as_py()["sequence"][:2] == [0, 1]
    found = client.take_result(goal, TIMEOUT)
    assert found is not None
    assert (found[0], found[1].to_pylist()) == ("succeeded", [{"sequence": [0, 1, 1, 2, 3]}])
    goal = client.send_goal({"order": 100_000}, TIMEOUT)
    assert goal is not None
    assert client.take_feedback(goal, TIMEOUT) is not None
    assert client.cancel(goal, TIMEOUT) == 0
    found = client.take_result(goal, TIMEOUT)
    assert found is not None
    assert (found[0], found[1][0].as_py()["sequence"][:3]) == ("canceled", [0, 1, 1])


@each_fibonacci
@with_services
def test_goals_of_rclpy_come_to_an_action_server(node: Ros2Node, peer: RclpyPeer, fibonacci: str) -> None:
    server = node.create_action_server("/ours", fibonacci, RELIABLE)

    def work() -> None:
        for cancels in (False, True):
            taken = server.take_goal(TIMEOUT)
            assert taken is not None
            goal, value = taken
            order = value[0].as_py()["order"]
            server.send_feedback(goal, {"sequence": [order]})
            if cancels:
                assert server.take_cancel(TIMEOUT) == [goal]
            server.send_result(goal, {"sequence": [order, 1]}, "canceled" if cancels else "succeeded")

    thread = threading.Thread(target=work)
    thread.start()
    assert peer.fibonacci_goal(action="/ours", order=7, type=fibonacci) == [4, [7, 1], [[7]]]
    assert peer.fibonacci_goal(action="/ours", order=8, cancel=True, type=fibonacci) == [5, [8, 1], [[8]]]
    thread.join(TIMEOUT)
    assert not thread.is_alive()


@with_services
def test_parameters_are_got_and_set_in_both_directions(real_robot: Robot, peer: RclpyPeer) -> None:
    declared = {"speed": 1.5, "name": "arm", "joints": ["a", "b"], "gains": [1, 2]}
    node = real_robot.context().new_node("ours", "/robot", OPTIONS, parameters=declared)
    names = list(declared)
    assert peer.parameters_of(node="/robot/ours", names=names) == list(declared.values())
    assert peer.set_parameter_of(node="/robot/ours", name="speed", value=2.25) == [True, ""]
    assert node.get_parameter("speed") == 2.25
    refused = peer.set_parameter_of(node="/robot/ours", name="speed", value="fast")
    assert refused == [False, "parameter `speed` is a float, and cannot become a text"]
    peer.declare_parameters(values={"gain": 7, "label": "x"})
    get = node.create_service_client("/peer/get_parameters", "rcl_interfaces/GetParameters", RELIABLE)
    values = get.call({"names": ["gain", "label"]}, TIMEOUT)[0].as_py()["values"]
    assert (values[0]["integer_value"], values[1]["string_value"]) == (7, "x")
    set_them = node.create_service_client("/peer/set_parameters", "rcl_interfaces/SetParameters", RELIABLE)
    change = {"name": "gain", "value": {"type": 2, "integer_value": 9}}
    results = set_them.call({"parameters": [change]}, TIMEOUT)[0].as_py()["results"]
    assert [one["successful"] for one in results] == [True]
    assert peer.own_parameter(name="gain") == 9
