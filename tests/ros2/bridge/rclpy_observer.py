"""A program of rclpy that looks at parameters, the clock and the log, as lines on its input ask for.

It runs with the Python of a real ROS 2, so it imports nothing of dora.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import rclpy
from rcl_interfaces.msg import Log, ParameterEvent
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header


class Peer:
    def __init__(self, name: str, executor: Any) -> None:
        self.executor = executor
        self.node = self.make(name)
        self.clients: dict[str, AsyncParameterClient] = {}
        self.events: list[Any] = []
        self.logs: list[Any] = []
        self.node.create_subscription(ParameterEvent, "/parameter_events", self.on_event, 100)
        latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(Log, "/rosout", self.on_log, latched)

    def make(self, name: str, **options: Any) -> Any:
        node = rclpy.create_node(name, **options)
        self.executor.add_node(node)
        return node

    def on_event(self, event: Any) -> None:
        def plain(items: Any) -> dict[str, Any]:
            return {item.name: parameter_value_to_python(item.value) for item in items}

        changes = [event.new_parameters, event.changed_parameters, event.deleted_parameters]
        self.events.append([event.node, *map(plain, changes)])

    def on_log(self, log: Any) -> None:
        self.logs.append([log.level, log.name, log.msg])

    def events_of(self, node: str) -> list[Any]:
        return [event[1:] for event in self.events if event[0] == node]

    def logs_of(self, name: str) -> list[Any]:
        return [[level, text] for level, found, text in self.logs if found == name]

    def client(self, node: str) -> AsyncParameterClient:
        if node not in self.clients:
            self.clients[node] = AsyncParameterClient(self.node, node)
            assert self.clients[node].wait_for_services(30)
        return self.clients[node]

    def list(self, node: str) -> list[str]:
        return list(wait_for(self.client(node).list_parameters()).result.names)

    def get(self, node: str, names: list[str]) -> list[Any] | None:
        """None without an answer: the node may just have gone."""
        found = wait_for(self.client(node).get_parameters(names), required=False)
        return found and [parameter_value_to_python(value) for value in found.values]

    def types(self, node: str, names: list[str]) -> list[int]:
        return list(wait_for(self.client(node).get_parameter_types(names)).types)

    def describe(self, node: str, names: list[str]) -> list[Any]:
        found = wait_for(self.client(node).describe_parameters(names)).descriptors
        return [[item.name, item.type, item.dynamic_typing] for item in found]

    def set(self, node: str, values: dict[str, Any]) -> list[Any]:
        changes = [Parameter(name, value=value) for name, value in values.items()]
        results = wait_for(self.client(node).set_parameters(changes)).results
        return [[result.successful, result.reason] for result in results]

    def set_together(self, node: str, values: dict[str, Any]) -> list[Any]:
        client = self.node.create_client(SetParametersAtomically, f"{node}/set_parameters_atomically")
        assert client.wait_for_service(30)
        request = SetParametersAtomically.Request()
        request.parameters = [
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
        ]
        result = wait_for(client.call_async(request)).result
        return [result.successful, result.reason]

    # A node whose time is the one of /clock, as of a robot in a simulation.

    def follow_clock(self, name: str) -> None:
        self.follower = self.make(name, parameter_overrides=[Parameter("use_sim_time", value=True)])

    def time_of_follower(self) -> int:
        return int(self.follower.get_clock().now().nanoseconds)

    # A simulation.

    def simulate(self, seconds: int) -> None:
        if not hasattr(self, "clock"):
            self.clock = self.node.create_publisher(Clock, "/clock", 10)
            self.headers = self.node.create_publisher(Header, "/header", 10)
        message = Clock()
        message.clock.sec = seconds
        self.clock.publish(message)

    def listen_to_images(self) -> None:
        self.images: list[int] = []
        self.node.create_subscription(
            Image, "/image", lambda image: self.images.append(image.header.stamp.sec), 100
        )

    def image_stamps(self) -> list[int]:
        return self.images

    def publish_header(self) -> None:
        self.headers.publish(Header(frame_id="odom"))


def wait_for(future: Any, required: bool = True) -> Any:
    """Return the result of a future, which the executor sets."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    came = done.wait(30 if required else 1)
    assert came or not required
    return future.result()


def main() -> None:
    rclpy.init()
    executor = MultiThreadedExecutor(4)
    peer = Peer("observer", executor)
    threading.Thread(target=executor.spin, daemon=True).start()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(peer, name)(**arguments)), flush=True)


if __name__ == "__main__":
    main()
