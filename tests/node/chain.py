"""The beginning of a chain of nodes, for tests of paths: a camera, and a detector behind it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa

from dora import Node

CAMERA_AND_DETECTOR = """
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [image]
  - id: detector
    path: detector.py
    inputs: {image: camera/image}
    outputs: [boxes]
"""


def camera(images: int) -> Callable[[Node], None]:
    """Return a node that sends so many images, which are numbers from 0."""

    def run(node: Node) -> None:
        for number, _ in enumerate(node):
            if number == images:
                return
            node.send_output("image", pa.array([number]))

    return run


def working(output: str, seconds: Callable[[int], float]) -> Callable[[Node], None]:
    """Return a node that works on each number it gets for so many seconds, and sends it on."""

    def run(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                time.sleep(seconds(event["value"][0].as_py()))
                node.send_output(output, event["value"])

    return run
