"""Latencies of a running dataflow: of links, measured from outside, and of paths, as its nodes count them.

On a link it is the time from sending to taking. A tap has the time at which a message was sent; the board
shows when the receiver has taken it. The interval between two polls is the error.
"""

from __future__ import annotations

import glob
import os
import time
from collections import deque
from typing import Final

from msgspec import structs

from dora._ownership import UnsafeFile, open_own
from dora._paths import path_records_of
from dora.transport.board import CLOCK_ERROR, CONNECTED, DROPPED, FIRST, RECEIVED, STATE, WORDS
from dora.wire.daemon_protocol import Inspection, LinkView
from dora.wire.hops import named
from dora.wire.path_statistics import MAX_RECORDS, RECORD_BYTES, PathLatency, Record, records
from dora.wire.trail import origin_id

_MAX_WAITING: Final = 4096  # messages that are followed at the same time; older ones are not measured


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


class PathReader:
    """Reads the paths to the inputs of this machine's nodes again and again."""

    def __init__(self, board: str, words: memoryview) -> None:
        """``board``: the path of the board, beside which the files are; ``words``: its words."""
        self._words = words
        self._names: dict[int, str] = {}  # of outputs, by number
        self._pattern = glob.escape(path_records_of(board, 0)).removesuffix("0") + "*"
        self._last: dict[tuple[int, int], Record] = {}
        self._shown: dict[tuple[int, int], PathLatency] = {}

    def total(self, inspection: Inspection) -> list[PathLatency]:
        """Return the latencies since the start of the dataflow."""
        return [self._named(inspection, record, ends) for record, ends in self._read(inspection)]

    def refresh(self, inspection: Inspection) -> list[PathLatency]:
        """Return the latencies since the last time, or for paths without a new message the last ones.

        The number of messages, those that were late, and the worst time are those since the start.
        """
        shown = {}
        for record, ends in self._read(inspection):
            key = record.origin, record.slot
            recent = record.since(self._last.get(key))
            if recent.messages or key not in self._shown:
                found = self._named(inspection, recent, ends)
                shown[key] = structs.replace(found, messages=record.messages)
            else:  # a message that was late is counted also if its time was not measured
                found = self._named(inspection, record, ends)
                shown[key] = structs.replace(
                    self._shown[key], missed=found.missed, slowest_hop=found.slowest_hop
                )
            self._last[key] = record
        self._shown = shown
        return list(shown.values())

    def _named(self, inspection: Inspection, record: Record, ends: tuple[str, str]) -> PathLatency:
        source, sink = ends
        latency = named(record, source, sink, self._names)
        machines = {node.id: node.machine for node in inspection.nodes}
        if machines[source.partition("/")[0]] == machines[sink.partition("/")[0]]:
            return latency
        here = inspection.machine
        errors = [
            self._words[link.output_slot * WORDS + CLOCK_ERROR]
            for link in inspection.links
            if machines.get(link.producer.partition("/")[0]) != here
        ]
        return structs.replace(latency, clock_error_ms=max(errors, default=0) / 1e6)

    def _read(self, inspection: Inspection) -> list[tuple[Record, tuple[str, str]]]:
        sources = {
            origin_id(name): name
            for node in inspection.nodes
            for name in (f"{node.id}/{output.id}" for output in node.outputs)
        }
        self._names = sources
        sinks = {link.slot: link.consumer for link in inspection.links}
        found = [
            (record, (sources[record.origin], sinks[record.slot]))
            for path in glob.glob(self._pattern)
            for record in _records(path)
            if record.origin in sources and record.slot in sinks
        ]
        return sorted(found, key=lambda item: item[1])


def _records(path: str) -> list[Record]:
    try:
        fd = open_own(path, os.O_RDONLY)
    except (OSError, UnsafeFile):  # the dataflow has just ended
        return []
    try:
        data = b""
        for number in range(MAX_RECORDS):  # to read a hole of the file does not take memory, to map it does
            part = os.pread(fd, RECORD_BYTES, number * RECORD_BYTES)
            if len(part) < RECORD_BYTES or not any(part[:8]):
                break
            data += part
    except OSError:
        return []
    finally:
        os.close(fd)
    return list(records(memoryview(data).cast("Q")))
