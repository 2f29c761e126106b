"""Finds a target in two images and the angles that belong to them. Every tenth time it is slow."""

import time

import numpy as np

from dora import Node, Synced


def main() -> None:
    with Node() as node:
        sets = 0
        for event in node:
            if not isinstance(event, Synced) or not event["complete"]:
                continue
            left, right, angles = (event["inputs"][name] for name in ("left", "right", "angles"))
            sets += 1
            time.sleep(0.08 if sets % 10 == 0 else 0.01)  # this is where the model would compute
            depth = float(left["value"][0].as_py() - right["value"][0].as_py())
            target = np.append(angles["value"].to_numpy(), np.float32(depth))
            node.send_output("target", target, {"timestamp": left["metadata"]["timestamp"]})
    print(f"{sets} sets of two images and angles")


if __name__ == "__main__":
    main()
