"""`steady_sender.py` for rclpy: send a message at each tick."""

import os
from array import array

import rclpy
from rclpy.executors import ExternalShutdownException
from std_msgs.msg import UInt8MultiArray

message = UInt8MultiArray(data=array("B", bytes([1]) * int(os.environ["BENCHMARK_BYTES"])))

rclpy.init()
node = rclpy.create_node("sender")
publisher = node.create_publisher(UInt8MultiArray, "data", 10)
node.create_timer(0.01, lambda: publisher.publish(message))
try:
    rclpy.spin(node)
except ExternalShutdownException:
    pass
