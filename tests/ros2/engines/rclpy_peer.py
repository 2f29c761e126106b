"""A program of rclpy that does what lines on its standard input ask for, and answers each with a line.

It runs with the Python of a real ROS 2, so it imports nothing of dora.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import Parameter as ParameterMessage
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from rclpy.task import Future
from sample_messages import SAMPLES
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

sys.path.append(str(Path(__file__).parents[1]))
from ros_server import class_of, message_of


class Peer:
    def __init__(self, name: str) -> None:
        self.node = rclpy.create_node(name)
        self.publishers: dict[str, Any] = {}
        self.received: dict[str, list[Any]] = {}

    def profile(self, depth: int, latched: bool) -> QoSProfile:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        return QoSProfile(depth=depth, durability=durability)

    def publisher(
        self, topic: str, type: str = "std_msgs/msg/String", depth: int = 10, latched: bool = False
    ) -> None:
        profile = self.profile(depth, latched)
        self.publishers[topic] = self.node.create_publisher(class_of(type), topic, profile)

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
        self, topic: str, type: str = "std_msgs/msg/String", depth: int = 10, latched: bool = False
    ) -> None:
        received: list[Any] = self.received.setdefault(topic, [])

        def on_message(message: Any) -> None:
            if type == "sensor_msgs/msg/Image":
                digest = hashlib.sha256(bytes(message.data)).hexdigest()
                received.append([message.width, message.height, message.encoding, digest])
            else:
                received.append(message.data)

        profile = self.profile(depth, latched)
        self.node.create_subscription(class_of(type), topic, on_message, profile)

    def taken(self, topic: str, count: int, timeout: float) -> list[Any]:
        until = time.monotonic() + timeout
        while len(self.received[topic]) < count and time.monotonic() < until:
            time.sleep(0.005)
        return self.received[topic]

    def publish_sample(self, topic: str, sample: str) -> None:
        found = SAMPLES[sample]
        self.publishers[topic].publish(message_of(class_of(found.type), found.value))

    def sample_subscription(self, topic: str, type: str, size: int) -> None:
        """Receive messages. `taken` has the hash of each one's first ``size`` bytes, as rclpy writes it."""
        received: list[Any] = self.received.setdefault(topic, [])

        def on_message(message: Any) -> None:
            received.append(hashlib.sha256(serialize_message(message)[:size]).hexdigest())

        self.node.create_subscription(class_of(type), topic, on_message, 10)

    def declare_parameters(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.node.declare_parameter(name, value)

    def own_parameter(self, name: str) -> Any:
        return self.node.get_parameter(name).value

    def parameters_of(self, node: str, names: list[str]) -> list[Any]:
        client = AsyncParameterClient(self.node, node)
        assert client.wait_for_services(30)
        values = wait_for(client.get_parameters(names)).values
        found = [
            Parameter.from_parameter_msg(ParameterMessage(name="x", value=one)).value for one in values
        ]
        return [list(value) if isinstance(value, array) else value for value in found]  # numbers

    def set_parameter_of(self, node: str, name: str, value: Any) -> list[Any]:
        client = AsyncParameterClient(self.node, node)
        assert client.wait_for_services(30)
        (found,) = wait_for(client.set_parameters([Parameter(name, value=value)])).results
        return [found.successful, found.reason]

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

    def adder(self, service: str) -> None:
        def answer(request: Any, response: Any) -> Any:
            response.sum = request.a + request.b
            return response

        self.node.create_service(add_two_ints(), service, answer)

    def add(self, service: str, a: int, b: int) -> int:
        client = self.node.create_client(add_two_ints(), service)
        assert client.wait_for_service(30)
        return int(wait_for(client.call_async(add_two_ints().Request(a=a, b=b))).sum)

    def fibonacci_server(self, action: str, type: str = "test_msgs/Fibonacci") -> None:
        fibonacci = action_class(type)

        async def pause(seconds: float) -> None:
            over: Future = Future(executor=self.node.executor)
            timer = self.node.create_timer(seconds, lambda: over.set_result(None))
            await over
            self.node.destroy_timer(timer)

        async def work(goal: Any) -> Any:
            sequence = [0, 1]
            for _ in range(goal.request.order):
                if goal.is_cancel_requested:
                    goal.canceled()
                    return fibonacci.Result(sequence=sequence)
                sequence.append((sequence[-1] + sequence[-2]) % 1000)
                goal.publish_feedback(fibonacci.Feedback(sequence=sequence))
                await pause(0.01)
            goal.succeed()
            return fibonacci.Result(sequence=sequence)

        self.action = ActionServer(
            self.node,
            fibonacci,
            action,
            work,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def fibonacci_goal(
        self, action: str, order: int, cancel: bool = False, type: str = "test_msgs/Fibonacci"
    ) -> list[Any]:
        fibonacci = action_class(type)
        client = ActionClient(self.node, fibonacci, action)
        assert client.wait_for_server(30)
        feedback: list[Any] = []
        heard = threading.Event()

        def on_feedback(message: Any) -> None:
            feedback.append(list(message.feedback.sequence))
            heard.set()

        goal = wait_for(client.send_goal_async(fibonacci.Goal(order=order), on_feedback))
        assert goal.accepted
        assert heard.wait(30)
        if cancel:
            wait_for(goal.cancel_goal_async())
        found = wait_for(goal.get_result_async())
        return [found.status, list(found.result.sequence), feedback]

    def call(self, service: str, value: bool) -> list[Any]:
        client = self.node.create_client(SetBool, service)
        assert client.wait_for_service(30)
        response = wait_for(client.call_async(SetBool.Request(data=value)))
        return [response.success, response.message]


def action_class(name: str) -> Any:
    package, _, action = name.partition("/")
    return getattr(importlib.import_module(f"{package}.action"), action)


def add_two_ints() -> Any:
    """Return a type of a package that is there only where it was built."""
    return importlib.import_module("example_interfaces.srv").AddTwoInts


def wait_for(future: Any) -> Any:
    """Return the result of a future, which the executor sets."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(30)
    return future.result()


def main() -> None:
    rclpy.init()
    peer = Peer(sys.argv[1])
    # One thread, as with `rclpy.spin`. The executor with several threads asks for a message again and again
    # while another thread has yet to take it: between two of Python's switches of threads it takes one.
    executor = SingleThreadedExecutor()
    executor.add_node(peer.node)
    threading.Thread(target=executor.spin, daemon=True).start()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(peer, name)(**arguments)), flush=True)
    executor.shutdown(timeout_sec=2)
    rclpy.try_shutdown()


main()
