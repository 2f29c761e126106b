"""The order in which nodes take their events: read while recording, translated for a replay."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.process_folder import make_folder, remove_folder
from dora.wire.decoders import DecodeError, msgpack_decoder
from dora.wire.event_log import Entry, EntryKind, complete_size, entries, pack_entry

_decode = msgpack_decoder(dict[str, Any])


_FREED_AT_ONCE: Final = 4 << 20  # bytes: one system call for many reads
_PUNCH_HOLE_AND_KEEP_SIZE: Final = 3  # the mode of Linux's `fallocate`


def _punch_hole(file: BinaryIO, begin: int, end: int) -> None:
    """Free the disk space of a part of a file, where the system can: a recording may last for days."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        sizes = ctypes.c_longlong(begin), ctypes.c_longlong(end - begin)
        libc.fallocate(file.fileno(), _PUNCH_HOLE_AND_KEEP_SIZE, *sizes)


class OrderTail:
    """Reads the event logs that nodes write to a directory while they are recorded; ``close`` removes it.

    It is in the directory of the run, so it also goes with the run if its recorder was killed.
    Nodes learn of the directory from `dora.wire.daemon_protocol.StartEventLogs`, or
    `Daemon.record_order`.
    """

    def __init__(self, run_directory: str) -> None:
        self.directory = make_folder("order", run_directory)
        self._files: dict[str, BinaryIO] = {}
        self._rest: dict[str, bytes] = {}
        self._freed: dict[str, int] = {}  # bytes at the beginning of a file

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield, by node, the entries that were written since the last time."""
        try:
            there = os.listdir(self.directory)
        except FileNotFoundError:
            there = []  # a cleanup removed it; open files continue
        for node_id in sorted({*there, *self._files}):
            file = self._files.get(node_id)
            if file is None:
                try:
                    file = open(os.path.join(self.directory, node_id), "r+b")  # noqa: SIM115 - until `close`
                except FileNotFoundError:
                    continue  # removed since it was listed
                self._files[node_id] = file
            data = self._rest.pop(node_id, b"") + file.read()
            begin, end = self._freed.get(node_id, 0), file.tell()
            if end - begin >= _FREED_AT_ONCE:
                _punch_hole(file, begin, end)
                self._freed[node_id] = end
            size = complete_size(data)
            if size < len(data):
                self._rest[node_id] = data[size:]
            if size:
                yield node_id, data[:size]

    def close(self) -> None:
        """Close the files, and remove their folder."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        remove_folder(self.directory)


Numbers = Callable[[str, int], int]
"""Maps an output and a recorded sequence number to its number in the replay; 0: it will not be sent."""


class Translation:
    """Translates the entries of one node to those for a replay of a span of time."""

    def __init__(
        self,
        numbers: Numbers,
        begin_ns: int,
        end_ns: int,
        *,
        from_start: bool,
        latched: Mapping[str, Sequence[int]] = {},
    ) -> None:
        """``from_start``: the recording and the span contain the node's first event.

        ``latched``: by input, the numbers of messages that the node may have had before the recording
        began; it gets them first.
        """
        self._numbers = numbers
        self._begin_ns = begin_ns
        self._end_ns = end_ns
        self._from_start = from_start
        self._latched = dict(latched)
        self._inputs: list[str] = []  # sources, by the place of the input
        self._local: dict[int, int] = {}  # input → values before the span

    def of(self, data: bytes) -> Iterator[bytes]:
        """Yield the translated entries of the next piece."""
        for entry in entries(data):
            if entry.kind == EntryKind.BEGIN:
                self._inputs = _sources(entry)
                yield pack_entry(*entry)
                yield from self._first(entry)
                continue
            if not self._begin_ns <= entry.time_ns < self._end_ns:
                continue
            if translated := self._translated(entry):
                yield translated

    def _first(self, begin: Entry) -> Iterator[bytes]:
        """Yield entries for the messages that were latched, once."""
        latched, self._latched = self._latched, {}
        for index, (input_id, source) in enumerate(_decode(begin.content).items()):
            for sequence in latched.get(input_id, ()):
                if (number := self._numbers(source, sequence)) > 0:
                    yield pack_entry(EntryKind.MESSAGE, index, begin.time_ns, number)

    def _translated(self, entry: Entry) -> bytes:
        """Return an entry for the replay, b"" if what it names will not be sent."""
        if entry.kind in (EntryKind.MESSAGE, EntryKind.LOCAL):
            number = self._number(entry)
            return pack_entry(entry.kind, entry.input, entry.time_ns, number) if number > 0 else b""
        if entry.kind == EntryKind.SYNC:
            members = [self._translated(member) for member in entries(entry.content)]
            if not members or not members[0]:  # the message that leads
                return b""
            return pack_entry(entry.kind, entry.input, entry.time_ns, 0, b"".join(members))
        return pack_entry(*entry)

    def _number(self, entry: Entry) -> int:
        if entry.kind == EntryKind.MESSAGE:
            return self._numbers(_source(self._inputs, entry), entry.number)
        before = self._local.setdefault(entry.input, 0 if self._from_start else entry.number - 1)
        return entry.number - before


def _sources(entry: Entry) -> list[str]:
    try:
        known: Mapping[str, Any] = _decode(entry.content)
    except DecodeError as error:
        raise _damaged(error) from None
    return [str(source) for source in known.values()]


def _source(inputs: list[str], entry: Entry) -> str:
    try:
        return inputs[entry.input]
    except IndexError:
        raise _damaged(f"there is no input {entry.input}") from None


def _damaged(why: object) -> NotARecording:
    return NotARecording(f"the order of events is damaged, replay without it (--free): {why}")


def first_numbers(data: bytes, inputs: list[str], found: dict[str, int]) -> None:
    """Collect the lowest sequence number that a node took of each output in ``found``."""
    for entry in entries(data):
        if entry.kind == EntryKind.BEGIN:
            inputs[:] = _sources(entry)
        elif entry.kind == EntryKind.MESSAGE:
            source = _source(inputs, entry)
            found[source] = min(found.get(source, entry.number), entry.number)
        elif entry.kind == EntryKind.SYNC:
            first_numbers(entry.content, inputs, found)
