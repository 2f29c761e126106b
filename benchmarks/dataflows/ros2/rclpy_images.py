"""`images.py` for rclpy: note when each image is here, until one says that it is the last."""

import rclpy
from arrivals import Arrivals
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

arrivals = Arrivals()


def on_image(image: Image) -> None:
    now_ns = arrivals.now()
    if not arrivals.add(now_ns, *image.header.frame_id.split()):
        rclpy.try_shutdown()


rclpy.init()
node = rclpy.create_node("subscriber")
node.create_subscription(Image, "/direct", on_image, QoSProfile(depth=10))
rclpy.spin(node)
