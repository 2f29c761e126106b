"""Random access to the messages of an MCAP file, by their times.

The summary at the end of a file tells where its chunks are, and an index behind each chunk tells where in
it the messages of a channel are. So a file of any size opens at once, and a message costs one chunk, of
which a few are kept decompressed. Of a chunk that is not compressed, only the message itself is read.

A file without a usable summary, because it was cut off, is walked through from record to record. That reads
no messages, unless its chunks have no indexes or define channels that are not defined elsewhere.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode

from dora.recording.mcap.file import (
    END_OF_TIME,
    MAGIC,
    MESSAGE,
    RECORD,
    McapFile,
    damage_text,
    damages,
    definition,
    parsed,
    unpack,
)

CACHE: Final = 32 << 20  # bytes of decompressed chunks that are kept; the last one is, whatever its size
LARGEST: Final = 1 << 30  # bytes of a chunk or message that are read: a file may come from anybody
_CHUNK: Final = Struct("<QQQII")  # first time, last time, size, checksum, length of the compression's name
_INDEX: Final = Struct("<HI")  # channel, bytes of entries
_LOOSE: Final = 4 << 20  # bytes of messages outside chunks that count as one chunk

Times = npt.NDArray[np.int64]


class Place(NamedTuple):
    """Where a message is. Places of one file sort by time."""

    time_ns: int
    chunk: int
    offset: int  # in the contents of the chunk
    channel: int


class StoredMessage(NamedTuple):
    """A message as it is in the file."""

    time_ns: int
    sequence: int
    data: bytes


@dataclass
class _ChunkPlace:
    first_ns: int
    last_ns: int
    begin: int  # offset of its contents in the file
    stored_size: int
    compression: str
    size: int
    indexes: dict[int, int]  # channel → offset of its index in the file
    entries: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)  # where there are no indexes


class IndexedFile(McapFile):
    """An open file, whose messages are also read one by one. Not for several threads at once.

    ``damage`` says why the end of the file, or a part, cannot be read; "" if all can be.
    """

    def __init__(self, path: str) -> None:
        """Open a file; raises `NotARecording` if it is no MCAP file, `DoraError` if it cannot be opened."""
        super().__init__(path)
        self.enclosed: dict[str, bytes] = {}  # by name; small ones only
        self._chunks: list[_ChunkPlace] = []
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0  # bytes
        self.unpacked = 0  # bytes that were decompressed, in all
        try:
            if not self._find_chunks():
                self._walk()
        except BaseException:
            self.close()
            raise
        self._chunks.sort(key=lambda chunk: chunk.first_ns)
        self._starts = [chunk.first_ns for chunk in self._chunks]
        self._latest: list[int] = []  # the greatest time up to each chunk
        for chunk in self._chunks:
            self._latest.append(max(chunk.last_ns, self._latest[-1] if self._latest else 0))
        self._of_channel: dict[int, list[int]] = {}
        for number, chunk in enumerate(self._chunks):
            for channel in chunk.indexes or chunk.entries:
                self._of_channel.setdefault(channel, []).append(number)

    # ----------------------------------------------------------------------- messages

    def edges(self, channels: Collection[int]) -> tuple[int, int] | None:
        """Return the times of the first and the last message of some channels; None if there is none."""
        first, last = END_OF_TIME, -1
        for channel in channels:
            for number in self._of_channel.get(channel, ()):
                if self._chunks[number].first_ns >= first:
                    break
                times = self._entries(number, channel)[0]
                if times.size:
                    first = min(first, int(times[0]))
            for number in reversed(self._of_channel.get(channel, ())):
                if self._latest[number] <= last:
                    break
                times = self._entries(number, channel)[0]
                if times.size:
                    last = max(last, int(times[-1]))
        return (first, last) if last >= 0 else None

    def newest(self, channels: Collection[int], time_ns: int) -> Place | None:
        """Return the last message of some channels at or before a time."""
        best: Place | None = None
        for channel in channels:
            numbers = self._of_channel.get(channel, ())
            for number in reversed(numbers[: self._chunks_until(numbers, time_ns)]):
                if best is not None and self._latest[number] < best.time_ns:
                    break
                times, offsets = self._entries(number, channel)
                index = int(np.searchsorted(times, time_ns, "right")) - 1
                if index >= 0:
                    place = Place(int(times[index]), number, int(offsets[index]), channel)
                    best = place if best is None else max(best, place)
        return best

    def next(self, channels: Collection[int], time_ns: int) -> Place | None:
        """Return the first message of some channels after a time."""
        best: Place | None = None
        for channel in channels:
            for number in self._of_channel.get(channel, ()):
                chunk = self._chunks[number]
                if chunk.last_ns <= time_ns:
                    continue
                if best is not None and chunk.first_ns > best.time_ns:
                    break
                times, offsets = self._entries(number, channel)
                index = int(np.searchsorted(times, time_ns, "right"))
                if index < times.size:
                    place = Place(int(times[index]), number, int(offsets[index]), channel)
                    best = place if best is None else min(best, place)
        return best

    def count(self, channels: Collection[int], after_ns: int, until_ns: int) -> int:
        """Return how many messages of some channels are after a time, and at or before another."""
        return sum(
            int(np.searchsorted(times, until_ns, "right") - np.searchsorted(times, after_ns, "right"))
            for _, _, times, _ in self._parts(channels, after_ns, until_ns)
        )

    def places(self, channels: Collection[int], after_ns: int, until_ns: int) -> list[Place]:
        """Return where the messages of some channels are that `count` counts, by their times."""
        found: list[Place] = []
        for number, channel, times, offsets in self._parts(channels, after_ns, until_ns):
            begin = int(np.searchsorted(times, after_ns, "right"))
            end = int(np.searchsorted(times, until_ns, "right"))
            found += [
                Place(time_ns, number, offset, channel)
                for time_ns, offset in zip(
                    times[begin:end].tolist(), offsets[begin:end].tolist(), strict=True
                )
            ]
        found.sort()
        return found

    def read(self, place: Place) -> StoredMessage:
        """Return a message; raises ``McapError`` and the errors in `damages` where the file is damaged."""
        chunk = self._chunks[place.chunk]
        if chunk.compression:
            contents = self.contents(place.chunk)
            record = contents[place.offset : place.offset + RECORD.size]
        else:
            contents = b""
            record = self._at(chunk.begin + place.offset, RECORD.size)
        if len(record) < RECORD.size:
            raise EndOfFile()
        opcode, length = RECORD.unpack(record)
        begin = place.offset + RECORD.size
        if length > LARGEST:
            raise McapError(f"a message has {length:,} bytes, more than fit into memory here")
        if opcode != Opcode.MESSAGE or length < MESSAGE.size or begin + length > chunk.size:
            raise McapError("there is no message where the index says")
        data = (
            contents[begin : begin + length] if chunk.compression else self._at(chunk.begin + begin, length)
        )
        if len(data) < length:
            raise EndOfFile()
        channel, sequence, time_ns, _ = MESSAGE.unpack_from(data)
        if channel != place.channel:
            raise McapError("there is another message where the index says")
        return StoredMessage(time_ns, sequence, data[MESSAGE.size :])

    def is_at_hand(self, place: Place) -> bool:
        """Return whether a message can be read without decompressing a chunk first."""
        return not self._chunks[place.chunk].compression or place.chunk in self._cache

    def bytes_over_time(self) -> Iterator[tuple[int, int, int]]:
        """Yield first time, last time and size of each chunk: how busy the recording was, and when."""
        for chunk in self._chunks:
            yield chunk.first_ns, chunk.last_ns, chunk.size

    def contents(self, number: int) -> bytes:
        """Return the contents of a chunk, from the cache if they are there; raises like `read`."""
        known = self._cache.get(number)
        if known is not None:
            self._cache.move_to_end(number)
            return known
        chunk = self._chunks[number]
        contents = self._unpack(chunk)
        self.unpacked += chunk.size
        self._cache[number] = contents
        self._cached += len(contents)
        while self._cached > CACHE and len(self._cache) > 1:
            self._cached -= len(self._cache.popitem(last=False)[1])
        return contents

    def _unpack(self, chunk: _ChunkPlace) -> bytes:
        if chunk.size > LARGEST:
            raise McapError(f"a chunk has {chunk.size:,} bytes, more than fit into memory here")
        stored = self._at(chunk.begin, chunk.stored_size)
        if len(stored) < chunk.stored_size:
            raise EndOfFile()
        return unpack(chunk.compression, stored, chunk.size)

    # ----------------------------------------------------------------------- indexes

    def _parts(
        self, channels: Collection[int], after_ns: int, until_ns: int
    ) -> Iterator[tuple[int, int, Times, Times]]:
        """Yield chunk, channel, times and offsets wherever messages of a span of time can be."""
        for channel in channels:
            numbers = self._of_channel.get(channel, ())
            for number in reversed(numbers[: self._chunks_until(numbers, until_ns)]):
                if self._latest[number] <= after_ns:
                    break
                if self._chunks[number].last_ns > after_ns:
                    yield number, channel, *self._entries(number, channel)

    def _chunks_until(self, numbers: Sequence[int], time_ns: int) -> int:
        """Return how many of some chunks, by their numbers, begin at or before a time."""
        return bisect_right(numbers, bisect_right(self._starts, time_ns) - 1)

    def _entries(self, number: int, channel: int) -> tuple[Times, Times]:
        """Return times and offsets of the messages of a channel in a chunk, by time."""
        chunk = self._chunks[number]
        pairs = chunk.entries.get(channel)
        if pairs is None:
            pairs = self._read_index(chunk.indexes[channel], channel)
        times, offsets = pairs[:, 0], pairs[:, 1]
        if times.size > 1 and (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            times, offsets = times[order], offsets[order]
        return times, offsets

    def _read_index(self, at: int, channel: int) -> npt.NDArray[np.int64]:
        head = self._at(at, RECORD.size + _INDEX.size)
        none = np.empty((0, 2), np.int64)
        if len(head) < RECORD.size + _INDEX.size:
            return none
        opcode, _ = RECORD.unpack_from(head)
        named, size = _INDEX.unpack_from(head, RECORD.size)
        if opcode != Opcode.MESSAGE_INDEX or named != channel or size % 16:
            self.damage = self.damage or "an index is damaged"
            return none
        data = self._at(at + len(head), size)
        if len(data) < size:
            return none
        return np.frombuffer(data, "<i8").reshape(-1, 2)

    def _at(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, fewer at its end."""
        return os.pread(self._file.fileno(), min(size, max(self.size - offset, 0)), offset)

    # ----------------------------------------------------------------------- opening

    def _find_chunks(self) -> bool:
        """Find the chunks by the summary at the end of the file; return whether it is enough for that."""
        summary = self._read_summary(needs_indexes=True)
        if summary is None:
            return False
        try:
            for attached in summary.attachment_indexes:
                if attached.data_size <= _LOOSE:
                    self._file.seek(attached.offset)
                    self._add_attachment(self._file)
        except damages() as error:
            self.damage = damage_text(error)
            return False
        for index in summary.chunk_indexes:
            head = RECORD.size + _CHUNK.size + len(index.compression.encode()) + 8
            self._chunks.append(
                _ChunkPlace(
                    index.message_start_time,
                    index.message_end_time,
                    index.chunk_start_offset + head,
                    index.compressed_size,
                    index.compression,
                    index.uncompressed_size,
                    index.message_index_offsets,
                )
            )
        return True

    def _add_attachment(self, file: BinaryIO) -> None:
        from mcap.records import Attachment
        from mcap.stream_reader import StreamReader

        record = next(StreamReader(file, skip_magic=True).records, None)
        if isinstance(record, Attachment):
            self.enclosed[record.name] = record.data

    def _walk(self) -> None:
        """Go from record to record, up to the end of the file or to a damaged place."""
        why, self.damage = self.damage, ""
        self._chunks.clear()
        self.channels, self.schemas, self.counts = {}, {}, Counter()
        try:
            if not self._walk_records():
                self.damage = why or "its end is missing"
        except damages() as error:
            self.damage = damage_text(error)
        for chunk in list(self._chunks):
            if chunk.indexes and chunk.indexes.keys() <= self.channels.keys():
                for channel in chunk.indexes:
                    self.counts[channel] += len(self._read_index(chunk.indexes[channel], channel))
                continue
            try:
                self._scan_chunk(chunk)
            except damages() as error:
                self.damage = damage_text(error)
                self._chunks.remove(chunk)

    def _walk_records(self) -> bool:
        """Note chunks, indexes and definitions; return whether the data ends where it should."""
        from mcap.records import Metadata

        at = len(MAGIC)
        loose: _ChunkPlace | None = None  # messages outside chunks
        while True:
            record = self._at(at, RECORD.size)
            if len(record) < RECORD.size:
                return False
            opcode, length = RECORD.unpack(record)
            begin, after = at + RECORD.size, at + RECORD.size + length
            if opcode == Opcode.DATA_END:
                return True
            if after > self.size:
                raise EndOfFile()
            if opcode == Opcode.MESSAGE:
                if loose is None or loose.size > _LOOSE or loose.begin + loose.size != at:
                    loose = _ChunkPlace(END_OF_TIME, 0, at, 0, "", 0, {})
                    self._chunks.append(loose)
                loose.size = loose.stored_size = after - loose.begin
            elif opcode == Opcode.CHUNK:
                self._chunks.append(self._chunk_at(begin, length))
            elif opcode == Opcode.MESSAGE_INDEX:
                channel, size = _INDEX.unpack(self._at(begin, _INDEX.size))
                if size and self._chunks:
                    self._chunks[-1].indexes[channel] = at
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._define(opcode, self._at(begin, length))
            elif opcode == Opcode.METADATA:
                metadata = parsed(Metadata, self._at(begin, length))
                self.metadata[metadata.name] = metadata.metadata
            elif opcode == Opcode.ATTACHMENT and length <= _LOOSE:
                self._file.seek(at)
                self._add_attachment(self._file)
            at = after

    def _chunk_at(self, begin: int, length: int) -> _ChunkPlace:
        head = self._at(begin, _CHUNK.size)
        first_ns, last_ns, size, _, letters = _CHUNK.unpack(head)
        if letters > length - _CHUNK.size - 8:
            raise McapError("the head of a chunk is damaged")
        name = self._at(begin + _CHUNK.size, letters).decode()
        contents = begin + _CHUNK.size + letters + 8
        return _ChunkPlace(first_ns, last_ns, contents, begin + length - contents, name, size, {})

    def _scan_chunk(self, chunk: _ChunkPlace) -> None:
        """Find out what is in a chunk whose indexes or channels are missing."""
        found: dict[int, list[tuple[int, int]]] = {}
        contents = self._unpack(chunk)
        position, end = 0, len(contents)
        while position < end:  # as `messages_in` goes through it, which takes half as long again
            opcode, length = RECORD.unpack_from(contents, position)
            begin, after = position + RECORD.size, position + RECORD.size + length
            if after > end:
                raise EndOfFile()
            if opcode == Opcode.MESSAGE:
                channel, _, time_ns, _ = MESSAGE.unpack_from(contents, begin)
                if time_ns >= END_OF_TIME:
                    raise McapError("a message claims to be from after the year 2262")
                found.setdefault(channel, []).append((time_ns, position))
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._define(opcode, contents[begin:after])
            position = after
        chunk.entries = {
            channel: np.array(pairs, np.int64)
            for channel, pairs in found.items()
            if channel in self.channels
        }
        chunk.indexes = {}
        times = [time_ns for pairs in found.values() for time_ns, _ in pairs]
        chunk.first_ns, chunk.last_ns = min(times, default=0), max(times, default=0)
        for channel, pairs in found.items():
            self.counts[channel] += len(pairs)

    def _define(self, opcode: int, data: bytes) -> None:
        known = self.schemas if opcode == Opcode.SCHEMA else self.channels
        record = definition(opcode, data)
        known[record.id] = record
