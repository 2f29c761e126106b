"""Rates and queues of a running dataflow, read off its board: no node notices.

`Counters` reads the board, `rates` compares two readings; the second is pure.
"""

from __future__ import annotations

import math
import time
from collections import deque

import msgspec

from dora.observe.networks import NetworkCounts, read_networks
from dora.transport.board import (
    BYTES,
    CONNECTED,
    DROPPED,
    FIRST,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    delivered,
    link_counts,
    link_flags,
)
from dora.wire.daemon_protocol import Inspection, LinkView


class LinkCounts(msgspec.Struct, frozen=True):
    """The counters of one link since the start."""

    received: int
    dropped: int
    waiting: int | None = None  # None: not known
    counts: dict[str, int] = {}  # the `LINK_COUNTERS` that are not 0, by name
    flags: tuple[str, ...] = ()  # names of the `LINK_FLAGS` that are set, the one that counts first


class Reading(msgspec.Struct, frozen=True):
    """The board at one moment."""

    time_ns: int  # monotonic
    outputs: dict[int, tuple[int, int]]  # slot → messages, bytes
    links: dict[int, LinkCounts]  # by slot
    networks: dict[str, NetworkCounts] = {}  # by the machine that they lead to

    def with_slots_of(self, later: Reading) -> Reading:
        """Return this reading for the outputs, links and networks of a later one; new ones begin there."""
        return Reading(
            self.time_ns,
            {slot: self.outputs.get(slot, counts) for slot, counts in later.outputs.items()},
            {slot: self.links.get(slot, counts) for slot, counts in later.links.items()},
            {name: self.networks.get(name, counts) for name, counts in later.networks.items()},
        )


class LinkRate(msgspec.Struct, frozen=True):
    """One link between two readings."""

    link: LinkView
    hz: float  # messages received per second
    bytes_per_second: float | None  # None: no message, or it passes by reference
    waiting: int | None  # messages in the queue
    dropped: int  # since the start
    dropping_hz: float
    latency_ms: tuple[float, float] | None = None  # median and 99th percentile, where a tap measures it
    counts: dict[str, int] = {}  # since the start; as of `LinkCounts`, like the flags
    flags: tuple[str, ...] = ()


class OutputRate(msgspec.Struct, frozen=True):
    """One output between two readings; without a link or a tap, nothing is copied, and no bytes count."""

    hz: float
    bytes_per_second: float


class Counters:
    """Reads the counters of one dataflow."""

    def __init__(self, inspection: Inspection, words: memoryview) -> None:
        self._words = words
        self._outputs = [output.slot for node in inspection.nodes for output in node.outputs]
        self._links = inspection.links
        self._networks = inspection.networks

    def read(self) -> Reading:
        """Return all counters now; `rates` compares two such readings."""
        words = self._words
        outputs = {
            slot: (words[slot * WORDS + SENT], words[slot * WORDS + BYTES]) for slot in self._outputs
        }
        links = {link.slot: self._read_link(link, outputs) for link in self._links}
        return Reading(time.monotonic_ns(), outputs, links, read_networks(self._networks, words))

    def _read_link(self, link: LinkView, outputs: dict[int, tuple[int, int]]) -> LinkCounts:
        words, base = self._words, link.slot * WORDS
        # First, see `link_counts`: what it counts is part of the numbers that are read next.
        further = link_counts(words, link.slot), link_flags(words, link.slot)
        taken, dropped = words[base + RECEIVED], words[base + DROPPED]
        received = delivered(words, link.slot, further[0])
        if link.kind != "link":
            return LinkCounts(received, dropped, None, *further)
        if words[base + STATE] != CONNECTED:
            return LinkCounts(received, dropped, 0, *further)
        waiting = max(0, outputs[link.output_slot][0] - words[base + FIRST] - taken - dropped)
        if link.policy != "backpressure" and waiting > link.queue_size:
            # The receiver notices a loss with the next message that it takes.
            dropped += waiting - link.queue_size
            waiting = link.queue_size
        return LinkCounts(received, dropped, waiting, *further)


def rates(
    inspection: Inspection, before: Reading, after: Reading
) -> tuple[dict[int, OutputRate], list[LinkRate]]:
    """Return the rates of outputs, by slot, and of links between two readings."""
    seconds = max(after.time_ns - before.time_ns, 1) / 1e9
    outputs = {}
    sizes = {}
    for slot, (sent, size) in after.outputs.items():
        sent_before, size_before = before.outputs[slot]
        outputs[slot] = OutputRate((sent - sent_before) / seconds, (size - size_before) / seconds)
        if sent > sent_before and size > size_before:
            sizes[slot] = (size - size_before) / (sent - sent_before)
    links = []
    for link in inspection.links:
        now, then = after.links[link.slot], before.links[link.slot]
        hz = max(0, now.received - then.received) / seconds
        mean_size = sizes.get(link.output_slot) if link.kind == "link" else None
        links.append(
            LinkRate(
                link,
                hz,
                None if mean_size is None else hz * mean_size,
                now.waiting,
                now.dropped,
                max(0, now.dropped - then.dropped) / seconds,
                counts=now.counts,
                flags=now.flags,
            )
        )
    return outputs, links


# Rates come from the numbers of messages and the times at which they were sent, not from the times at which
# they were observed. So neither their way to the observer nor missed messages distort them.


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
    >>> rate = meter.rate()
    >>> rate.hz, rate.mean_ms, rate.samples, rate.bytes_per_second
    (10.0, 100.0, 4, 500.0)
    """

    def __init__(self, window: float) -> None:
        self._window_ns = int(window * 1e9)
        self._seen: deque[tuple[int, int, int]] = deque()  # number, time, size

    def add(self, sequence: int, time_ns: int, size: int) -> None:
        """Add a message; ``size`` in bytes."""
        if self._seen and sequence <= self._seen[-1][0]:
            self._seen.clear()  # the sender was restarted, or a message came late over a network
        self._seen.append((sequence, time_ns, size))
        self.forget_before(time_ns - self._window_ns)

    def forget_before(self, time_ns: int) -> None:
        """Drop older messages: a topic that is silent for longer than its window has no rate."""
        while self._seen and self._seen[0][1] < time_ns:
            self._seen.popleft()

    def rate(self) -> MeasuredRate | None:
        """Return the rate, None for fewer than two messages."""
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
