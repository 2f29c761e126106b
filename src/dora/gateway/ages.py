"""How old the messages of another machine are on arrival: a sample of them, and reports to that machine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dora.gateway.outgoing import CONNECTIONS

REPORT_EVERY: Final = 1.0  # seconds
_KEPT: Final = 512
_AT_ONCE: Final = 64  # between two calls of `Ages.allow`: measuring each message would cost 1 µs
_LAST: Final = 5.0  # seconds


class Ages:
    """The ages of the last messages of one connection, on arrival: a sample of at most 512."""

    def __init__(self) -> None:
        self.wanted = _AT_ONCE  # how many more may be added now
        self._ages: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def add(self, now: float, age_ns: int) -> None:
        """Add an age, while some are ``wanted``. The clocks of machines differ, so it may be negative."""
        self.wanted -= 1
        self._ages.append((now, max(age_ns, 0)))

    def allow(self) -> None:
        """Take more ages from now on."""
        self.wanted = _AT_ONCE

    def quantiles(self, now: float) -> tuple[int, int]:
        """Return the median and the 99th percentile of the last 5 s in nanoseconds; 0: no message came.

        >>> ages = Ages()
        >>> for number in range(100):
        ...     ages.add(1.0, number)
        >>> ages.quantiles(2.0), ages.quantiles(7.0)
        ((50, 99), (0, 0))
        """
        while self._ages and self._ages[0][0] < now - _LAST:
            self._ages.popleft()
        ages = sorted(age for _, age in self._ages)
        if not ages:
            return 0, 0
        return ages[len(ages) // 2], ages[len(ages) * 99 // 100]


class AgeReports:
    """Reports to the other machine how old its messages are on arrival; ``say`` sends a report."""

    def __init__(self, say: Callable[[list[tuple[int, int]]], None]) -> None:
        self.of_connection = [Ages() for _ in range(CONNECTIONS)]
        self._say = say
        self._due = time.monotonic() + REPORT_EVERY
        self._reported: list[tuple[int, int]] = []

    def tick(self, now: float) -> None:
        for ages in self.of_connection:
            ages.allow()
        if now >= self._due:
            self._due = now + REPORT_EVERY
            found = [ages.quantiles(now) for ages in self.of_connection]
            if found != self._reported and any(map(any, found)):
                self._reported = found
                self._say(found)
