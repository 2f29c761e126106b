"""Send a message, wait for its echo, note when and how long that took; until the dataflow is stopped."""

import os
import time
from array import array
from pathlib import Path

import numpy as np
import pyarrow as pa

from dora import Node

payload = pa.array(np.ones(int(os.environ["BENCHMARK_BYTES"]), dtype=np.uint8))

node = Node()
# Pairs of nanoseconds: when it was sent, on the clock of all processes, and how long it took.
times_ns = array("q")
stopped = False
while not stopped:
    sent_at = time.monotonic_ns()
    node.send_output("ping", payload)
    for event in node:
        if event["type"] == "INPUT":
            assert len(event["value"]) == len(payload)
            times_ns.extend((sent_at, time.monotonic_ns() - sent_at))
            break
        stopped = stopped or event["type"] == "STOP"
    else:
        stopped = True

with Path(os.environ["BENCHMARK_RESULTS"], "ping.bin").open("wb") as file:
    times_ns.tofile(file)
