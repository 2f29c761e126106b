"""Turns targets into speeds of the two joints."""

import os

import numpy as np
import pyarrow as pa

from dora import Node


def main() -> None:
    with Node() as node:
        node.send_output("pid", pa.array([os.getpid()]))
        for event in node:
            if event["type"] == "INPUT":
                speeds = -0.5 * event["value"].to_numpy()[:2]
                node.send_output("command", speeds.astype(np.float32), event["metadata"])


if __name__ == "__main__":
    main()
