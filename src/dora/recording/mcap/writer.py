"""The MCAP file of a recording.

The library `mcap` makes the records, but does not write them: its writer copies a message five times and
computes a checksum. Here one system call writes a chunk from its memory to the file.

After a failure, the file ends behind a whole record: it stays readable, and the error says what is missing.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Iterable
from struct import pack
from typing import Any, Final, NamedTuple
from zlib import crc32

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Attachment,
    AttachmentIndex,
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from dora._shared_folders import open_file
from dora._version import __version__
from dora.errors import DoraError
from dora.recording.mcap.channels import ChannelTable, ContextMessage, prefix_of
from dora.recording.mcap.chunk import (
    CHUNK_ROOM,
    CHUNK_SIZE,
    Chunk,
    ChunkSpan,
    CompressedChunk,
    compress,
    room_for,
    spans_of,
)
from dora.recording.mcap.file import MAGIC
from dora.recording.mcap.format import (
    DATAFLOW,
    DATAFLOW_MEDIA_TYPE,
    END,
    PROFILE,
    START,
    End,
    RecordingStart,
    to_texts,
)
from dora.recording.mcap.schemas import schema_data
from dora.wire.message import Message

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_DISK: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # of a pipe, or a file system in memory
_sync_data: Final = getattr(os, "fdatasync", os.fsync)  # macOS has the second one only


class RecordingFailed(DoraError):
    """The file cannot be written any further."""


class DiskFull(RecordingFailed):
    """There is no room left where the file is."""


_REMOVABLE: Final = 1000  # chunks at the end of the file that may be removed again; each takes memory


class _Written(NamedTuple):
    """A chunk in the file."""

    place: ChunkIndex
    counts: dict[int, int]  # messages by channel
    spans: dict[str, ChunkSpan]


class _Settled:
    """The chunks that are not removed again: their records, as they are in the summary, and their sums.

    A recording of a day has 80,000 chunks; each as an object would take ten times the memory.
    """

    def __init__(self) -> None:
        self.records = bytearray()
        self.chunks = 0
        self.counts: Counter[int] = Counter()
        self.spans: dict[str, ChunkSpan] = {}
        self.first_ns: int | None = None
        self.last_ns = 0

    def add(self, chunk: _Written) -> None:
        place = chunk.place
        self.records += _record(place)
        self.chunks += 1
        self.counts.update(chunk.counts)
        self.spans = spans_of((self.spans, chunk.spans))
        begin, end = place.message_start_time, place.message_end_time
        self.first_ns = begin if self.first_ns is None else min(self.first_ns, begin)
        self.last_ns = max(self.last_ns, end)


class RecordingWriter:
    """Writes one file. Not for several threads at once."""

    def __init__(self, path: str, channels: ChannelTable, *, force: bool = False) -> None:
        """Create the file; raises `DoraError`, also if it exists and ``force`` is not set."""
        self.path = path
        self.channels = channels
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
        try:
            self._fd = open_file(path, flags)
        except FileExistsError:
            raise DoraError(
                f"{path} exists already; choose another file, or overwrite it with --force"
            ) from None
        except OSError as error:
            raise DoraError(f"{path} cannot be written: {error.strerror}") from None
        self.size = 0  # bytes
        self._synced = 0  # of them, on the disk
        self._settled = _Settled()
        self._chunks: deque[_Written] = deque()  # those after them
        self._defined: dict[int, Channel] = {}
        self._schemas: dict[str, Schema] = {}
        self._metadata: list[MetadataIndex] = []
        self._attachments: list[AttachmentIndex] = []

    def begin(self, start: RecordingStart, dataflow: bytes) -> None:
        """Write the start of the recording; ``dataflow`` is JSON. Raises `RecordingFailed`."""
        self._write(MAGIC, _record(Header(PROFILE, f"dora {__version__}")))
        self._write_metadata(START, start)
        about: dict[str, Any] = {
            "create_time": start.started,
            "log_time": start.started,
            "name": DATAFLOW,
            "media_type": DATAFLOW_MEDIA_TYPE,
        }
        record = _record(Attachment(**about, data=dataflow))
        index = AttachmentIndex(**about, offset=self.size, length=len(record), data_size=len(dataflow))
        self._attachments.append(index)
        self._write(record)

    def write(self, chunk: CompressedChunk) -> None:
        """Write a chunk; raises `RecordingFailed`, and then nothing of it is in the file."""
        definitions = self._definitions(chunk)
        if definitions:
            self._write(definitions)
        begin = self.size
        head = _chunk_head(chunk)
        offsets: dict[int, int] = {}
        indexes = []
        after = begin + len(head) + len(chunk.contents)
        at = after
        for channel, entries in chunk.entries.items():
            offsets[channel] = at
            record = pack("<BQHI", Opcode.MESSAGE_INDEX, 6 + len(entries), channel, len(entries)) + entries
            indexes.append(record)
            at += len(record)
        self._write(head, chunk.contents, b"".join(indexes))
        index = ChunkIndex(
            message_start_time=chunk.first,
            message_end_time=chunk.last,
            chunk_start_offset=begin,
            chunk_length=after - begin,
            message_index_offsets=offsets,
            message_index_length=at - after,
            compression=chunk.compression,
            compressed_size=len(chunk.contents),
            uncompressed_size=chunk.size,
        )
        self._chunks.append(_Written(index, chunk.counts(), dict(chunk.spans)))
        if len(self._chunks) > _REMOVABLE:
            self._settled.add(self._chunks.popleft())

    def spans(self) -> dict[str, ChunkSpan]:
        """Return the span of each topic in the file."""
        return spans_of((self._settled.spans, *(chunk.spans for chunk in self._chunks)))

    def finish(self, end: End) -> None:
        """Write the end, and close the file.

        Raises `RecordingFailed`, and then the file is as before: `drop_last` makes room for another end.
        """
        metadata = _record(Metadata(name=END, metadata=to_texts(end)))
        data_end = _record(DataEnd(0))
        self._metadata.append(MetadataIndex(offset=self.size, length=len(metadata), name=END))
        before = self.size
        try:
            self._write(metadata, data_end, self._summary(before + len(metadata) + len(data_end)))
            self.sync()  # before the recorder says that it is done: the power may fail right after
        except RecordingFailed:
            self._metadata.pop()
            self.size = before
            self._cut()  # an end that the disk may not have would call the file complete
            raise
        self.close()

    def sync(self) -> None:
        """Return once the disk has everything that was written; raises `RecordingFailed`."""
        # Read first: what the write thread adds meanwhile may not be on the disk yet. This needs no lock.
        size = self.size
        if size == self._synced:
            return  # nothing new: a card wears out with each write
        try:
            _sync_data(self._fd)
        except OSError as error:
            if error.errno not in _NO_DISK:
                raise RecordingFailed(
                    f"{self.path} cannot be written to its disk: {error.strerror}"
                ) from None
        self._synced = size

    def close(self) -> None:
        """Close the file as it is; it is readable without its end, too."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def drop_last(self) -> bool:
        """Remove the last chunk from the file, because its disk is full; return whether there was one.

        At most 1,000 can be removed.
        """
        if not self._chunks:
            return False
        self.size = self._chunks.pop().place.chunk_start_offset
        self._cut()
        return True

    # ----------------------------------------------------------------------- records

    def _definitions(self, chunk: CompressedChunk) -> bytes:
        """Return the records of the chunk's channels that are not in the file yet."""
        records = []
        for number in chunk.entries:
            if number in self._defined:
                continue
            item = self.channels.item(number)
            schema = self._schemas.get(item.schema)
            if schema is None and item.schema:
                schema = self._schemas[item.schema] = Schema(
                    id=len(self._schemas) + 1,
                    name=item.schema,
                    encoding="protobuf",
                    data=schema_data(item.schema),
                )
                records.append(_record(schema))
            channel = self._defined[number] = Channel(
                id=number,
                topic=item.topic,
                message_encoding=item.encoding,
                metadata=item.metadata,
                schema_id=0 if schema is None else schema.id,
            )
            records.append(_record(channel))
        return b"".join(records)

    def _write_metadata(self, name: str, item: RecordingStart | End) -> None:
        record = _record(Metadata(name=name, metadata=to_texts(item)))
        offset = self.size
        self._write(record)
        self._metadata.append(MetadataIndex(offset=offset, length=len(record), name=name))

    def _summary(self, begin: int) -> bytes:
        """Return what comes at the end of the file, from ``begin`` on."""
        places = map(_record, (chunk.place for chunk in self._chunks))
        groups: list[tuple[Opcode, bytes]] = [
            (Opcode.SCHEMA, _records(self._schemas.values())),
            (Opcode.CHANNEL, _records(self._defined.values())),
            (Opcode.STATISTICS, _record(self._statistics())),
            (Opcode.CHUNK_INDEX, b"".join((self._settled.records, *places))),
            (Opcode.ATTACHMENT_INDEX, _records(self._attachments)),
            (Opcode.METADATA_INDEX, _records(self._metadata)),
        ]
        offset_start = begin
        offsets = []
        for opcode, group in groups:
            if group:
                offsets.append(
                    SummaryOffset(group_opcode=opcode, group_start=offset_start, group_length=len(group))
                )
            offset_start += len(group)
        footer = _record(Footer(summary_start=begin, summary_offset_start=offset_start, summary_crc=0))
        # The checksum is the last field of the footer.
        checked = b"".join((*(group for _, group in groups), _records(offsets), footer[:-4]))
        return checked + pack("<I", crc32(checked)) + MAGIC

    def _statistics(self) -> Statistics:
        settled = self._settled
        counts = Counter(settled.counts)
        for chunk in self._chunks:
            counts.update(chunk.counts)
        places = [chunk.place for chunk in self._chunks]
        first = [place.message_start_time for place in places]
        if settled.first_ns is not None:
            first.append(settled.first_ns)
        return Statistics(
            attachment_count=len(self._attachments),
            channel_count=len(self._defined),
            channel_message_counts=dict(counts),
            chunk_count=settled.chunks + len(self._chunks),
            message_count=counts.total(),
            message_end_time=max((settled.last_ns, *(place.message_end_time for place in places))),
            message_start_time=min(first, default=0),
            metadata_count=len(self._metadata),
            schema_count=len(self._schemas),
        )

    # ----------------------------------------------------------------------- bytes

    def _write(self, *parts: bytes | memoryview) -> None:
        """Write all parts, or none of them; raises `RecordingFailed`."""
        rest = [memoryview(part) for part in parts if len(part)]
        size = sum(map(len, rest))
        try:
            while rest:
                written = os.writev(self._fd, rest)
                while rest and written >= len(rest[0]):
                    written -= len(rest.pop(0))
                if written:
                    rest[0] = rest[0][written:]
        except OSError as error:
            self._cut()
            kind = DiskFull if error.errno in _FULL else RecordingFailed
            reason = "there is no room left on its disk" if kind is DiskFull else error.strerror
            raise kind(f"{self.path} cannot be written any further: {reason}") from None
        self.size += size

    def _cut(self) -> None:
        self._synced = min(self._synced, self.size)  # the disk does not know what comes in its place
        try:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
        except OSError:
            pass  # a pipe, or a broken disk: a reader finds the cut by itself


class MessageWriter:
    """Writes messages to a file, chunk by chunk, where nobody waits for it; the last one with `flush`."""

    def __init__(self, writer: RecordingWriter) -> None:
        self.spans: dict[str, ChunkSpan] = {}  # of outputs, by topic
        self._writer = writer
        self._chunk = Chunk(CHUNK_ROOM)

    def add(self, topic: str, time_ns: int, message: Message, declared: str = "") -> None:
        """Write a message of an output; ``time_ns``: as for `Chunk.add`; ``declared``: its type."""
        channel, form = self._writer.channels.of_message(topic, message, declared)
        prefix = prefix_of(message, form)
        chunk = self._room(room_for(len(prefix), message.body_size))
        sequence = message.sequence
        chunk.add(channel, sequence, time_ns, prefix, message)
        span = self.spans.setdefault(topic, ChunkSpan(sequence))
        span.last = max(span.last, sequence)
        span.messages += 1

    def add_context(self, message: ContextMessage) -> None:
        """Write a message that no output sent."""
        item, time_ns, data = message
        self.add_data(*self._writer.channels.of_context(item), time_ns, data)

    def add_data(self, channel: int, sequence: int, time_ns: int, data: bytes) -> None:
        """Write a message as it is in the file."""
        self._room(room_for(0, len(data))).add_data(channel, sequence, time_ns, data)

    def flush(self) -> None:
        """Write the chunk that has begun."""
        if self._chunk.size:
            self._writer.write(compress(self._chunk, "zstd"))
            self._chunk.clear()

    def _room(self, size: int) -> Chunk:
        chunk = self._chunk
        if chunk.size and (chunk.size >= CHUNK_SIZE or chunk.size + size > chunk.capacity):
            self.flush()
        if size > chunk.capacity:
            self._chunk = chunk = Chunk(size)
        return chunk


def _record(record: McapRecord) -> bytes:
    return _records([record])


def _records(records: Iterable[McapRecord]) -> bytes:
    builder = RecordBuilder()
    for record in records:
        record.write(builder)
    content: bytes = builder.end()  # type: ignore[no-untyped-call]  # a gap in its stubs
    return content


def _chunk_head(chunk: CompressedChunk) -> bytes:
    name = chunk.compression.encode()
    body = len(chunk.contents)
    return (
        pack(
            "<BQQQQII",
            Opcode.CHUNK,
            8 + 8 + 8 + 4 + 4 + len(name) + 8 + body,
            chunk.first,
            chunk.last,
            chunk.size,
            chunk.crc,
            len(name),
        )
        + name
        + pack("<Q", body)
    )
