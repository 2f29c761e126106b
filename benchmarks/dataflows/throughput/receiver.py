"""Count messages, touch each value once, and note when the last one came."""

import json
import os
import time
from pathlib import Path

from dora import Node

size = int(os.environ["BENCHMARK_BYTES"])

node = Node()
received = started_ns = last_ns = 0
for event in node:
    if event["type"] == "INPUT":
        assert len(event["value"]) == size
        if not received:
            started_ns = event["metadata"]["started_ns"]
        received += 1
        # CLOCK_MONOTONIC is one clock for all processes of a machine.
        last_ns = time.monotonic_ns()

Path(os.environ["BENCHMARK_RESULTS"], "receiver.json").write_text(
    json.dumps({"received": received, "started_ns": started_ns, "last_ns": last_ns})
)
