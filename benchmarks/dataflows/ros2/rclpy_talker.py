"""Send texts in turn on two topics: to a subscription of rclpy, and to the bridge of a dataflow."""

import time

from std_msgs.msg import String
from turns import run


def send(publisher: object, name: str) -> None:
    publisher.publish(String(data=f"{name} {time.monotonic_ns()}"))


run(String, send)
