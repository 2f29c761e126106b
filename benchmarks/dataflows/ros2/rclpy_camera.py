"""Send images in turn on two topics: to a subscription of rclpy, and to the bridge of a dataflow."""

import os
import time
from array import array

from sensor_msgs.msg import Image
from turns import run

size = int(os.environ["BENCHMARK_BYTES"])
image = Image(width=size, height=1, encoding="mono8", step=size, data=array("B", bytes([1]) * size))


def send(publisher: object, name: str) -> None:
    image.header.frame_id = f"{name} {time.monotonic_ns()}"
    publisher.publish(image)


run(Image, send)
