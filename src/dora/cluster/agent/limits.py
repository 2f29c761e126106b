"""Limits and use of resources: time limits, real-time priority, processor and memory."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import psutil

from dora.daemon.guardian import marked_processes
from dora.daemon.processes.scheduling import may_lock_memory


class TimeLimit:
    """Calls ``on_late``, in a thread of its own or in `met`, unless `met` is called in so many seconds."""

    def __init__(self, seconds: float, on_late: Callable[[], None]) -> None:
        self._on_late = on_late
        self._deadline = time.monotonic() + seconds
        # The lock keeps the timer's thread and `met` apart. Without it, a limit that was met could still
        # count as late.
        self._lock = threading.Lock()
        self._met = False
        self.late = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def met(self) -> None:
        """End the limit; ``late`` is from now on whether the call came too late."""
        if time.monotonic() > self._deadline:  # on a busy machine the timer may be later than this call
            self._expire()
        with self._lock:
            self._met = not self.late
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            if self._met or self.late:
                return
            self.late = True
        self._on_late()  # without the lock: it waits for the end of a build, whose thread calls `met`


# ``dora daemon --rt``: processes that supervise nodes lock their memory and get a real-time priority. So
# stops, restarts and timeouts are on time on a machine that swaps or is overloaded. Nodes do not inherit
# it: one that computes without a pause would occupy a processor, and messages do not pass the daemon.
# Linux only.

PRIORITY: Final = 20  # of 1 to 99; threads that serve interrupts have 50

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def become_realtime() -> list[str]:
    """Lock the memory of this process and raise the priority of its main thread; return what failed."""
    if not hasattr(os, "sched_setscheduler"):
        return ["memory is not locked and priorities are as they were: both are for Linux only"]
    return [fault for fault in (_lock_memory(), _raise_priority()) if fault]


def _lock_memory() -> str:
    mend = "it takes the capability CAP_IPC_LOCK, or LimitMEMLOCK=infinity (`ulimit -l unlimited`)"
    if not may_lock_memory():
        return f"memory is not locked: {mend}"
    libc = ctypes.CDLL(None, use_errno=True)
    # On fault: large reserved shared memory takes room only as far as it is used.
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"memory is not locked ({os.strerror(ctypes.get_errno())}): {mend}"
    return ""


def _raise_priority() -> str:
    # Its threads and child processes keep the normal policy.
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(PRIORITY))
    except OSError as error:
        mend = f"it takes the capability CAP_SYS_NICE, or LimitRTPRIO={PRIORITY} (`ulimit -r {PRIORITY}`)"
        return f"the scheduling policy is not SCHED_FIFO ({error.strerror}): {mend}"
    return ""


class UsageMeter:
    """Measures the use of process trees; processor time counts since the last measurement."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, dict[int, float]]] = {}

    def measure(self, pid: int, run_id: str) -> tuple[float, int]:
        """Return the percentage of one core and the bytes of memory of a worker and the others of its run.

        Nodes that a warm template has forked are no descendants of the worker; their environment names the
        run.
        """
        seconds: dict[int, float] = {}
        memory = 0
        begun = now = time.time()
        for process in _processes(pid, run_id):
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


def _processes(pid: int, run_id: str) -> Iterator[psutil.Process]:
    found = set(marked_processes(run_id))
    try:
        root = psutil.Process(pid)
        yield root
        for process in root.children(recursive=True):
            found.discard(process.pid)
            yield process
    except psutil.Error:
        return
    for other in found:
        try:
            yield psutil.Process(other)
        except psutil.Error:
            continue  # ended meanwhile
