"""The teleoperation: a scripted teacher with a hand that shakes, in the place of a leader arm."""

import os

import numpy as np
from expert import expert

from dora import Node

SHAKING = 0.04  # metres a second
INERTIA = 0.9  # the part of the shaking that stays from one command to the next


def main() -> None:
    random = np.random.default_rng(int(os.environ.get("SEED", "1")))
    shaking = np.zeros(2)
    with Node() as node:
        for event in node:
            if event["type"] != "INPUT":
                continue
            shaking = INERTIA * shaking + random.normal(0, SHAKING, 2)
            command = expert(event.numpy()) + shaking
            node.send_output(
                "command", command.astype(np.float32), {"timestamp": event["metadata"]["timestamp"]}
            )


if __name__ == "__main__":
    main()
