"""Messages in turn on two topics, at an even rate."""

import os
import time
from collections.abc import Callable

import rclpy
from arrivals import LAST
from rclpy.qos import QoSProfile

TOPICS = ("/direct", "/bridged")


def run(kind: type, send: Callable[[object, str], None]) -> None:
    """Send messages of a type with ``send``, which gets a publisher and the name of the message."""
    count = int(os.environ["BENCHMARK_WARM_UP"]) + int(os.environ["BENCHMARK_MESSAGES"])
    period = 1 / float(os.environ["BENCHMARK_RATE"])  # of each topic
    rclpy.init()
    node = rclpy.create_node("publisher")
    publishers = [node.create_publisher(kind, topic, QoSProfile(depth=10)) for topic in TOPICS]
    while not all(publisher.get_subscription_count() for publisher in publishers):
        time.sleep(0.01)
    time.sleep(1.0)  # the other sides may know the publishers a little later

    def send_to_both(name: str, at: float) -> None:
        for turn, publisher in enumerate(publishers):
            time.sleep(max(0.0, at + turn * period / 2 - time.monotonic()))
            send(publisher, name)

    begin = time.monotonic()
    for number in range(count):
        send_to_both(str(number), begin + number * period)
    for _ in range(5):  # one of them is kept for a receiver that is slow
        send_to_both(LAST, time.monotonic() + 0.3)
    rclpy.shutdown()
