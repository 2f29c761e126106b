"""Our engines and a real rclpy (Kilted, Fast DDS) meet, in both directions."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy_process import RclpyPeer, files_of, memory_of, threads_of
from real_ros import ROS_VARIABLES
from ros_meeting import HEADER, STRING, Meeting, RosTypeName, meeting
from waiting import TIMEOUT, wait_until

from dora.ros2.graph import Kind
from dora.ros2.qos import LATCHED, SENSOR_DATA, Durability, Qos

pytestmark = [pytest.mark.ros2, pytest.mark.processes]

IMAGE = RosTypeName("sensor_msgs/msg/Image", "sensor_msgs::msg::dds_::Image_", "")
SET_BOOL = RosTypeName("std_srvs/srv/SetBool", "std_srvs::srv::dds_::SetBool_", "")


@pytest.fixture(params=["dds", "rclpy"])
def ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting(request.param, monkeypatch) as found:
        monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
        for name, value in ROS_VARIABLES.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def peer(ours: Meeting) -> Iterator[RclpyPeer]:
    found = RclpyPeer(ours.domain)
    yield found
    found.close()


def text_message(text: str) -> bytes:
    data = text.encode() + b"\0"
    return HEADER + struct.pack("<I", len(data)) + data


def text_of(data: bytes) -> str:
    (size,) = struct.unpack_from("<I", data, 4)
    return data[8 : 8 + size - 1].decode()


def wait_for_subscription_of(peer: RclpyPeer, topic: str) -> None:
    wait_until(lambda: peer.subscriptions_of(topic=topic), f"a subscription of {topic} for rclpy")


def connect(peer: RclpyPeer, topic: str, subscription: Any) -> None:
    """Wait until messages of rclpy arrive: each side finds the other one on its own."""
    wait_for_subscription_of(peer, topic)

    def heard() -> bool:
        peer.publish(topic=topic, texts=["begin"])
        return subscription.take(0.1) is not None

    wait_until(heard, f"a message of rclpy on {topic}")
    peer.publish(topic=topic, texts=["go"])
    while text_of(subscription.take(TIMEOUT)) != "go":
        pass


def test_text_of_rclpy_arrives(ours: Meeting, peer: RclpyPeer) -> None:
    subscription = ours.open().create_node("listener").create_subscription("/chatter", STRING)
    peer.publisher(topic="/chatter")
    connect(peer, "/chatter", subscription)
    peer.publish(topic="/chatter", texts=["hello", "", "grüße"])
    received = [subscription.take(TIMEOUT) for _ in range(3)]
    assert [text_of(item) for item in received] == ["hello", "", "grüße"]


def test_text_arrives_at_rclpy(ours: Meeting, peer: RclpyPeer) -> None:
    publisher = ours.open().create_node("talker").create_publisher("/chatter", STRING)
    peer.subscription(topic="/chatter")
    wait_until(publisher.has_subscription, "the subscription")
    for text in ("hello", "", "grüße"):
        publisher.publish(text_message(text))
    assert peer.taken(topic="/chatter", count=3, timeout=TIMEOUT) == ["hello", "", "grüße"]


def test_images_pass_in_both_directions(ours: Meeting, peer: RclpyPeer) -> None:
    node = ours.open().create_node("camera")
    subscription = node.create_subscription("/there", IMAGE)
    publisher = node.create_publisher("/back", IMAGE)
    peer.publisher(topic="/there", type=IMAGE.name)
    peer.subscription(topic="/back", type=IMAGE.name)
    wait_for_subscription_of(peer, "/there")
    wait_until(publisher.has_subscription, "the subscription")

    def image() -> Any:
        peer.publish_image(topic="/there", width=640, height=480)
        return subscription.take(1)

    message = wait_until(image, "an image of rclpy")
    pixels = bytes(range(256)) * (3 * 640 * 480 // 256)
    assert message[-len(pixels) :] == pixels or pixels in message
    publisher.publish(message)
    digest = hashlib.sha256(pixels).hexdigest()
    assert peer.taken(topic="/back", count=1, timeout=TIMEOUT) == [[640, 480, "rgb8", digest]]


def test_ten_thousand_messages_of_rclpy_at_1_khz_all_arrive_in_order(
    ours: Meeting, peer: RclpyPeer
) -> None:
    subscription = (
        ours.open().create_node("listener").create_subscription("/many", STRING, Qos(depth=10_000))
    )
    peer.publisher(topic="/many", depth=10_000)
    connect(peer, "/many", subscription)
    peer.publish_many(topic="/many", count=10_000, rate=1000)
    numbers = [int(text_of(subscription.take(TIMEOUT))) for _ in range(10_000)]
    assert numbers == list(range(10_000))
    assert (subscription.counters.dropped, subscription.counters.lost) == (0, 0)


def test_ten_thousand_messages_at_1_khz_all_arrive_at_rclpy_in_order(
    ours: Meeting, peer: RclpyPeer
) -> None:
    publisher = ours.open().create_node("talker").create_publisher("/many", STRING, Qos(depth=10_000))
    peer.subscription(topic="/many", depth=10_000)
    wait_until(publisher.has_subscription, "the subscription")
    begin = time.monotonic()
    for number in range(10_000):
        publisher.publish(text_message(str(number)))
        time.sleep(max(0.0, begin + (number + 1) / 1000 - time.monotonic()))
    taken = peer.taken(topic="/many", count=10_000, timeout=TIMEOUT)
    assert taken == [str(number) for number in range(10_000)]


def test_latecomers_get_latched_messages_in_both_directions(ours: Meeting, peer: RclpyPeer) -> None:
    node = ours.open().create_node("map")
    qos = Qos(durability=Durability.TRANSIENT_LOCAL, depth=2)
    publisher = node.create_publisher("/ours", STRING, qos)
    for text in ("a", "b", "c"):
        publisher.publish(text_message(text))
    peer.subscription(topic="/ours", depth=2, latched=True)
    assert peer.taken(topic="/ours", count=2, timeout=TIMEOUT) == ["b", "c"]
    peer.publisher(topic="/theirs", depth=2, latched=True)
    peer.publish(topic="/theirs", texts=["x", "y", "z"])
    subscription = node.create_subscription("/theirs", STRING, qos)
    assert [text_of(subscription.take(TIMEOUT)) for _ in range(2)] == ["y", "z"]


def test_both_sides_see_the_nodes_and_endpoints_of_the_other(ours: Meeting, peer: RclpyPeer) -> None:
    context = ours.open()
    node = context.create_node("dora_node", "/robot")
    publisher = node.create_publisher("/chatter", STRING)
    node.create_subscription("/scan", STRING, SENSOR_DATA)
    peer.publisher(topic="/scan")
    peer.subscription(topic="/chatter")

    def seen() -> Any:
        graph = peer.graph(topic="/chatter")
        return graph if "dora_node" in graph["nodes"] and graph["publishers"] else None

    graph = wait_until(seen, "our node and publisher in the graph of rclpy")
    assert graph["topics"]["/chatter"] == ["std_msgs/msg/String"]
    (found,) = graph["publishers"]
    assert found[:2] == [STRING.name, STRING.hash]
    if ours.engine == "dds":
        assert found[2] == publisher.gid.hex()
    assert context.graph.wait_for(lambda: "/peer" in [item.full for item in context.graph.nodes()], TIMEOUT)

    def theirs() -> Any:
        return [
            item
            for item in context.graph.endpoints(Kind.SUBSCRIPTION, "/chatter")
            if item.node.name == "peer"
        ]

    assert context.graph.wait_for(lambda: bool(theirs()), TIMEOUT)
    assert (theirs()[0].type, theirs()[0].type_hash) == (STRING.name, STRING.hash)


def test_a_latched_request_to_a_volatile_publisher_of_rclpy_is_told(ours: Meeting, peer: RclpyPeer) -> None:
    context = ours.open()
    subscription = context.create_node("late").create_subscription("/chatter", STRING, LATCHED)
    peer.publisher(topic="/chatter")

    def told() -> list[str]:
        problems: list[str] = context.graph.problems(subscription.gid, checks_qos=context.checks_qos)
        return [item for item in problems if "/peer" in item]

    assert context.graph.wait_for(lambda: bool(told()), TIMEOUT)
    assert told() == [
        "no message passes on /chatter from publisher /peer to subscription /late: the publisher offers "
        "durability volatile, the subscription requests transient_local; set `durability: volatile` here"
    ]


@pytest.mark.parametrize("ours", ["rclpy"], indirect=True)
def test_services_work_in_both_directions(ours: Meeting, peer: RclpyPeer) -> None:
    node = ours.open().create_node("both")
    peer.server(service="/theirs")
    client = node.create_client("/theirs", SET_BOOL)
    response = client.call(HEADER + b"\x01", TIMEOUT)
    assert response[4] == 1
    assert response[12:16] == b"set\0"
    server = node.create_server("/ours", SET_BOOL)

    def serve() -> None:
        request = server.take_request(TIMEOUT)
        assert request is not None
        server.send_response(request.id, HEADER + request.data[4:5] + bytes(3) + b"\x03\x00\x00\x00ok\x00")

    thread = threading.Thread(target=serve)
    thread.start()
    assert peer.call(service="/ours", value=True) == [True, "ok"]
    thread.join(TIMEOUT)


def test_an_rclpy_that_is_killed_and_restarted_is_found_again_and_leaves_nothing(ours: Meeting) -> None:
    context = ours.open()
    subscription = context.create_node("listener").create_subscription("/chatter", STRING)
    processes = [os.getpid()] + ([context.process.pid] if ours.engine == "rclpy" else [])
    used: list[list[tuple[int, int, int]]] = []
    for number in range(20):
        peer = RclpyPeer(ours.domain, f"peer{number}")
        peer.publisher(topic="/chatter")
        connect(peer, "/chatter", subscription)
        peer.kill()
        used.append([(files_of(pid), threads_of(pid), memory_of(pid)) for pid in processes])
    for first, last in zip(used[4], used[-1], strict=True):  # some killed ones are remembered for a while
        assert last[0] <= first[0] + 2, used
        assert last[1] <= first[1] + 2, used
        assert last[2] <= first[2] + 10, used
    assert len([item for item in context.graph.nodes() if item.name.startswith("peer")]) <= 20
