"""Do nothing at every tick; once, when all have settled, write when it was ready and the memory it has.

Times are those of the monotonic clock, in nanoseconds. Memory is the proportional set size, and the pages
that no other process shares, in KiB. With BENCHMARK_ENDS the node then ends by itself. A message is passed
on; with BEGINS, one is sent each second.
"""

import importlib
import json
import os
import time
from pathlib import Path

from dora import Node

WHEN = 20  # ticks, which is 2 s

for module in os.environ.get("IMPORT", "").split():
    importlib.import_module(module)

node = Node()
found = {"ready_ns": time.monotonic_ns(), "pss_kib": 0, "own_kib": 0}
ticks = 0
for event in node:
    if event["type"] == "INPUT" and event["id"] == "message":
        node.send_output("message", event["value"])
    elif event["type"] == "INPUT":
        ticks += 1
        if "BEGINS" in os.environ and ticks % 10 == 0:
            node.send_output("message", b"one second")
        if ticks == WHEN:
            rollup = Path("/proc/self/smaps_rollup")
            if rollup.exists():
                sizes = {line.split()[0]: int(line.split()[1]) for line in rollup.open() if " kB" in line}
                found["pss_kib"] = sizes["Pss:"]
                found["own_kib"] = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
            Path(os.environ["BENCHMARK_RESULTS"], os.environ["IDLE"] + ".json").write_text(
                json.dumps(found)
            )
        if ticks == 2 * WHEN and "BENCHMARK_ENDS" in os.environ:
            break
    elif event["type"] == "STOP":
        break
