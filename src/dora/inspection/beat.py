"""How often messages come, from their numbers and the times at which they were sent.

Not from when they were seen: so neither the way to the observer nor messages that it missed
falsify the figures.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec


class MeasuredRate(msgspec.Struct, frozen=True):
    """Figures over a window; times in milliseconds.

    ``hz`` and ``mean_ms`` count missed messages; the others come from neighbours that were both seen.
    """

    samples: int  # intervals between neighbours
    hz: float
    mean_ms: float
    min_ms: float
    max_ms: float
    deviation_ms: float
    bytes_per_second: float


class RateMeter:
    """Measures one topic over a sliding window of seconds.

    >>> meter = RateMeter(window=10.0)
    >>> for number in range(1, 6):
    ...     meter.add(number, number * 100_000_000, 50)
    >>> beat = meter.beat()
    >>> beat.hz, beat.mean_ms, beat.samples, beat.bytes_per_second
    (10.0, 100.0, 4, 500.0)
    """

    def __init__(self, window: float) -> None:
        self._window_ns = int(window * 1e9)
        self._seen: deque[tuple[int, int, int]] = deque()  # number, time, size

    def add(self, sequence: int, time_ns: int, size: int) -> None:
        """Note a message; ``size`` in bytes."""
        if self._seen and sequence <= self._seen[-1][0]:
            self._seen.clear()  # the numbers began anew, or came late over a network
        self._seen.append((sequence, time_ns, size))
        self.forget_before(time_ns - self._window_ns)

    def forget_before(self, time_ns: int) -> None:
        """Let go of what is older; a topic that fell silent has no beat once its window is over."""
        while self._seen and self._seen[0][1] < time_ns:
            self._seen.popleft()

    def beat(self) -> MeasuredRate | None:
        """Return the figures, None for fewer than two messages."""
        seen = self._seen
        if len(seen) < 2:
            return None
        span_ns = seen[-1][1] - seen[0][1]
        count = seen[-1][0] - seen[0][0]
        if span_ns <= 0:
            return None
        mean_size = sum(size for _, _, size in seen) / len(seen)
        intervals = [
            (later[1] - earlier[1]) / 1e6
            for earlier, later in zip(seen, list(seen)[1:], strict=False)
            if later[0] == earlier[0] + 1
        ] or [span_ns / count / 1e6]
        mean = sum(intervals) / len(intervals)
        return MeasuredRate(
            samples=len(intervals),
            hz=count / span_ns * 1e9,
            mean_ms=span_ns / count / 1e6,
            min_ms=min(intervals),
            max_ms=max(intervals),
            deviation_ms=math.sqrt(sum((interval - mean) ** 2 for interval in intervals) / len(intervals)),
            bytes_per_second=count / span_ns * 1e9 * mean_size,
        )
