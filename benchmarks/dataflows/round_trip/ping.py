"""Send a message, wait for its echo, and note how long that took; then the next one."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dora import Node

warm_up = int(os.environ["BENCHMARK_WARM_UP"])
messages = int(os.environ["BENCHMARK_MESSAGES"])
payload = pa.array(np.ones(int(os.environ["BENCHMARK_BYTES"]), dtype=np.uint8))

node = Node()
times_ns: list[int] = []
lost = 0
for sequence in range(warm_up + messages):
    sent_at = time.perf_counter_ns()
    node.send_output("ping", payload, {"sequence": sequence})
    while True:
        event = node.next(timeout=5.0)
        if event is None or event["type"] == "ERROR":
            lost += 1
            break
        if event["type"] == "INPUT" and event["metadata"]["sequence"] == sequence:
            assert len(event["value"]) == len(payload)
            if sequence >= warm_up:
                times_ns.append(time.perf_counter_ns() - sent_at)
            break

Path(os.environ["BENCHMARK_RESULTS"], "ping.json").write_text(
    json.dumps({"times_ns": times_ns, "lost": lost})
)
