"""`steady_receiver.py` for rclpy: touch each message, and note the processor time of both processes."""

import os

import rclpy
from processor_time import Window
from std_msgs.msg import UInt8MultiArray

size = int(os.environ["BENCHMARK_BYTES"])
window = Window()


def on_message(message: UInt8MultiArray) -> None:
    assert len(message.data) == size
    if window.count():
        rclpy.shutdown()


rclpy.init()
node = rclpy.create_node("receiver")
node.create_subscription(UInt8MultiArray, "data", on_message, 10)
rclpy.spin(node)
