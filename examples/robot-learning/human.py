"""A human, scripted: pulls the arm into a corner once, in the first episode, and gives it back."""

import numpy as np
from world import LOWEST, arm_at

from dora import Node

FROM, TO = 12, 42  # steps of the first episode


def main() -> None:
    with Node() as node:
        for event in node:
            if event["type"] != "INPUT" or event["metadata"]["episode"] != 1:
                continue
            step = event["metadata"]["step"]
            if FROM <= step < TO:
                _, tip = arm_at(event.numpy())
                node.send_output("command", np.clip(8 * (LOWEST - tip), -0.5, 0.5).astype(np.float32))
            elif step >= TO:
                node.send_output("command", np.empty(0, np.float32))  # gives back at once


if __name__ == "__main__":
    main()
