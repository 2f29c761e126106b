"""A made-up robot: sends something of every kind for a few seconds."""

import os

import numpy as np
import pyarrow as pa

from dora import Node

WIDTH, HEIGHT, RADIUS = 320, 240, 30
SIZE = {"width": WIDTH, "height": HEIGHT}
STEPS = int(os.environ.get("STEPS", "100"))

y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
cloud = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)

with Node() as node:
    step = 0
    for event in node:
        if event["type"] != "INPUT":
            continue
        t = step / 20
        ball = WIDTH / 2 + 100 * np.cos(t), HEIGHT / 2 + 60 * np.sin(2 * t)
        distance = np.hypot(x - ball[0], y - ball[1])

        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        frame[..., 2] = np.where(distance < RADIUS, 230, 40)  # blue, green, red
        node.send_output("image", frame, {"primitive": "image", "encoding": "bgr8", **SIZE})

        box = np.array([*ball, 2 * RADIUS, 2 * RADIUS], np.float32)
        found = pa.array([{"bbox": box, "conf": [0.93], "labels": ["ball"]}])
        node.send_output("boxes2d", found, {"primitive": "boxes2d", "format": "xywh"})

        depth = np.where(distance < RADIUS, 1.0, 2.0).astype(np.float32)
        node.send_output("depth", depth, {"primitive": "depth", "focal": [300, 300], **SIZE})

        turn = np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]], np.float32)
        node.send_output("points3d", cloud @ turn, {"primitive": "points3d", "color": [80, 160, 255]})

        node.send_output("speed", np.array([np.sin(t), np.cos(t)]), {"primitive": "series"})
        node.send_output("joints", np.array([np.sin(t), np.cos(2 * t)]), {"primitive": "jointstate"})
        if step % 20 == 0:
            node.send_output("text", pa.array([f"{t:.0f} seconds"]), {"primitive": "text"})

        step += 1
        if step == STEPS:
            break
