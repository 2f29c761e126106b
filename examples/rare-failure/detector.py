"""Stands in for a camera and a detector: boxes of things that move, as (x, y, width, height)."""

import itertools
import os

import numpy as np

from dora import Node

MISSED, TWICE = 0.006, 0.006  # how often a thing is not found, or found twice
IMAGES = 12_000

random = np.random.default_rng(int(os.environ.get("SEED", "7")))
things = np.array([[100, 80], [320, 240], [500, 400]], np.float32)
node = Node()
for event in itertools.islice(node, IMAGES):
    if event["type"] != "INPUT":
        break
    things = (things + random.normal(0, 0.5, things.shape)) % (640, 480)
    boxes: list[tuple[float, float, float, float]] = []
    for x, y in things.tolist():
        if random.random() >= MISSED:
            boxes.append((x, y, 40, 30))
            if random.random() < TWICE:
                boxes.append((x + 2, y + 1, 40, 30))
    node.send_output("boxes", np.array(boxes, np.float32).reshape(-1, 4))
