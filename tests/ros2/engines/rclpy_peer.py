"""A program of rclpy that does what lines on its standard input ask for, and answers each with a line.

It runs with the Python of a real ROS 2, so it imports nothing of dora.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

TYPES = {"String": String, "Image": Image}


class Peer:
    def __init__(self, name: str) -> None:
        self.node = rclpy.create_node(name)
        self.publishers: dict[str, Any] = {}
        self.received: dict[str, list[Any]] = {}

    def profile(self, depth: int, latched: bool) -> QoSProfile:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        return QoSProfile(depth=depth, durability=durability)

    def publisher(self, topic: str, type: str = "String", depth: int = 10, latched: bool = False) -> None:
        profile = self.profile(depth, latched)
        self.publishers[topic] = self.node.create_publisher(TYPES[type], topic, profile)

    def subscriptions_of(self, topic: str) -> int:
        return int(self.publishers[topic].get_subscription_count())

    def publish(self, topic: str, texts: list[str]) -> None:
        for text in texts:
            self.publishers[topic].publish(String(data=text))

    def publish_many(self, topic: str, count: int, rate: float) -> None:
        def run() -> None:
            begin = time.monotonic()
            for number in range(count):
                self.publishers[topic].publish(String(data=str(number)))
                time.sleep(max(0.0, begin + (number + 1) / rate - time.monotonic()))

        threading.Thread(target=run, daemon=True).start()

    def publish_image(self, topic: str, width: int, height: int) -> None:
        image = Image(width=width, height=height, encoding="rgb8", step=3 * width)
        image.header.frame_id = "camera"
        image.data = bytes(range(256)) * (3 * width * height // 256)
        self.publishers[topic].publish(image)

    def subscription(
        self, topic: str, type: str = "String", depth: int = 10, latched: bool = False
    ) -> None:
        received: list[Any] = self.received.setdefault(topic, [])

        def on_message(message: Any) -> None:
            if type == "Image":
                digest = hashlib.sha256(bytes(message.data)).hexdigest()
                received.append([message.width, message.height, message.encoding, digest])
            else:
                received.append(message.data)

        profile = self.profile(depth, latched)
        self.node.create_subscription(TYPES[type], topic, on_message, profile)

    def taken(self, topic: str, count: int, timeout: float) -> list[Any]:
        until = time.monotonic() + timeout
        while len(self.received[topic]) < count and time.monotonic() < until:
            time.sleep(0.005)
        return self.received[topic]

    def graph(self, topic: str) -> dict[str, Any]:
        def describe(info: Any) -> list[Any]:
            return [info.topic_type, str(info.topic_type_hash), bytes(info.endpoint_gid).hex()]

        return {
            "nodes": sorted(self.node.get_node_names()),
            "topics": dict(self.node.get_topic_names_and_types()),
            "publishers": [describe(info) for info in self.node.get_publishers_info_by_topic(topic)],
            "subscriptions": [describe(info) for info in self.node.get_subscriptions_info_by_topic(topic)],
        }

    def server(self, service: str) -> None:
        def answer(request: Any, response: Any) -> Any:
            response.success, response.message = request.data, "set" if request.data else "unset"
            return response

        self.node.create_service(SetBool, service, answer)

    def call(self, service: str, value: bool) -> list[Any]:
        client = self.node.create_client(SetBool, service)
        assert client.wait_for_service(30)
        future = client.call_async(SetBool.Request(data=value))
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(30)
        return [future.result().success, future.result().message]


def main() -> None:
    rclpy.init()
    peer = Peer(sys.argv[1])
    executor = SingleThreadedExecutor()
    executor.add_node(peer.node)
    threading.Thread(target=executor.spin, daemon=True).start()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(peer, name)(**arguments)), flush=True)


main()
