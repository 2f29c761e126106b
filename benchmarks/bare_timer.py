"""A timer without a framework, on each core: what the machine itself does to a real-time process.

A virtual machine stands still while its host runs something else. A process of the highest priority notices
that. So a pause of the machine is not taken for a pause of the measured program.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType

PRIORITY = 90
PERIOD_NS = 1_000_000
LATE_NS = 2_000_000  # a pause is at least so long
MARGIN_NS = 5_000_000  # a pause also delays what waits behind it

Pause = tuple[int, int]
"""Begin and end, in nanoseconds since 1970."""


def _measure(core: int, real_time: bool, connection: Connection) -> None:
    os.sched_setaffinity(0, [core])
    if real_time:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    pauses: list[Pause] = []
    due = time.monotonic_ns()
    while not connection.poll():
        due += PERIOD_NS
        time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
        late = time.monotonic_ns() - due
        if late >= LATE_NS:
            now = time.time_ns()
            pauses.append((now - late - PERIOD_NS, now))  # it may have begun right after the last tick
            due = time.monotonic_ns()
    connection.send(pauses)


class BareTimers:
    """Timers that run during a ``with`` block; ``pauses`` are there after it."""

    def __init__(self, *, real_time: bool) -> None:
        self._real_time = real_time
        self._timers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self.pauses: list[Pause] = []  # of all cores

    def __enter__(self) -> BareTimers:
        context = multiprocessing.get_context("spawn")
        for core in sorted(os.sched_getaffinity(0)):
            here, there = context.Pipe()
            arguments = (core, self._real_time, there)
            process = context.Process(target=_measure, args=arguments, daemon=True)
            process.start()
            self._timers.append((process, here))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, connection in self._timers:
            connection.send(None)
            self.pauses += connection.recv()
            process.join()

    def worst_ms(self) -> float:
        """Return the longest pause."""
        return max(((end - begin) / 1e6 for begin, end in self.pauses), default=0.0)


def outside(gaps: Sequence[Pause], pauses: Sequence[Pause]) -> list[Pause]:
    """Return the gaps that overlap with no pause of the machine.

    >>> outside([(0, 10), (50_000_000, 60_000_000)], [(5, 20)])
    [(50000000, 60000000)]
    """
    return [
        (start, end)
        for start, end in gaps
        if all(end + MARGIN_NS < begin or finish + MARGIN_NS < start for begin, finish in pauses)
    ]
