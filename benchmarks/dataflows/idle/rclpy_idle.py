"""`idle.py` for rclpy: do nothing at every tick; write the memory once. It ends after 10 s."""

import json
import os
from pathlib import Path

import rclpy

WHEN, LAST = 20, 100  # ticks
ticks = 0


def on_tick() -> None:
    global ticks
    ticks += 1
    if ticks == WHEN:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        (size,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
        Path(os.environ["BENCHMARK_RESULTS"], f"{os.environ['NODE']}.json").write_text(
            json.dumps({"pss_kib": size})
        )
    if ticks == LAST:
        rclpy.shutdown()


rclpy.init()
node = rclpy.create_node(os.environ["NODE"])
node.create_timer(0.1, on_tick)
rclpy.spin(node)
