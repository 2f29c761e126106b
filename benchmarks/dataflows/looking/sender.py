"""Send messages one after the other without a pause, until the dataflow is stopped."""

import os

import numpy as np
import pyarrow as pa

from dora import Node

payload = pa.array(np.ones(int(os.environ["BENCHMARK_BYTES"]), dtype=np.uint8))

node = Node()
while node.try_recv() is None:
    for _ in range(16):
        node.send_output("data", payload)
