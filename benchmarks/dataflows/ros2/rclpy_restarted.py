"""Send small images until the process is killed; each says when its publisher was made."""

import sys
import time

import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node("restarted")
made_ns = time.monotonic_ns()
publisher = node.create_publisher(Image, "/restarted", QoSProfile(depth=10))
image = Image()
image.header.frame_id = sys.argv[1]
image.header.stamp.sec, image.header.stamp.nanosec = divmod(made_ns, 1_000_000_000)
while True:
    publisher.publish(image)
    time.sleep(0.005)
