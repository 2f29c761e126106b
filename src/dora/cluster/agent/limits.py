"""How long something may take."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import psutil


class TimeLimit:
    """Calls ``on_late`` in a thread of its own, unless it is `met` within so many seconds."""

    def __init__(self, seconds: float, on_late: Callable[[], None]) -> None:
        self._on_late = on_late
        self._lock = threading.Lock()
        self._met = False
        self.late = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def met(self) -> None:
        """Note that it is done; ``late`` tells from now on whether it was too late."""
        with self._lock:
            self._met = not self.late
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            if self._met:
                return
            self.late = True
        self._on_late()


# ``dora daemon --rt``: the processes that supervise nodes stay in memory and go before others.
#
# Nodes do not inherit it: one that computes without a pause would keep a processor for itself, and no
# message
# passes the daemon anyway. What is gained is that a stop, a restart or a timeout comes in time on a machine
# that swaps or is overloaded. Linux only.

PRIORITY: Final = 20  # of 1 to 99; threads that serve interrupts have 50

_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def become_realtime() -> list[str]:
    """Lock the memory of this process, and let its main thread go first; return what is not permitted."""
    if not hasattr(os, "sched_setscheduler"):
        return ["memory is not locked and priorities are as they were: both are for Linux only"]
    return [fault for fault in (_lock_memory(), _raise_priority()) if fault]


def _lock_memory() -> str:
    import resource

    mend = "it takes the capability CAP_IPC_LOCK, or LimitMEMLOCK=infinity (`ulimit -l unlimited`)"
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and not _has_capability(_CAP_IPC_LOCK):
        # Within a limit it may be granted, and then there would be no memory at some later moment.
        return f"memory is not locked: {mend}"
    libc = ctypes.CDLL(None, use_errno=True)
    # On fault: of shared memory, which is reserved in plenty, only what is used takes room.
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"memory is not locked ({os.strerror(ctypes.get_errno())}): {mend}"
    return ""


def _raise_priority() -> str:
    # Threads and processes that it starts are ordinary ones.
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(PRIORITY))
    except OSError as error:
        mend = f"it takes the capability CAP_SYS_NICE, or LimitRTPRIO={PRIORITY} (`ulimit -r {PRIORITY}`)"
        return f"the scheduling policy is not SCHED_FIFO ({error.strerror}): {mend}"
    return ""


def _has_capability(number: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) >> number & 1)
    return False


# What the processes of a dataflow use.


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
