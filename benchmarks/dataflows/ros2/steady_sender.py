"""Send a message at each tick, and a few more than the receiver counts."""

import os

import numpy as np
import pyarrow as pa

from dora import Node

payload = pa.array(np.ones(int(os.environ["BENCHMARK_BYTES"]), dtype=np.uint8))
left = int(os.environ["BENCHMARK_WARM_UP"]) + int(os.environ["BENCHMARK_MESSAGES"]) + 100

node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("data", payload)
        left -= 1
    if event["type"] == "STOP" or not left:
        break
