"""Path latency: how long data takes from its origin to an input of this node.

An input takes samples: the header of a message, and when it was taken. They are counted while the node
waits for its next event, so that no message waits for that. Up to about 2,000 messages a second each one is
a sample, above that every second, fourth, … one, which then counts as so many.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from dora._ownership import UnsafeFile, open_own
from dora.wire.hops import named
from dora.wire.message import ONE_TRAIL_BYTE, ORIGIN, ORIGIN_NS, Header
from dora.wire.path_statistics import (
    BUDGET_NS,
    HEAD_WORDS,
    MAX_RECORDS,
    MESSAGES,
    MISSED,
    PATH,
    RECORD_BYTES,
    RECORD_WORDS,
    SLOWEST_HOP,
    SUM_NS,
    WORST_NS,
    PathLatency,
    bucket_of,
    path_number,
    records,
)
from dora.wire.trail import origins_of, output_of

_now = time.time_ns
_MOST_SAMPLES: Final = 256  # that wait to be counted; a node that never waits counts them at this number
_WINDOW: Final = 16  # samples of one input
_FAST_NS: Final = 8_000_000  # a window that is shorter has too many samples: 16 in 8 ms are 2,000 a second
_SLOW_NS: Final = 2_000_000  # two samples that are further apart have room for more between them
_LARGEST: Final = 2**64 - 1


class Carrier(Protocol):
    """The content of an event: a received message, or a value of an operator, has an origin."""

    @property
    def header(self) -> Header | None: ...
    @property
    def trail(self) -> bytes: ...


class Records:
    """Memory for the records of a node; grows as paths are used."""

    def __init__(self, path: str = "") -> None:
        """``path``: of a file that outlives this process, and that observers read; "": no file."""
        self._path = path
        self._fd = -1
        self._mapping: mmap.mmap | None = None
        self._count = 0
        self.words: Any = None  # None: no memory yet

    def open(self) -> dict[int, int]:
        """Map the memory; return where the records are that a former process has made, by path."""
        size = MAX_RECORDS * RECORD_BYTES
        if self._path:
            try:
                self._fd = open_own(self._path, os.O_RDWR | os.O_CREAT)
                os.ftruncate(self._fd, size)
                self._mapping = mmap.mmap(self._fd, size)
            except (OSError, UnsafeFile, ValueError):  # only observers miss it
                self._fd, self._mapping = -1, None
        memory = self._mapping if self._mapping is not None else bytearray(size)
        self.words = words = memoryview(memory).cast("Q")
        found = {}
        for begin in range(0, len(words), RECORD_WORDS):
            if not words[begin + PATH]:
                break
            found[words[begin + PATH]] = begin
        self._count = len(found)
        return found

    def add(self, path: int) -> int | None:
        """Return where a new record is; None if there is no room, or another thread has closed the node."""
        words = self.words
        if self._count >= MAX_RECORDS or words is None:
            return None
        begin = self._count * RECORD_WORDS
        if self._mapping is not None and hasattr(os, "posix_fallocate"):
            try:  # a full tmpfs is an error here, and would be a SIGBUS later
                os.posix_fallocate(self._fd, begin * 8, RECORD_BYTES)
            except OSError:
                return None
        self._count += 1
        words[begin + PATH] = path
        return begin

    def close(self) -> None:
        """Give up the memory; the file stays.

        It is unmapped with the last reference: another thread, or the one that this signal handler has
        interrupted, may be counting.
        """
        if self._mapping is not None:
            self.words = self._mapping = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PathMeter:
    """The path latencies of one node."""

    def __init__(self, memory: Records) -> None:
        self._memory = memory
        self._found: dict[int, int | None] | None = None  # path number → its record, None: it has none
        self.samples: list[tuple[int, int, int, Header, bytes]] = []  # see `count`

    def count(self) -> None:
        """Count the samples that were taken; the program has nothing else to do."""
        samples, self.samples = self.samples, []
        for slot, weight, taken_ns, header, trail in samples:
            if not trail:
                self.add(path_number(output_of(header), slot), taken_ns - header[ORIGIN_NS], weight)
                continue
            for origin in origins_of(header, trail):
                self.add(path_number(origin.output, slot), taken_ns - origin.oldest_ns, weight)

    def note_budget(self, path: int, budget_ns: int, slowest_hop: int | None = None) -> None:
        """Note a message of a path with a budget; with its ``slowest_hop`` if it was late."""
        begin, words = self._record(path), self._memory.words
        if begin is None or words is None:
            return
        words[begin + BUDGET_NS] = budget_ns
        if slowest_hop is not None:
            words[begin + MISSED] += 1
            words[begin + SLOWEST_HOP] = slowest_hop

    def _record(self, path: int) -> int | None:
        """Return where the record of a path is; None if there is no room for it."""
        found = self._found
        if found is None:
            found = self._found = dict(self._memory.open())
        if path not in found:
            found[path] = self._memory.add(path)
        return found[path]

    def add(self, path: int, time_ns: int, weight: int = 1) -> None:
        """Count a message of a path, for ``weight`` messages."""
        begin, words = self._record(path), self._memory.words
        if begin is None or words is None:
            return
        time_ns = min(max(time_ns, 0), _LARGEST >> 16)  # a clock may have been set meanwhile
        words[begin + HEAD_WORDS + bucket_of(time_ns)] += weight
        words[begin + SUM_NS] = (words[begin + SUM_NS] + time_ns * weight) & _LARGEST
        if time_ns > words[begin + WORST_NS]:
            words[begin + WORST_NS] = time_ns
        words[begin + MESSAGES] += weight

    def statistics(self, sources: Mapping[int, str], sinks: Mapping[int, str]) -> list[PathLatency]:
        """Return the latencies so far. ``sources``: outputs by number; ``sinks``: inputs by their lines."""
        self.count()
        if (words := self._memory.words) is None:
            return []
        return [
            named(record, sources[record.origin], sinks[record.slot], sources)
            for record in records(words)
            if record.origin in sources and record.slot in sinks
        ]

    def close(self) -> None:
        self.count()
        self._memory.close()
        self._found = {}  # what may still come is not counted


class InputMeter:
    """Takes the samples of one input: of every message, or every second, fourth, …

    ``slot``: the line of the input on the board.
    """

    __slots__ = ("_begun_ns", "_last_ns", "_meter", "_slot", "_step", "_taken")

    def __init__(self, meter: PathMeter, slot: int) -> None:
        self._meter = meter
        self._slot = slot
        self._step = 1
        self._last_ns = 0  # when the last sample was taken
        self._begun_ns = 0  # when the window began
        self._taken = 0  # samples of the window

    def sample(self, content: Carrier, number: int, now_ns: int | None = None) -> int:
        """Take a sample, at this moment or at ``now_ns``; return the number of the message to take next.

        ``number``: of this message on its input.
        """
        header = content.header
        if header is not None:
            meter, taken_ns = self._meter, now_ns or _now()
            trail = content.trail if header[ORIGIN] >= ONE_TRAIL_BYTE else b""
            meter.samples.append((self._slot, self._step, taken_ns, header, trail))
            self._adapt(taken_ns)
            if len(meter.samples) >= _MOST_SAMPLES:
                meter.count()
        return number + self._step

    def _adapt(self, now_ns: int) -> None:
        """Adapt the number of samples to the rate of the messages."""
        pause_ns, self._last_ns = now_ns - self._last_ns, now_ns
        self._taken += 1
        if pause_ns > _SLOW_NS:
            self._step = max(self._step // 2, 1)
        elif self._taken < _WINDOW:
            return
        elif now_ns - self._begun_ns < _FAST_NS:
            self._step *= 2
        self._begun_ns = now_ns
        self._taken = 0


def output_names(descriptor: Mapping[str, Any]) -> list[str]:
    """Return the outputs "node/output" of a dataflow, operators included, from its descriptor."""
    names = []
    for node in descriptor.get("nodes") or ():
        node_id = node.get("id")
        names += [f"{node_id}/{output}" for output in _names(node.get("outputs"))]
        single = node.get("operator")
        for operator in [*(node.get("operators") or ()), *([single] if single else [])]:
            owner = f"{node_id}/{operator['id']}" if operator.get("id") else node_id
            names += [f"{owner}/{output}" for output in _names(operator.get("outputs"))]
    return names


def _names(outputs: Any) -> list[str]:
    """Return the names of outputs, of which an entry with options is a mapping of one name."""
    return [name for entry in outputs or () for name in (entry if isinstance(entry, dict) else [entry])]
