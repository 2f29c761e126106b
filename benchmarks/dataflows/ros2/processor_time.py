"""The processor time that the processes of a run take."""

import json
import os
from pathlib import Path


def processor_time_ns(command: str = "") -> int:
    """Return the processor time of all processes that were started with the folder of these results.

    ``command``: only of those whose command line has this. Linux counts the time to the nanosecond for each
    thread; a thread that has ended is not in the sum.
    """
    variable = f"BENCHMARK_RESULTS={os.environ['BENCHMARK_RESULTS']}".encode()
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable not in (process / "environ").read_bytes().split(b"\0"):
                continue
            if command.encode() not in (process / "cmdline").read_bytes():
                continue
            for task in (process / "task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        except OSError:  # it has just ended, or belongs to somebody else
            continue
    return total


class Window:
    """A run of messages: after the warm-up, until the last one."""

    def __init__(self) -> None:
        self._first = int(os.environ["BENCHMARK_WARM_UP"])
        self._last = self._first + int(os.environ["BENCHMARK_MESSAGES"])
        self._count = 0
        self._before = 0

    def count(self) -> bool:
        """Count a message; return whether it was the last one, whose result is written."""
        self._count += 1
        if self._count == self._first:
            self._before = processor_time_ns()
        if self._count < self._last:
            return False
        found = {"cpu_ns": processor_time_ns() - self._before, "messages": self._last - self._first}
        Path(os.environ["BENCHMARK_RESULTS"], "receiver.json").write_text(json.dumps(found))
        return True
