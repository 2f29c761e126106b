"""`ping.py` for rclpy: send a message, wait for its echo, and note how long that took."""

import json
import os
import time
from array import array
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import UInt8MultiArray

warm_up = int(os.environ["BENCHMARK_WARM_UP"])
messages = int(os.environ["BENCHMARK_MESSAGES"])
size = int(os.environ["BENCHMARK_BYTES"])

rclpy.init()
node = rclpy.create_node("ping")
executor = SingleThreadedExecutor()
executor.add_node(node)
received: list[UInt8MultiArray] = []
publisher = node.create_publisher(UInt8MultiArray, "ping", 10)
node.create_subscription(UInt8MultiArray, "pong", received.append, 10)


def wait_for_echo(sequence: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        executor.spin_once(left)
        while received:
            message = received.pop()
            if message.layout.data_offset == sequence:
                assert len(message.data) == size
                return True
    return False


ping = UInt8MultiArray(data=array("B", bytes([1]) * size))
for _ in range(100):  # until both know each other
    ping.layout.data_offset = 2**32 - 1
    publisher.publish(ping)
    if wait_for_echo(2**32 - 1, 0.3):
        break
times_ns: list[int] = []
lost = 0
for sequence in range(warm_up + messages):
    sent_at = time.perf_counter_ns()
    ping.layout.data_offset = sequence
    publisher.publish(ping)
    if not wait_for_echo(sequence, 5.0):
        lost += 1
    elif sequence >= warm_up:
        times_ns.append(time.perf_counter_ns() - sent_at)

Path(os.environ["BENCHMARK_RESULTS"], "ping.json").write_text(
    json.dumps({"times_ns": times_ns, "lost": lost})
)
rclpy.shutdown()
