"""The encoders of the arm: two angles, 200 times a second."""

import os

import numpy as np

from dora import Node

SECONDS = int(os.environ.get("FRAMES", "180")) / 30


def main() -> None:
    with Node() as node:
        for number, event in enumerate(node):
            if event["type"] != "INPUT" or number > 200 * SECONDS:
                break
            angles = np.array([np.sin(number / 100), np.cos(number / 100)], np.float32)
            node.send_output("angles", angles, {"timestamp": event["metadata"]["timestamp"]})


if __name__ == "__main__":
    main()
