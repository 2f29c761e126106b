"""`texts.py` for rclpy: note when each text is here, until one says that it is the last."""

import rclpy
from arrivals import Arrivals
from rclpy.qos import QoSProfile
from std_msgs.msg import String

arrivals = Arrivals()


def on_text(message: String) -> None:
    text = message.data
    if not arrivals.add(arrivals.now(), *text.split()):
        rclpy.try_shutdown()


rclpy.init()
node = rclpy.create_node("subscriber")
node.create_subscription(String, "/direct", on_text, QoSProfile(depth=10))
rclpy.spin(node)
