"""What the processes of a dataflow use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil


class UsageMeter:
    """Measures process trees; the processor time is that since the last measurement."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, dict[int, float]]] = {}

    def measure(self, pid: int) -> tuple[float, int]:
        """Return the percentage of one core and the bytes of memory of a process and its descendants."""
        seconds: dict[int, float] = {}
        memory = 0
        begun = now = time.time()
        for process in _tree(pid):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory += process.memory_info().rss
                    begun = min(begun, process.create_time())
            except psutil.Error:
                continue  # ended meanwhile
            seconds[process.pid] = times.user + times.system
        when, earlier = self._before.get(pid, (begun, {}))
        if now - when >= 0.1 or pid not in self._before:
            self._before[pid] = now, seconds
        used = sum(spent - earlier.get(process, 0.0) for process, spent in seconds.items())
        return round(100 * used / max(now - when, 0.01), 1), memory

    def forget(self, pid: int) -> None:
        self._before.pop(pid, None)


def _tree(pid: int) -> Iterator[psutil.Process]:
    try:
        root = psutil.Process(pid)
        yield root
        yield from root.children(recursive=True)
    except psutil.Error:
        return
