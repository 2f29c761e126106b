"""The time of a node: the system's, or the one of `/clock`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from waiting import TIMEOUT, wait_until

from dora import Ros2NodeOptions, Ros2Publisher, Ros2QosPolicies
from dora.ros2 import InterfaceLibrary
from dora.ros2.api.clock import NodeClock, stamp_of
from dora.ros2.message_queue import MessageCounters, MessageQueue

if TYPE_CHECKING:
    from conftest import Robot

OPTIONS = Ros2NodeOptions()
RELIABLE = Ros2QosPolicies(reliable=True, keep_last=10)
CLOCK = InterfaceLibrary(prefixes=[], distribution="kilted").message("rosgraph_msgs/Clock")


class Subscription:
    """A subscription of the engine, which keeps its last message."""

    def __init__(self) -> None:
        self.counters = MessageCounters()
        self.messages: MessageQueue[bytes] = MessageQueue(1, self.counters)
        self.take = self.messages.take
        self.close = self.messages.close

    def put(self, data: bytes) -> None:
        self.messages.put(data)

    def say(self, seconds: int) -> None:
        self.put(CLOCK.encode({"clock": {"sec": seconds, "nanosec": 5}}))


def test_a_simulated_time_begins_at_zero_and_is_the_last_one_that_came() -> None:
    made: list[Subscription] = []

    def subscribe() -> Any:
        made.append(Subscription())
        return made[-1], CLOCK

    clock = NodeClock(subscribe)
    assert (clock.is_simulated, made) == (False, [])
    assert abs(clock.time_ns() - time.time_ns()) < 3600e9
    clock.follow(True)
    assert (clock.is_simulated, clock.time_ns()) == (True, 0)
    made[0].say(1000)
    made[0].say(2000)
    assert [clock.time_ns(), clock.time_ns()] == [2000 * 10**9 + 5] * 2
    made[0].say(1500)  # a simulation that begins again
    assert clock.time_ns() == 1500 * 10**9 + 5
    made[0].put(b"no clock")
    assert clock.time_ns() == 1500 * 10**9 + 5
    assert made[0].counters.malformed == 1
    clock.follow(True)
    assert len(made) == 1
    clock.follow(False)
    assert made[0].messages.closed
    assert clock.time_ns() > 1_700_000_000 * 10**9
    clock.follow(True)
    assert clock.time_ns() == 0


def test_a_time_with_a_second_of_nanoseconds_is_malformed_and_the_last_one_stays() -> None:
    subscription: Any = Subscription()
    clock = NodeClock(lambda: (subscription, CLOCK))
    clock.follow(True)
    subscription.say(1000)
    assert clock.time_ns() == 1000 * 10**9 + 5
    subscription.put(CLOCK.encode({"clock": {"sec": 2**31 - 1, "nanosec": 2**32 - 1}}))
    assert clock.time_ns() == 1000 * 10**9 + 5
    assert subscription.counters.malformed == 1
    subscription.put(CLOCK.encode({"clock": {"sec": 2**31 - 1, "nanosec": 10**9 - 1}}))
    assert stamp_of(clock.time_ns()) == {"sec": 2**31 - 1, "nanosec": 10**9 - 1}


def publish_until(publisher: Ros2Publisher, seconds: int, node: Any) -> None:
    def followed() -> bool:
        publisher.publish({"clock": {"sec": seconds}})
        return bool(node.time_ns() == seconds * 10**9)

    wait_until(followed, lambda: f"the time {seconds} s, not {node.time_ns()}")


def test_a_node_with_use_sim_time_follows_the_topic(robot: Robot) -> None:
    simulator = robot.context().new_node("simulator", "/", OPTIONS)
    topic = simulator.create_topic("/clock", "rosgraph_msgs/Clock", RELIABLE)
    publisher = simulator.create_publisher(topic)
    node = robot.context().new_node("robot", "/", OPTIONS, parameters={"use_sim_time": True})
    assert (node.is_simulated, node.time_ns()) == (True, 0)
    publish_until(publisher, 1000, node)
    publish_until(publisher, 1001, node)
    node.set_parameter("use_sim_time", False)
    assert not node.is_simulated
    assert node.time_ns() > 1_700_000_000 * 10**9


def test_changes_of_parameters_have_the_time_of_the_node(serving_robot: Robot) -> None:
    simulator = serving_robot.context().new_node("simulator", "/", OPTIONS)
    publisher = simulator.create_publisher(
        simulator.create_topic("/clock", "rosgraph_msgs/Clock", RELIABLE)
    )
    topic = simulator.create_topic("/parameter_events", "rcl_interfaces/ParameterEvent", RELIABLE)
    events = simulator.create_subscription(topic)
    parameters = {"use_sim_time": True, "gain": 1}
    node = serving_robot.context().new_node("robot", "/", OPTIONS, parameters=parameters)
    publish_until(publisher, 1000, node)
    server = node.parameters._server
    assert server is not None
    wait_until(server._events.has_subscription, "the subscription of the events")
    node.set_parameter("gain", 2)
    while True:
        event = events.next(TIMEOUT)
        assert event is not None
        found = event[0].as_py()
        if any(item["name"] == "gain" for item in found["changed_parameters"]):
            break
    assert found["stamp"] == {"sec": 1000, "nanosec": 0}
