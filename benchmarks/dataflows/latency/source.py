"""Send at a steady rate; every message says when it left."""

import os
import time

import numpy as np
import pyarrow as pa

from dora import Node

PERIOD_NS = 5_000_000  # 200 Hz

messages = int(os.environ["BENCHMARK_WARM_UP"]) + int(os.environ["BENCHMARK_MESSAGES"])
payload = pa.array(np.ones(int(os.environ["BENCHMARK_BYTES"]), dtype=np.uint8))

node = Node()
start_ns = time.monotonic_ns()
for sequence in range(messages):
    time.sleep(max(0, start_ns + sequence * PERIOD_NS - time.monotonic_ns()) / 1e9)
    # CLOCK_MONOTONIC is one clock for all processes of a machine, and nobody sets it.
    node.send_output("data", payload, {"sequence": sequence, "sent_ns": time.monotonic_ns()})
