"""Choose for each row of an episode one sample of a source, by the times of capture.

The rows of an episode lie at a fixed rate: row ``i`` at ``start + i / fps``. Sources have rates and clocks
of their own. A row gets the newest sample captured at or before its time; where the row before has that
one already, it gets the next sample, if that was captured at most half a period after the row.

The second rule keeps a camera whole that runs at the rate of the rows: with the first rule alone, frames
that come now just before, now just after the time of a row would be left out and repeated in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

SECOND: Final = 1_000_000_000  # nanoseconds

Value = TypeVar("Value")


def rows_between(start: int, end: int, fps: int) -> int:
    """Return how many rows an episode has; both times are in nanoseconds.

    >>> rows_between(0, SECOND, 30)
    31
    """
    return max(0, ((end - start + 1) * fps + SECOND - 1) // SECOND)


class Sample(NamedTuple, Generic[Value]):
    """A value and when it was captured, in nanoseconds since 1970 (UTC)."""

    time: int
    value: Value


class Pick(NamedTuple, Generic[Value]):
    """The sample of a row. ``gap``: it is older than one and a half periods of its source."""

    sample: Sample[Value]
    repeated: bool
    gap: bool


@dataclass
class Counts:
    """How complete a source was in an episode, in samples or rows.

    ``missing``: samples that the source did not send, by the distances of those that it sent. ``late``:
    samples that came when their row was written already. ``dropped``: messages that were lost on the way
    or for want of memory. ``refused``: messages that could not be used. ``repeated``: rows with the sample
    of the row before. ``gaps``: rows whose sample is older than one and a half periods.
    """

    received: int = 0
    missing: int = 0
    late: int = 0
    dropped: int = 0
    refused: int = 0
    repeated: int = 0
    gaps: int = 0
    first: int = 0
    last: int = 0

    @property
    def rate(self) -> float:
        """Samples a second, as they were captured; 0.0 for fewer than two."""
        span = self.last - self.first
        return (self.received - 1) * SECOND / span if self.received > 1 and span > 0 else 0.0


class Sampler(Generic[Value]):
    """The samples of one source, for the rows of one episode after the other.

    ``fps`` is the rate of the rows, ``rate`` the one expected of the source. Both are in hertz.
    ``patience``, in nanoseconds, is how long after its time a row waits for samples that are under way.
    """

    def __init__(self, fps: int, rate: float, patience: int) -> None:
        self._fps = fps
        self._half = SECOND // (2 * fps)
        self._period = round(SECOND / rate)
        self._oldest = round(1.5 * SECOND / min(rate, fps))
        self._patience = patience
        self._waiting: deque[Sample[Value]] = deque()
        self._shown: Sample[Value] | None = None
        self._start: int | None = None
        self._last: int | None = None  # no row of the episode is later
        self._row = 0
        self.counts = Counts()

    @property
    def recording(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self._start is not None

    def push(self, time: int, value: Value) -> None:
        """Add a sample. Between episodes only the newest is kept."""
        newest = self._waiting[-1] if self._waiting else self._shown
        if newest is not None and time <= newest.time:
            self.counts.late += self._start is not None
            return
        if self._start is None:
            self._waiting.clear()
        elif self._last is None or time <= self._last:
            self._count(time)
        self._waiting.append(Sample(time, value))

    def begin(self, start: int) -> None:
        """Begin an episode whose first row is at ``start``; at least one sample has to be there.

        Samples after ``start`` may be there as well, and belong to the episode.
        """
        while len(self._waiting) > 1 and self._waiting[1].time <= start:
            self._waiting.popleft()
        self._start, self._last, self._row, self._shown = start, None, 0, None
        self.counts = Counts(last=self._waiting[0].time)
        for sample in list(self._waiting)[1:]:
            self._count(sample.time)

    def limit(self, end: int) -> None:
        """Make no row after the time ``end``; samples that are under way may still come."""
        self._last = end

    def rows(self, now: int) -> Iterator[Pick[Value]]:
        """Yield the samples of the rows that are complete at the time ``now``."""
        while self._start is not None:
            time = self._time()
            if self._last is not None and time > self._last:
                return
            decided = self._waiting and self._waiting[-1].time > time + self._half
            if not decided and now < time + self._half + self._patience:
                return
            yield self._pick(time)

    def end(self, end: int) -> Iterator[Pick[Value]]:
        """Yield the samples of the rows that are left, up to the time ``end``, and end the episode."""
        while self._time() <= end:
            yield self._pick(self._time())
        self._count_missing(end)
        self.discard()

    def discard(self) -> None:
        """End the episode without further rows.

        Its last sample and those that came after it stay, for an episode that begins at once.
        """
        self._start = None
        if self._shown is not None:
            self._waiting.appendleft(self._shown)
            self._shown = None

    def refuse(self, pick: Pick[Value], instead: Sample[Value]) -> Pick[Value]:
        """Return a pick with the sample ``instead``, because the one chosen turned out to be unusable."""
        self.counts.refused += 1
        self.counts.gaps -= pick.gap
        self._shown = instead
        self.counts.repeated += 1
        gap = self._time(self._row - 1) - instead.time > self._oldest
        self.counts.gaps += gap
        return Pick(instead, True, gap)

    def _pick(self, time: int) -> Pick[Value]:
        before, found = self._shown, None
        while self._waiting and self._waiting[0].time <= time:
            found = self._waiting.popleft()
        if found is None and before is not None:
            if self._waiting and self._waiting[0].time <= time + self._half:
                found = self._waiting.popleft()
        elif found is None:
            found = self._waiting.popleft()  # the first row: nothing is older
        self._shown = found or before
        assert self._shown is not None
        self._row += 1
        gap = time - self._shown.time > self._oldest
        self.counts.repeated += found is None
        self.counts.gaps += gap
        return Pick(self._shown, found is None, gap)

    def _count(self, time: int) -> None:
        counts = self.counts
        counts.received += 1
        if counts.received == 1:
            counts.first = time
        self._count_missing(time)
        counts.last = time
        if self._row and time <= self._time(self._row - 1):
            counts.late += 1

    def _count_missing(self, time: int) -> None:
        distance = time - self.counts.last
        self.counts.missing += max(0, round(distance / self._period) - 1)

    def _time(self, row: int | None = None) -> int:
        assert self._start is not None
        return self._start + (self._row if row is None else row) * SECOND // self._fps
