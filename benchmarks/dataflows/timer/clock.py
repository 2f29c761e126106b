"""Note when each tick of the timer arrives."""

import json
import os
import time
from pathlib import Path

from dora import Node

ticks = int(os.environ["BENCHMARK_MESSAGES"])

node = Node()
arrivals_ns: list[int] = []
for event in node:
    if event["type"] == "INPUT":
        arrivals_ns.append(time.monotonic_ns())
        if len(arrivals_ns) == ticks:
            break

Path(os.environ["BENCHMARK_RESULTS"], "clock.json").write_text(json.dumps(arrivals_ns))
