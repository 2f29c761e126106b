"""Answers questions about messages with the real rclpy: one line of JSON for each line.

It runs in the environment with ROS, where dora is not.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from importlib import import_module
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message


def class_of(name: str) -> Any:
    """Return the class of a message: `std_msgs/msg/String`, or a part of a service or an action."""
    package, kind, last = name.split("/")
    names, *rest = last.split("_")
    found = getattr(import_module(f"{package}.{kind}"), names)
    for one in rest:
        if one in ("SendGoal", "GetResult"):
            found = getattr(found.Impl, one + "Service")
        elif one == "FeedbackMessage":
            found = found.Impl.FeedbackMessage
        else:
            found = getattr(found, one)
    return found


def message_of(cls: Any, value: dict[str, Any]) -> Any:
    message = cls()
    types = cls.get_fields_and_field_types()
    for name, one in value.items():
        setattr(message, name, converted(types[name], cls, one))
    return message


def nested_class(kind: str, owner: Any) -> Any:
    """Return the class of a field. rclpy names the parts of services and actions without their kind."""
    package, _, last = kind.partition("/")
    if "/" in last:
        return class_of(kind)
    return class_of(f"{package}/{owner.__module__.split('.')[1] if '_' in last else 'msg'}/{last}")


def converted(kind: str, owner: Any, value: Any) -> Any:
    if isinstance(value, bytes):
        return array("B", value)
    if kind.startswith("sequence<"):
        inner = kind[len("sequence<") : -1].split(",")[0].strip()
        return [converted(inner, owner, one) for one in value]
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return [converted(inner, owner, one) for one in value]
    if kind == "octet":
        return bytes([value])
    if isinstance(value, dict):
        return message_of(nested_class(kind, owner), value)
    return value


def serialize(name: str, value: dict[str, Any]) -> str:
    return serialize_message(message_of(class_of(name), value)).hex()


def echo(name: str, data: str) -> str:
    """Return what rclpy makes of bytes that it has read."""
    cls = class_of(name)
    return serialize_message(deserialize_message(bytes.fromhex(data), cls)).hex()


def show(name: str, data: str) -> str:
    return repr(deserialize_message(bytes.fromhex(data), class_of(name)))


def wire(name: str, value: dict[str, Any]) -> str:
    """Return the bytes that a subscription receives from a publisher."""
    import rclpy

    if not rclpy.ok():
        rclpy.init()
    cls = class_of(name)
    node = rclpy.create_node("wire")
    received: list[bytes] = []
    try:
        publisher = node.create_publisher(cls, "wire", 10)
        node.create_subscription(cls, "wire", received.append, 10, raw=True)
        end = time.monotonic() + 30
        while not publisher.get_subscription_count() and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
        publisher.publish(message_of(cls, value))
        while not received and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        node.destroy_node()
    return received[0].hex()


QUESTIONS = {one.__name__: one for one in (serialize, echo, show, wire)}


def main() -> None:
    for line in sys.stdin:
        question, *arguments = json.loads(line)
        try:
            answer = [True, QUESTIONS[question](*arguments)]
        except Exception as error:  # noqa: BLE001 - the test shows it
            answer = [False, f"{type(error).__name__}: {error}"]
        print(json.dumps(answer), flush=True)
    if "rclpy.utilities" in sys.modules:
        import rclpy

        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
