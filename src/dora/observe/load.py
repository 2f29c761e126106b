"""The load of nodes' processes: processor, memory, disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import msgspec
import psutil


class Load(msgspec.Struct, frozen=True):
    """Of one node's process and those that it started (its process group)."""

    cpu_percent: float = 0.0  # of one processor, since the last measurement
    memory: int = 0  # bytes, resident; shared memory counts where it is mapped
    disk_read: float = 0.0  # bytes per second, since the last measurement
    disk_written: float = 0.0
    cpu_seconds: float = 0.0  # since these processes began


class _Totals(msgspec.Struct):
    time: float
    cpu: float = 0.0  # seconds
    memory: int = 0
    read: int = 0
    written: int = 0


class LoadMeter:
    """Measures again and again; the rates of a process are zero the first time."""

    def __init__(self) -> None:
        self._before: dict[int, _Totals] = {}  # by process

    def measure(self, leaders: Iterable[int]) -> dict[int, Load]:
        """Return the loads of the nodes with these processes, as far as these live."""
        groups: dict[int, list[int]] = {pid: [pid] for pid in leaders}
        for pid in psutil.pids():
            try:
                group = os.getpgid(pid)
            except OSError:
                continue  # gone, or not ours to know
            if group in groups and pid != group:
                groups[group].append(pid)
        before, self._before = self._before, {}
        loads = {}
        for leader, pids in groups.items():
            found = [load for pid in pids if (load := self._load(pid, before)) is not None]
            if found:
                loads[leader] = Load(
                    sum(load.cpu_percent for load in found),
                    sum(load.memory for load in found),
                    sum(load.disk_read for load in found),
                    sum(load.disk_written for load in found),
                    sum(load.cpu_seconds for load in found),
                )
        return loads

    def _load(self, pid: int, before: dict[int, _Totals]) -> Load | None:
        now = _totals(pid)
        if now is None:
            return None
        self._before[pid] = now
        last = before.get(pid)
        if last is None or now.time <= last.time:
            return Load(memory=now.memory, cpu_seconds=now.cpu)
        seconds = now.time - last.time
        return Load(
            cpu_percent=max(0.0, (now.cpu - last.cpu) / seconds * 100),
            memory=now.memory,
            disk_read=max(0.0, (now.read - last.read) / seconds),
            disk_written=max(0.0, (now.written - last.written) / seconds),
            cpu_seconds=now.cpu,
        )


def _totals(pid: int) -> _Totals | None:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        totals = _Totals(time.monotonic(), times.user + times.system, process.memory_info().rss)
    except psutil.Error:  # it has ended, or may not be looked at
        return None
    try:
        counters = process.io_counters()
    except (psutil.Error, AttributeError):  # macOS has none
        return totals
    totals.read, totals.written = counters.read_bytes, counters.write_bytes
    return totals
