"""Send images in turn on two topics: to a subscription of rclpy, and to the bridge of a dataflow."""

import os
import time
from array import array

import rclpy
from arrivals import LAST
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

size = int(os.environ["BENCHMARK_BYTES"])
count = int(os.environ["BENCHMARK_WARM_UP"]) + int(os.environ["BENCHMARK_MESSAGES"])
period = 1 / float(os.environ["BENCHMARK_RATE"])  # of each topic

rclpy.init()
node = rclpy.create_node("publisher")
publishers = [
    node.create_publisher(Image, topic, QoSProfile(depth=10)) for topic in ("/direct", "/bridged")
]
while not all(publisher.get_subscription_count() for publisher in publishers):
    time.sleep(0.01)
time.sleep(1.0)  # the other sides may know the publishers a little later
image = Image(width=size, height=1, encoding="mono8", step=size, data=array("B", bytes([1]) * size))


def send(name: str, at: float) -> None:
    image.header.frame_id = name
    for turn, publisher in enumerate(publishers):
        time.sleep(max(0.0, at + turn * period / 2 - time.monotonic()))
        stamp = image.header.stamp
        stamp.sec, stamp.nanosec = divmod(time.monotonic_ns(), 1_000_000_000)
        publisher.publish(image)


begin = time.monotonic()
for number in range(count):
    send(str(number), begin + number * period)
for _ in range(5):  # one of them is kept for a receiver that is slow
    send(LAST, time.monotonic() + 0.3)
rclpy.shutdown()
