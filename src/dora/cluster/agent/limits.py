"""Limits and use of resources: time limits, real-time priority, processor and memory."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import psutil

from dora.daemon.guardian import all_marked_processes
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
        self._before: dict[str, tuple[float, dict[int, float]]] = {}  # run → time, process → seconds

    def measure(self, workers: Mapping[int, str]) -> dict[str, tuple[float, int]]:
        """Return the percentage of one core and the bytes of memory of each run, by its id.

        ``workers``: process of a worker, a child of this one → id of the run. May be called from another
        thread: it looks at all processes of the machine.
        """
        measured, before = {}, {}
        for run_id, processes in _processes(workers).items():
            seconds: dict[int, float] = {}
            memory = 0
            begun = now = time.time()
            for process in processes:
                try:
                    with process.oneshot():
                        times = process.cpu_times()
                        memory += process.memory_info().rss
                        begun = min(begun, process.create_time())
                except psutil.Error:
                    continue  # ended meanwhile
                seconds[process.pid] = times.user + times.system
            last = self._before.get(run_id)
            when, earlier = last or (begun, {})
            before[run_id] = last if last is not None and now - when < 0.1 else (now, seconds)
            used = sum(spent - earlier.get(pid, 0.0) for pid, spent in seconds.items())
            measured[run_id] = round(100 * used / max(now - when, 0.01), 1), memory
        self._before = before
        return measured


def _processes(workers: Mapping[int, str]) -> dict[str, list[psutil.Process]]:
    """Return the processes of each run: its worker, the descendants, and others that are marked.

    Nodes that a warm template has forked are no descendants of the worker; their environment names the run.
    One walk finds those of all runs.
    """
    found: dict[str, list[psutil.Process]] = {run_id: [] for run_id in workers.values()}
    owners = dict(workers)  # process → run
    try:
        descendants = psutil.Process().children(recursive=True)  # each after its parent
    except psutil.Error:
        descendants = []  # this user may not see the processes of others
    for process in descendants:
        try:
            run_id = owners.get(process.pid) or owners.get(process.ppid())
        except psutil.Error:
            continue  # ended meanwhile
        if run_id is not None:
            owners[process.pid] = run_id
            found[run_id].append(process)
    for pid, run_id in all_marked_processes():
        if run_id in found and pid not in owners:
            try:
                found[run_id].append(psutil.Process(pid))
            except psutil.Error:
                continue  # ended meanwhile
    return found
