"""What a receiver notes: latencies, and the processor time of its processes from the warm-up on."""

import json
import os
import time
from pathlib import Path

from processor_time import processor_time_ns

LAST = "last"
BRIDGE = "dora.ros2.bridge"  # in the command line of a node with a `ros2` block


class Arrivals:
    """The messages of a run. Each has its number, or `LAST`, and the time when it was sent."""

    def __init__(self) -> None:
        self._warm_up = int(os.environ["BENCHMARK_WARM_UP"])
        self._latencies_ns: list[int] = []
        self._received = 0
        self._before_ns = self._bridge_before_ns = 0

    def now(self) -> int:
        """Return the time of the clock that all processes share, in nanoseconds."""
        return time.monotonic_ns()

    def add(self, now_ns: int, name: str, sent_ns: str) -> bool:
        """Note a message; return False after the last one, when the results are written."""
        if name == LAST:
            found = {
                "latencies_ns": self._latencies_ns,
                "received": self._received,
                "cpu_ns": processor_time_ns() - self._before_ns,
                "bridge_ns": processor_time_ns(BRIDGE) - self._bridge_before_ns,
            }
            Path(os.environ["BENCHMARK_RESULTS"], "received.json").write_text(json.dumps(found))
            return False
        self._received += 1
        if int(name) == self._warm_up:
            self._before_ns = processor_time_ns()
            self._bridge_before_ns = processor_time_ns(BRIDGE)
        if int(name) >= self._warm_up:
            self._latencies_ns.append(now_ns - int(sent_ns))
        return True
