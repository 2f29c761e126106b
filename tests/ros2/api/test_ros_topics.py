"""Topics of the Python interface, over every engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from ros_meeting import wait_for_subscription
from waiting import TIMEOUT, wait_until

from dora import (
    Ros2Context,
    Ros2Durability,
    Ros2Liveliness,
    Ros2NodeOptions,
    Ros2Publisher,
    Ros2QosPolicies,
    Ros2Subscription,
    Ros2Transport,
)
from dora.ros2 import TypeNotFound, ValueMismatch
from dora.ros2.api.reports import RosoutHandler
from dora.ros2.qos import INFINITE_NS, Durability, Liveliness, Qos, Reliability

if TYPE_CHECKING:
    from conftest import Robot

OPTIONS = Ros2NodeOptions()
RELIABLE = Ros2QosPolicies(reliable=True, keep_last=10, max_blocking_time=0.1)


def publisher_on(context: Ros2Context, topic: str, type: str, name: str = "talker") -> Ros2Publisher:
    node = context.new_node(name, "/", OPTIONS)
    return node.create_publisher(node.create_topic(topic, type, RELIABLE))


def subscription_on(context: Ros2Context, topic: str, type: str) -> Ros2Subscription:
    node = context.new_node("listener", "/", OPTIONS)
    return node.create_subscription(node.create_topic(topic, type, RELIABLE))


def pair(robot: Robot, type: str) -> tuple[Ros2Publisher, Ros2Subscription]:
    publisher = publisher_on(robot.context(), "/topic", type)
    subscription = subscription_on(robot.context(), "/topic", type)
    wait_for_subscription(publisher._publisher)
    return publisher, subscription


@pytest.mark.parametrize(
    "value",
    [
        {"data": "hello"},
        [{"data": "hello"}],
        pa.array([{"data": "hello"}]),
    ],
    ids=["dict", "list", "arrow"],
)
def test_a_message_is_a_struct_array_of_one_row(robot: Robot, value: Any) -> None:
    publisher, subscription = pair(robot, "std_msgs/String")
    publisher.publish(value)
    message = subscription.next(TIMEOUT)
    assert isinstance(message, pa.StructArray)
    assert message.to_pylist() == [{"data": "hello"}]
    assert subscription.next(0) is None


def test_missing_fields_have_their_default(robot: Robot) -> None:
    publisher, subscription = pair(robot, "geometry_msgs/Twist")
    publisher.publish(pa.array([{"linear": {"x": 1.5}, "angular": {"z": -0.5}}]))
    message = subscription.next(TIMEOUT)
    assert message is not None
    assert message[0].as_py() == {
        "linear": {"x": 1.5, "y": 0.0, "z": 0.0},
        "angular": {"x": 0.0, "y": 0.0, "z": -0.5},
    }


def test_iteration_ends_when_the_subscription_is_closed(robot: Robot) -> None:
    publisher, subscription = pair(robot, "std_msgs/String")
    publisher.publish({"data": "last"})
    wait_until(lambda: subscription.counters.received, "the message")
    subscription.close()
    assert [message[0].as_py() for message in subscription] == [{"data": "last"}]


def test_a_value_that_does_not_fit_names_its_field(robot: Robot) -> None:
    publisher = publisher_on(robot.context(), "/pose", "geometry_msgs/Twist")
    with pytest.raises(ValueMismatch, match=r"'linear\.x' of geometry_msgs/msg/Twist: expected float64"):
        publisher.publish({"linear": {"x": "fast"}})
    with pytest.raises(ValueMismatch, match="one message, got a list of 2"):
        publisher.publish([{}, {}])
    with pytest.raises(ValueMismatch, match="speed"):
        publisher.publish({"speed": 1})


def test_malformed_messages_are_counted_and_told_once_a_second(
    robot: Robot, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, subscription = pair(robot, "std_msgs/String")
    with caplog.at_level(logging.WARNING, "dora.ros2"):
        for _ in range(5):  # a text of 255 bytes, of which one is there
            publisher._publisher.publish(b"\0\1\0\0\xff\0\0\0a\0\0\0")
        publisher.publish({"data": "good"})
        message = subscription.next(TIMEOUT)
    assert message is not None
    assert message[0].as_py() == {"data": "good"}
    assert subscription.counters.malformed == 5
    told = [record.message for record in caplog.records if "dropped" in record.message]
    assert len(told) == 1
    assert told[0].startswith("the subscription of /topic has dropped a message: ")


def test_two_qualities_that_do_not_match_are_told_with_both_names(
    dds_robot: Robot, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dora.ros2"):
        talker = dds_robot.context().new_node("lidar", "/", OPTIONS)
        talker.create_publisher(talker.create_topic("/scan", "sensor_msgs/LaserScan", Ros2QosPolicies()))
        listener = dds_robot.context().new_node("map", "/robot", OPTIONS)
        topic = listener.create_topic("/scan", "sensor_msgs/LaserScan", RELIABLE)
        listener.create_subscription(topic)
        wait_until(lambda: len(caplog.records) >= 2, "a warning of each side")
    assert sorted(record.message for record in caplog.records) == [
        "no message passes on /scan from publisher /lidar to subscription /robot/map: the publisher offers "
        "reliability best_effort, the subscription requests reliable; set `reliability: " + policy
        for policy in ("best_effort` here", "reliable` here")
    ]


def test_what_a_node_logs_goes_to_rosout_if_a_node_asks_for_it(robot: Robot) -> None:
    log = subscription_on(robot.context(), "/rosout", "rcl_interfaces/Log")
    context = robot.context()
    node = context.new_node("talker", "/robot", Ros2NodeOptions(rosout=True))
    (rosout,) = node.logger.handlers
    assert isinstance(rosout, RosoutHandler)
    wait_for_subscription(rosout._publisher)
    node.logger.debug("nobody wants this")
    node.logger.info("it has %d wheels", 4)
    node.logger.error("something is wrong")
    found = []
    for _ in range(2):
        message = log.next(TIMEOUT)
        assert message is not None
        found.append(message[0].as_py())
    assert [(item["name"], item["level"], item["msg"]) for item in found] == [
        ("robot.talker", 20, "it has 4 wheels"),
        ("robot.talker", 40, "something is wrong"),
    ]
    assert found[0]["file"] == __file__
    assert found[1]["line"] == found[0]["line"] + 1
    assert found[0]["stamp"]["sec"] > 1_700_000_000


def test_a_type_that_is_not_there_is_told_with_places_and_near_ones(robot: Robot) -> None:
    node = robot.context().new_node("talker", "/", OPTIONS)
    with pytest.raises(TypeNotFound, match=r"std_msgs/msg/Text'; looked in .*"):
        node.create_topic("/chatter", "std_msgs/Text", RELIABLE)


def test_names_that_break_the_rules_of_ros_are_refused(robot: Robot) -> None:
    context = robot.context()
    with pytest.raises(ValueError, match="`bad name` is no name of a ROS node"):
        context.new_node("bad name", "/", OPTIONS)
    node = context.new_node("talker", "/", OPTIONS)
    with pytest.raises(ValueError, match="`/a b` is no name of a ROS topic"):
        node.create_publisher(node.create_topic("/a b", "std_msgs/String", RELIABLE))


# ---------------------------------------------------------------------- without an engine


def test_the_defaults_of_qualities_are_the_ones_of_dora_rs() -> None:
    assert Ros2QosPolicies().qos == Qos(
        reliability=Reliability.BEST_EFFORT, depth=1, max_blocking_time=0, lease_duration=None
    )
    found = Ros2QosPolicies(
        durability=Ros2Durability.TransientLocal,
        liveliness=Ros2Liveliness.ManualByTopic,
        keep_all=True,
        lease_duration=0.5,
    ).qos
    assert found.durability is Durability.TRANSIENT_LOCAL
    assert found.liveliness is Liveliness.MANUAL_BY_TOPIC
    assert found.queue_size is None
    assert found.lease_duration == 500_000_000 < INFINITE_NS


@pytest.mark.parametrize("name", ["lease_duration", "max_blocking_time"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_impossible_durations_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is a number of seconds"):
        Ros2QosPolicies(**{name: value})  # type: ignore[arg-type]


def test_a_queue_holds_at_least_one_message() -> None:
    with pytest.raises(ValueError, match="`keep_last` is at least 1, not 0"):
        Ros2QosPolicies(keep_last=0)


def test_the_domain_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ros2Context().domain_id == 0
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    assert Ros2Context().domain_id == 42
    assert Ros2Context(domain_id=3).domain_id == 3
    monkeypatch.setenv("ROS_DOMAIN_ID", "x")
    with pytest.raises(ValueError, match=r"\$ROS_DOMAIN_ID is a number of at least 0, not 'x'"):
        Ros2Context()
    with pytest.raises(ValueError, match="`domain_id` is a number of at least 0, not -1"):
        Ros2Context(domain_id=-1)


def test_the_transport_has_the_kind_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ros2Transport.dds().kind == "dds"
    assert Ros2Context(transport=Ros2Transport.zenoh("humble")).transport_kind == "zenoh"
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_zenoh_cpp")
    assert Ros2Context().transport_kind == "zenoh"
    with pytest.raises(ValueError, match="`compatibility` is `humble` or `rep2016`, not 'jazzy'"):
        Ros2Transport.zenoh("jazzy")


def test_a_router_that_does_not_answer_is_told_with_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "ZENOH_CONFIG_OVERRIDE", 'connect/endpoints=["tcp/127.0.0.1:1"];connect/timeout_ms=100'
    )
    context = Ros2Context(transport=Ros2Transport.zenoh("rep2016"))
    with pytest.raises(RuntimeError, match=r"no Zenoh router answers at tcp/127\.0\.0\.1:1"):
        context.new_node("talker", "/", OPTIONS)
