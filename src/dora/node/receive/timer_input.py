"""The port of an input that a clock feeds, and how punctual its ticks are."""

from __future__ import annotations

import time
from typing import Any

from dora.node.events import Event, Input, InputClosed, Tick
from dora.node.receive.input_port import InputPort
from dora.wire.node_config import InputConfig
from dora.wire.path_statistics import BUCKETS, bucket_of, quantile

_monotonic = time.monotonic_ns


class Times:
    """A histogram of times; the worst one is exact, the others are to 6 %."""

    __slots__ = ("_buckets", "worst_ns")

    def __init__(self) -> None:
        self._buckets = [0] * BUCKETS
        self.worst_ns = 0

    def add(self, time_ns: int) -> None:
        self._buckets[bucket_of(time_ns)] += 1
        if time_ns > self.worst_ns:
            self.worst_ns = time_ns

    def summary(self) -> dict[str, float]:
        """Return ``median_ms``, ``p99_ms`` and ``worst_ms``."""
        median, p99 = (min(quantile(self._buckets, part), self.worst_ns) for part in (0.5, 0.99))
        return {"median_ms": median / 1e6, "p99_ms": p99 / 1e6, "worst_ms": self.worst_ns / 1e6}


class TickStatistics:
    """How late ticks were taken, and how much that differed from one to the next."""

    __slots__ = ("_jitter", "_late_before", "_lateness", "missed", "ticks")

    def __init__(self) -> None:
        self.ticks = 0
        self.missed = 0  # ticks for which there was no event
        self._lateness = Times()
        self._jitter = Times()
        self._late_before = 0

    def add(self, late_ns: int) -> None:
        """Count a tick that is taken so long after its time."""
        self._lateness.add(late_ns)
        if self.ticks:
            self._jitter.add(abs(late_ns - self._late_before))
        self._late_before = late_ns
        self.ticks += 1

    def summary(self) -> dict[str, Any]:
        """Return ``ticks``, ``missed``, and of ``lateness`` and ``jitter`` the summaries."""
        return {
            "ticks": self.ticks,
            "missed": self.missed,
            "lateness": self._lateness.summary(),
            "jitter": self._jitter.summary(),
        }


class TimerInput(InputPort):
    """An input fed by a clock: a grid that begins at ``epoch_ns``, or the input's phase after it.

    A busy node misses ticks. Afterwards it gets one of them (``skip``, ``coalesce``), or all of them in
    order (``burst``), at most ``queue_size``. A clock never closes, and a tick counts as no message.
    """

    is_data = False

    def __init__(self, config: InputConfig, epoch_ns: int) -> None:
        self.open = True
        self.id = config.id
        self.detached = False
        self.statistics = TickStatistics()
        self._template = Input.template(config.id)
        self._interval = config.interval_ns
        self._bursts = config.missed_ticks == "burst"
        self._coalesces = config.missed_ticks == "coalesce"
        self._most = config.queue_size
        begin = epoch_ns + config.phase_ns
        late = max(_monotonic() - begin, 0)
        self._due = begin + late // self._interval * self._interval
        self._stopped = False

    def poll(self) -> Event | None:
        now = _monotonic()
        if self.detached:
            self.open = False
            return InputClosed(self.id)
        if now < self._due or self._stopped:
            return None
        if self._bursts:
            return self._next_of_burst(now)
        late = now - self._due
        missed = late // self._interval
        self._due += (missed + 1) * self._interval
        self.statistics.add(late)
        self.statistics.missed += missed
        event = Input(self._template)
        event._content = Tick(time.time_ns(), missed if self._coalesces else 0)
        return event

    def _next_of_burst(self, now: int) -> Event:
        """Return the oldest tick that was missed, with the time at which it was due."""
        too_many = (now - self._due) // self._interval + 1 - self._most
        if too_many > 0:
            self._due += too_many * self._interval
            self.statistics.missed += too_many
        late = now - self._due
        self._due += self._interval
        self.statistics.add(late)
        event = Input(self._template)
        event._content = Tick(time.time_ns() - late)
        return event

    def ready(self) -> bool:
        return self.detached or (not self._stopped and _monotonic() >= self._due)

    def wake_at(self) -> int | None:
        return None if self._stopped else self._due

    def tick_statistics(self) -> dict[str, Any]:
        return self.statistics.summary()

    def stop(self) -> None:
        self._stopped = True

    def detach(self) -> None:
        self.detached = self._stopped = True

    def close(self) -> None:
        self._stopped = True
