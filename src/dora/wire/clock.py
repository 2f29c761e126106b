"""The clocks of machines: how far one is ahead of another, estimated from round trips.

The estimate follows NTP (RFC 5905, section 8). One side sends its time *T1*; the other one answers with
the time *T2* at which that came and the time *T3* of its answer, which comes back at *T4*. Then the other
clock is ahead by

    ((T2 - T1) + (T3 - T4)) / 2

and this is wrong by at most half of the time on the way, (T4 - T1) - (T3 - T2). Of several round trips the
one with the shortest way counts, as in NTP's clock filter (section 10).
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

_KEPT: Final = 8  # round trips, as in NTP's clock filter


class ClockOffset(msgspec.Struct, frozen=True):
    """How far another clock is ahead of this one, in nanoseconds, and how wrong that may be."""

    offset_ns: int
    error_ns: int


def round_trip(sent_ns: int, received_ns: int, answered_ns: int, arrived_ns: int) -> ClockOffset:
    """Return what one round trip shows; the second and the third time are of the other clock.

    >>> round_trip(1000, 5100, 5200, 1300)
    ClockOffset(offset_ns=4000, error_ns=100)
    """
    offset = ((received_ns - sent_ns) + (answered_ns - arrived_ns)) // 2
    way = (arrived_ns - sent_ns) - (answered_ns - received_ns)
    return ClockOffset(offset, max(way, 0) // 2)


class ClockFilter:
    """The best of the last round trips with one other machine."""

    def __init__(self) -> None:
        self._last: deque[ClockOffset] = deque(maxlen=_KEPT)
        self.best: ClockOffset | None = None

    def add(self, found: ClockOffset) -> ClockOffset:
        """Add a round trip and return the best one. Those before a clock was set are forgotten."""
        best = self.best
        if best is not None and abs(found.offset_ns - best.offset_ns) > found.error_ns + best.error_ns:
            self._last.clear()
        self._last.append(found)
        self.best = min(self._last, key=lambda each: each.error_ns)
        return self.best


def between(source: ClockOffset, here: ClockOffset) -> ClockOffset:
    """Return how far this machine's clock is ahead of a source's.

    ``source`` and ``here``: how far a third clock is ahead of each. An offset that is smaller than its
    error is none: clocks that are set by NTP or PTP are nearer to each other than this estimate.

    >>> between(ClockOffset(500, 10), ClockOffset(200, 10))
    ClockOffset(offset_ns=300, error_ns=20)
    """
    offset, error = source.offset_ns - here.offset_ns, source.error_ns + here.error_ns
    return ClockOffset(offset if abs(offset) > error else 0, error)
