"""`sender.py` for rclpy: send messages without a pause, and stay until all of them have arrived."""

import os
import time
from array import array

import rclpy
from rclpy.duration import Duration
from rclpy.qos import HistoryPolicy, QoSProfile
from std_msgs.msg import MultiArrayDimension, UInt8MultiArray

messages = int(os.environ["BENCHMARK_MESSAGES"])
size = int(os.environ["BENCHMARK_BYTES"])

rclpy.init()
node = rclpy.create_node("sender")
# As the queue of the dataflow, which has room for every message.
profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=20_000)
publisher = node.create_publisher(UInt8MultiArray, "data", profile)
while not publisher.get_subscription_count():
    time.sleep(0.01)
time.sleep(0.5)  # the subscription may know the publisher a little later
message = UInt8MultiArray(data=array("B", bytes([1]) * size))
message.layout.dim = [MultiArrayDimension(label=str(time.monotonic_ns()))]
for _ in range(messages):
    publisher.publish(message)
publisher.wait_for_all_acked(Duration(seconds=60))
rclpy.shutdown()
