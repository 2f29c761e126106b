"""Note for every message how long it was on its way."""

import json
import os
import time
from pathlib import Path

from dora import Node

node = Node()
latencies_ns: dict[int, int] = {}
for event in node:
    if event["type"] == "INPUT":
        received_ns = time.monotonic_ns()
        metadata = event["metadata"]
        latencies_ns[metadata["sequence"]] = received_ns - metadata["sent_ns"]

Path(os.environ["BENCHMARK_RESULTS"], os.environ["SINK"] + ".json").write_text(json.dumps(latencies_ns))
