"""`receiver.py` for rclpy: count messages, until all have come or none comes for five seconds."""

import json
import os
import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from std_msgs.msg import UInt8MultiArray

messages = int(os.environ["BENCHMARK_MESSAGES"])
size = int(os.environ["BENCHMARK_BYTES"])
received = started_ns = last_ns = 0


def on_message(message: UInt8MultiArray) -> None:
    global received, started_ns, last_ns
    assert len(message.data) == size
    if not received:
        started_ns = int(message.layout.dim[0].label)
    received += 1
    last_ns = time.monotonic_ns()


rclpy.init()
node = rclpy.create_node("receiver")
executor = SingleThreadedExecutor()
executor.add_node(node)
node.create_subscription(UInt8MultiArray, "data", on_message, QoSProfile(depth=20_000))
while received < messages:
    executor.spin_once(1.0)
    if received and time.monotonic_ns() - last_ns > 5_000_000_000:
        break

Path(os.environ["BENCHMARK_RESULTS"], "receiver.json").write_text(
    json.dumps({"received": received, "started_ns": started_ns, "last_ns": last_ns})
)
rclpy.shutdown()
