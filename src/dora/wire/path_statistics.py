"""How long data takes from its origin to an input: the layout of the counters, and what they say.

Each node has a file of records, one for each output and each of its inputs that data of this output has
reached. A record has `RECORD_WORDS` unsigned words of 64 bits: the four of the head, the buckets of a
histogram, and three about the budget. There are eight buckets for each power of two from a microsecond to
four minutes, so what is read from them is right to 6 %; the worst time is exact. A record whose path is 0
is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

PATH, MESSAGES, WORST_NS, SUM_NS = 0, 1, 2, 3
HEAD_WORDS: Final = 4
_UNIT_BITS: Final = 10  # the first bucket has what is below 1,024 ns
_SUB_BITS: Final = 3  # eight buckets for each power of two
_OCTAVES: Final = 28
BUCKETS: Final = 1 + (_OCTAVES << _SUB_BITS)
# Of a path with a budget: the budget, the messages that were late, the slowest hop of the last one of them.
BUDGET_NS: Final = HEAD_WORDS + BUCKETS
MISSED: Final = BUDGET_NS + 1
SLOWEST_HOP: Final = BUDGET_NS + 2
RECORD_WORDS: Final = SLOWEST_HOP + 1  # a multiple of 8
MAX_RECORDS: Final = 64  # of a node; further paths are not counted
RECORD_BYTES: Final = RECORD_WORDS * 8


class PathLatency(msgspec.Struct, frozen=True, omit_defaults=True):
    """The time from the origin of data, an output, to one of the inputs that it has reached."""

    source: str  # "node/output"
    sink: str  # "node/input"
    messages: int  # taken there
    median_ms: float
    p99_ms: float
    worst_ms: float  # since the start
    mean_ms: float = 0.0
    clock_error_ms: float = 0.0  # how wrong the times may be, between two machines
    budget_ms: float = 0.0  # 0: it has none
    missed: int = 0  # messages that took longer
    slowest_hop: str = ""  # of the last one of them


def bucket_of(time_ns: int) -> int:
    """Return the bucket of a time.

    >>> bucket_of(0), bucket_of(1023), bucket_of(1024), bucket_of(2**70)
    (0, 0, 1, 224)
    """
    if time_ns < 1 << _UNIT_BITS:
        return 0
    octave = time_ns.bit_length() - 1
    if octave >= _UNIT_BITS + _OCTAVES:
        return BUCKETS - 1
    part = (time_ns >> (octave - _SUB_BITS)) & ((1 << _SUB_BITS) - 1)
    return 1 + ((octave - _UNIT_BITS) << _SUB_BITS) + part


def time_of(bucket: int) -> int:
    """Return the middle of a bucket, in nanoseconds.

    >>> all(bucket_of(time_of(bucket)) == bucket for bucket in range(BUCKETS))
    True
    """
    if bucket == 0:
        return 1 << (_UNIT_BITS - 1)
    octave, part = divmod(bucket - 1, 1 << _SUB_BITS)
    width = 1 << (octave + _UNIT_BITS - _SUB_BITS)
    return (1 << (octave + _UNIT_BITS)) + part * width + width // 2


def quantile(buckets: Sequence[int], part: float) -> int:
    """Return the time below which this part of the messages was, in nanoseconds; 0 without messages."""
    wanted = max(int(sum(buckets) * part), 1)
    for bucket, count in enumerate(buckets):
        wanted -= count
        if wanted <= 0 and count:
            return time_of(bucket)
    return 0


class Record(msgspec.Struct, frozen=True):
    """The counters of one path at one moment."""

    origin: int  # see `dora.wire.trail.origin_id`
    slot: int  # the line of the input on the board
    messages: int
    worst_ns: int
    sum_ns: int
    buckets: tuple[int, ...]
    budget_ns: int = 0
    missed: int = 0
    slowest_hop: int = 0  # see `dora.wire.hops`

    def since(self, former: Record | None) -> Record:
        """Return what was counted after ``former``; worst time and misses stay those since the start."""
        if former is None or former.messages > self.messages:
            return self
        counts = tuple(now - then for now, then in zip(self.buckets, former.buckets, strict=True))
        return Record(
            self.origin,
            self.slot,
            self.messages - former.messages,
            self.worst_ns,
            self.sum_ns - former.sum_ns,
            counts,
            self.budget_ns,
            self.missed,
            self.slowest_hop,
        )

    def latency(self, source: str, sink: str) -> PathLatency:
        """Return it with names."""
        worst = self.worst_ns

        def at_most_worst(part: float) -> float:
            return min(quantile(self.buckets, part), worst) / 1e6

        return PathLatency(
            source,
            sink,
            self.messages,
            at_most_worst(0.5),
            at_most_worst(0.99),
            worst / 1e6,
            self.sum_ns / max(self.messages, 1) / 1e6,
            budget_ms=self.budget_ns / 1e6,
            missed=self.missed,
        )


def path_number(origin: int, slot: int) -> int:
    """Return the number of a path, never 0. ``origin``: the output; ``slot``: the line of the input."""
    return slot << 32 | origin


def records(words: Sequence[int]) -> Iterator[Record]:
    """Yield the records of a file that have messages."""
    for begin in range(0, len(words) - RECORD_WORDS + 1, RECORD_WORDS):
        path, messages, worst_ns, sum_ns = words[begin : begin + HEAD_WORDS]
        if messages:
            buckets = tuple(words[begin + HEAD_WORDS : begin + HEAD_WORDS + BUCKETS])
            late = words[begin + BUDGET_NS : begin + SLOWEST_HOP + 1]
            yield Record(path & 0xFFFF_FFFF, path >> 32, messages, worst_ns, sum_ns, buckets, *late)
