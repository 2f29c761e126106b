"""Send messages one after the other without a pause; each says when the first one left."""

import os
import time

import numpy as np
import pyarrow as pa

from dora import Node

messages = int(os.environ["BENCHMARK_MESSAGES"])
payload = pa.array(np.ones(int(os.environ["BENCHMARK_BYTES"]), dtype=np.uint8))

node = Node()
started_ns = time.monotonic_ns()
for _ in range(messages):
    node.send_output("data", payload, {"started_ns": started_ns})
