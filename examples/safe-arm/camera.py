"""A camera: an image at each tick, with the time at which it was taken."""

import os

import numpy as np

from dora import Node

FRAMES = int(os.environ.get("FRAMES", "180"))


def main() -> None:
    with Node() as node:
        for number, event in enumerate(node):
            if event["type"] != "INPUT" or number == FRAMES:
                break
            image = np.full((48, 64), number % 256, np.uint8)
            metadata = {"timestamp": event["metadata"]["timestamp"], "height": 48, "width": 64}
            node.send_output("image", image.ravel(), metadata)


if __name__ == "__main__":
    main()
