"""How long messages wait until a receiver takes them, measured from outside.

A tap has the time at which a message was sent; the board shows when the receiver has taken it. The interval
between two polls is the error.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from dora.transport.board import CONNECTED, DROPPED, FIRST, RECEIVED, STATE, WORDS
from dora.wire.daemon_protocol import LinkView

_MAX_WAITING: Final = 4096  # messages that are followed at the same time


class LatencyMeter:
    """The times from sending to taking on one link, in nanoseconds."""

    def __init__(self, link: LinkView, words: memoryview) -> None:
        self.link = link
        self.times_ns: list[int] = []
        self._words = words
        self._base = link.slot * WORDS
        self._waiting: deque[tuple[int, int]] = deque(maxlen=_MAX_WAITING)  # number, sent at
        self._dropped = self._word(DROPPED)

    def add_sent(self, sequence: int, time_ns: int) -> None:
        """Add a message that the tap has received."""
        if self._word(STATE) == CONNECTED:
            self._waiting.append((sequence, time_ns))

    def poll(self) -> None:
        """Find out which messages were taken since the last poll."""
        if not self._waiting:
            return
        now = time.time_ns()
        known = self._word(FIRST) + self._word(RECEIVED) + self._word(DROPPED)
        dropped, self._dropped = self._dropped, self._word(DROPPED)
        while self._waiting and self._waiting[0][0] <= known:
            _, sent_at = self._waiting.popleft()
            if dropped == self._dropped:  # else it may have been one of those
                self.times_ns.append(now - sent_at)

    def take(self) -> tuple[float, float]:
        """Return median and 99th percentile in milliseconds, and start again; there must be times."""
        times, self.times_ns = self.times_ns, []
        return percentile(times, 0.5) / 1e6, percentile(times, 0.99) / 1e6

    def _word(self, word: int) -> int:
        value: int = self._words[self._base + word]
        return value


def percentile(values: list[int], part: float) -> int:
    """Return the value below which this part of the values lies; they must not be empty.

    >>> percentile([5, 1, 3], 0.5), percentile([5, 1, 3], 0.99)
    (3, 5)
    """
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
