"""Read recordings, complete ones and damaged ones.

A file that was cut off yields all messages before the cut, one with a damaged place those before that
place. `Recording.damage` then says why.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, BinaryIO, Final, NamedTuple

from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Chunk, ChunkIndex

from dora.errors import DoraError
from dora.recording.mcap.event_order import ORDER_TOPIC
from dora.recording.mcap.format import (
    ARROW_TYPE,
    DATAFLOW,
    DECLARED_TYPE,
    END,
    PROFILE,
    START,
    VERSION,
    End,
    NotARecording,
    RecordingStart,
    from_record,
    restore,
)
from dora.wire.decoders import DecodeError, from_json
from dora.wire.message import Message

# Read messages from chunks, in the order of their times.
#
# The library `mcap` reads all other records. Its own sorting compares Python objects, and reads a quarter
# as many small messages a second.

_RECORD: Final = Struct("<BQ")  # opcode, length
_MESSAGE: Final = Struct("<HIQQ")  # channel, sequence, log time, publish time
# The footer (opcode, length, where the summary and its offsets begin, checksum), and the mark at the end.
_TAIL: Final = Struct("<BQQQI8s")
_TAIL_CHECKED: Final = 25  # bytes of it that the checksum covers, together with the summary
_LARGEST: Final = 4 << 30  # bytes of a chunk; a few compressed bytes can expand to more than any memory


class Stored(NamedTuple):
    """A message of a chunk. ``order`` is its place in the file: no two are equal."""

    time_ns: int
    order: int
    channel: int
    sequence: int
    data: bytes


def unpack(compression: str, data: bytes, size: int) -> bytes:
    """Return the contents of a chunk; raises the errors of the compression library for damaged data."""
    if size > _LARGEST:
        raise McapError(f"a chunk claims {size:,} bytes")
    unpacked: bytes
    match compression:
        case "":
            unpacked = data
        case "zstd":
            import zstandard

            # The size in the data counts, not the one in the record.
            declared = zstandard.get_frame_parameters(data).content_size
            if declared not in (size, zstandard.CONTENTSIZE_UNKNOWN):
                raise McapError("a chunk has another size than it claims")
            unpacked = zstandard.decompress(data, size)
        case "lz4":
            import lz4.frame

            unpacked = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        case _:
            raise McapError(f"its compression `{compression}` is unknown")
    if len(unpacked) != size:
        raise McapError("a chunk has another size than it claims")
    return unpacked


def _contents(chunk: Chunk) -> bytes:
    contents = unpack(chunk.compression, chunk.data, chunk.uncompressed_size)
    if chunk.uncompressed_crc and zlib.crc32(contents) != chunk.uncompressed_crc:
        raise McapError("the checksum of a chunk is wrong")
    return contents


def check_summary(file: BinaryIO) -> None:
    """Raise if the summary at the end of a file does not match its checksum, if there is one."""
    end = file.seek(-_TAIL.size, os.SEEK_END)
    _, _, begin, _, checksum, _ = _TAIL.unpack(file.read(_TAIL.size))
    if not checksum:
        return
    file.seek(begin)
    found = 0
    rest = end + _TAIL_CHECKED - begin
    while rest > 0 and (data := file.read(min(rest, 1 << 20))):
        found = zlib.crc32(data, found)
        rest -= len(data)
    if found != checksum:
        raise McapError("the checksum of the summary is wrong")


def messages_in(
    contents: bytes, channels: Collection[int] | None, begin_ns: int, end_ns: int, order: int
) -> Iterator[Stored]:
    """Yield the messages of a chunk; ``order`` is the number of the first one.

    ``end_ns`` is at most the end of time, which is checked here.
    """
    position, end = 0, len(contents)
    unpack_record, unpack_message = _RECORD.unpack_from, _MESSAGE.unpack_from
    while position < end:
        opcode, length = unpack_record(contents, position)
        position += _RECORD.size
        after = position + length
        if after > end:
            raise EndOfFile()
        if opcode == Opcode.MESSAGE:
            channel, sequence, time_ns, _ = unpack_message(contents, position)
            if begin_ns <= time_ns < end_ns and (channels is None or channel in channels):
                data = contents[position + _MESSAGE.size : after]
                yield Stored(time_ns, order, channel, sequence, data)
                order += 1
            elif time_ns >= _END_OF_TIME:
                raise McapError("a message claims to be from after the year 2262")
        position = after


def sorted_messages(
    file: BinaryIO, indexes: Sequence[ChunkIndex], channels: Collection[int], begin_ns: int, end_ns: int
) -> Iterator[Stored]:
    """Yield the messages of some channels, by their times; chunks may overlap."""
    waiting: list[Stored] = []
    order = 0
    for index in sorted(indexes, key=lambda index: index.message_start_time):
        if not _concerns(index, channels) or not (
            index.message_start_time < end_ns and index.message_end_time >= begin_ns
        ):
            continue
        # Messages that are earlier than all in this chunk, and thus in all later ones.
        ready = bisect_left(waiting, (index.message_start_time,))
        yield from waiting[:ready]
        del waiting[:ready]
        found = list(messages_in(_read(file, index), channels, begin_ns, end_ns, order))
        order += len(found)
        waiting += found
        waiting.sort()
    yield from waiting


def last_time(file: BinaryIO, indexes: Sequence[ChunkIndex], channels: Collection[int]) -> int:
    """Return the time of the last message of some channels, 0 if there is none."""
    last = 0
    for index in sorted(indexes, key=lambda index: -index.message_end_time):
        if index.message_end_time <= last:
            break
        if _concerns(index, channels):
            found = messages_in(_read(file, index), channels, 0, _END_OF_TIME, 0)
            last = max(last, max((message.time_ns for message in found), default=0))
    return last


def _concerns(index: ChunkIndex, channels: Collection[int]) -> bool:
    return not index.message_index_offsets or any(id_ in channels for id_ in index.message_index_offsets)


def _read(file: BinaryIO, index: ChunkIndex) -> bytes:
    """Return the contents of the chunk at a place."""
    from mcap.stream_reader import StreamReader

    file.seek(index.chunk_start_offset)
    chunk = next(StreamReader(file, skip_magic=True, emit_chunks=True).records, None)
    if not isinstance(chunk, Chunk):
        raise McapError("there is no chunk where the index says")
    return _contents(chunk)


_MAGIC: Final = b"\x89MCAP0\r\n"
_END_OF_TIME: Final = 2**63  # nanoseconds: clocks, Arrow and Rerun count them in 63 bits
_OWN: Final = "dora/"  # topics that are not outputs


class RecordedMessage(NamedTuple):
    """One message. ``time_ns`` is when it was sent, ``sequence`` its number on its output.

    Of a message that was latched before the recording began, ``time_ns`` is this begin.
    """

    topic: str
    sequence: int
    time_ns: int
    data: bytes

    @property
    def message(self) -> Message:
        """The message exactly as it was sent; raises `NotARecording` if it is damaged."""
        return restore(self.data)


@dataclass
class TopicInfo:
    """The facts about one output. ``types``: Arrow types as text; ``declared``: the dataflow's type."""

    name: str
    types: list[str] = field(default_factory=list)
    schemas: list[str] = field(default_factory=list)
    declared: str = ""
    messages: int = 0

    @property
    def node_id(self) -> str:
        return self.name.partition("/")[0]


class Recording:
    """An open file; ``with`` closes it."""

    def __init__(self, path: str) -> None:
        """Open a recording; raises `NotARecording` for another file, `DoraError` if there is none.

        A file without its end is scanned once, to find out what it contains.
        """
        self.path = path
        self.damage = ""  # why the end of the file, or a part, cannot be read
        self.end: End | None = None  # None: the file was cut off
        self.dataflow: dict[str, Any] = {}  # its descriptor
        self.topics: dict[str, TopicInfo] = {}
        self.first_ns = self.last_ns = 0  # times of the first and the last message
        self.reached_ns = 0  # time of the last message that was read
        self._orders = False  # whether the order of events is in it
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
            self.size = os.path.getsize(path)
            beginning = self._file.read(len(_MAGIC))
        except IsADirectoryError:
            raise DoraError(f"{path} is a folder; give a recording, a file of `dora record`") from None
        except OSError as error:
            raise DoraError(f"the recording {path} cannot be read: {error.strerror}") from None
        try:
            if beginning != _MAGIC:
                raise NotARecording(f"{path} is no recording: it is not an MCAP file{_hint(beginning)}")
            self.start = self._read_start()
            self._summary = self._read_summary()
            if self._summary is None:
                self._scan()
            else:
                self._find_edges()
        except BaseException:
            self.close()
            raise

    @property
    def complete(self) -> bool:
        """Whether the file has every message that was sent during the recording."""
        return self.end is not None and self.end.complete and not self.damage

    @property
    def messages_lost(self) -> int:
        """How many messages are known to be missing."""
        return sum(topic.lost for topic in self.end.topics.values()) if self.end is not None else 0

    @property
    def count(self) -> int:
        """How many messages the file has, of all outputs."""
        return sum(topic.messages for topic in self.topics.values())

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return (self.last_ns - self.first_ns) / 1e9

    def messages(
        self, topics: Collection[str] | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RecordedMessage]:
        """Yield messages of ``topics`` (None: all) in the order of sending.

        From the time ``begin_ns`` on (None: the start), before ``end_ns`` (None: to the end). A file that
        was cut off gives them in the order of recording. Ends at a damaged place.
        """
        wanted = set(self.topics if topics is None else topics)
        upper = _END_OF_TIME if end_ns is None else end_ns
        for channel, stored in self._records(wanted, begin_ns or 0, upper):
            if stored.time_ns > self.reached_ns:
                self.reached_ns = stored.time_ns
            yield RecordedMessage(channel.topic, stored.sequence, stored.time_ns, stored.data)

    def latched(self, topics: Collection[str]) -> Iterator[RecordedMessage]:
        """Yield the messages that were latched before the recording began."""
        begun_ns = self.start.started
        for recorded in self.messages(topics, begun_ns, begun_ns + 1):
            if recorded.message.time_ns < begun_ns:
                yield recorded

    def orders(self) -> Iterator[tuple[str, bytes]]:
        """Yield, by node, the order in which it took its events, in pieces (`dora.wire.event_log`)."""
        if not self._orders:
            return
        topics = {ORDER_TOPIC + node_id for node_id in self.start.nodes}
        for channel, stored in self._records(topics, 0, _END_OF_TIME):
            yield channel.topic.removeprefix(ORDER_TOPIC), stored.data

    def has_orders(self) -> bool:
        """Return whether the order in which nodes took their events was recorded."""
        return self._orders

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ the file

    def _read_start(self) -> RecordingStart:
        """Read the records before the first chunk."""
        from mcap.records import Attachment, Header, Metadata

        start: RecordingStart | None = None
        for record in self._until_damaged(self._stream()):
            match record:
                case Header(profile=profile):
                    if profile != PROFILE:
                        raise NotARecording(
                            f"{self.path} is an MCAP file, but dora did not write it"
                            + (f" (its profile is `{profile}`)" if profile else "")
                        )
                case Metadata(name=name, metadata=metadata) if name == START:
                    start = from_record(metadata, RecordingStart)
                case Attachment(name=name, data=data) if name == DATAFLOW:
                    self.dataflow = _dataflow(data)
            if start is not None and self.dataflow:
                break
        if start is None:
            raise NotARecording(f"{self.path} was cut off before anything was recorded")
        if start.format > VERSION:
            raise NotARecording(
                f"{self.path} has format {start.format} and this dora reads {VERSION}; it needs dora "
                f"{start.dora} or newer"
            )
        return start

    def _until_damaged(self, records: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from records
        except _damages() as error:
            self.damage = _damage_text(error)

    def _read_summary(self) -> Any:
        """Return the summary at the end of the file, None if there is none."""
        from mcap.reader import SeekingReader

        self._file.seek(0)
        try:
            reader = SeekingReader(self._file)
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                return None
            check_summary(self._file)
            for metadata in reader.iter_metadata():
                if metadata.name == END:
                    self.end = from_record(metadata.metadata, End)
        except _damages() as error:
            self.damage = _damage_text(error)
            return None
        if self.end is None:
            self.damage = "it has no end record"
        for channel in summary.channels.values():
            schema = summary.schemas.get(channel.schema_id)
            count = summary.statistics.channel_message_counts.get(channel.id, 0)
            self._note(channel, schema.name if schema is not None else "", count)
        return summary

    def _find_edges(self) -> None:
        """Find the times of the first and the last message of an output."""
        for _, stored in self._records(set(self.topics), 0, _END_OF_TIME):
            self.first_ns = stored.time_ns
            break
        try:
            ids = self._channels(set(self.topics))
            self.last_ns = last_time(self._file, self._summary.chunk_indexes, ids)
        except _damages() as error:
            self.damage = _damage_text(error)

    def _channels(self, topics: Collection[str]) -> dict[int, Any]:
        channels = self._summary.channels
        return {id_: channel for id_, channel in channels.items() if channel.topic in topics}

    def _scan(self) -> None:
        """Scan a file whose end is missing or damaged."""
        from mcap.records import Metadata

        self.topics = {}
        known, self.damage = self.damage, ""  # about the end, which may be missing altogether
        first_ns, last_ns = _END_OF_TIME, 0
        names: dict[int, str] = {}
        seen: set[int] = set()
        try:
            for record in self._in_file_order():
                if isinstance(record, tuple):
                    channel, stored = record
                    self._note(channel, "" if channel.id in seen else names.get(channel.schema_id, ""), 1)
                    seen.add(channel.id)
                    if not channel.topic.startswith(_OWN):
                        first_ns = min(first_ns, stored.time_ns)
                        last_ns = max(last_ns, stored.time_ns)
                elif isinstance(record, Metadata):
                    self.end = from_record(record.metadata, End) if record.name == END else self.end
                else:
                    names[record.id] = record.name
        except _damages() as error:
            self.damage = _damage_text(error)
        if last_ns:
            self.first_ns, self.last_ns = first_ns, last_ns
        self.damage = self.damage or (known if self.end is not None else "") or "its end is missing"

    def _note(self, channel: Any, schema: str, count: int) -> None:
        if channel.topic.startswith(ORDER_TOPIC):
            self._orders = True
        if channel.topic.startswith(_OWN):
            return
        topic = self.topics.setdefault(channel.topic, TopicInfo(channel.topic))
        topic.messages += count
        arrow_type = channel.metadata.get(ARROW_TYPE, "")
        if arrow_type and arrow_type not in topic.types:
            topic.types.append(arrow_type)
        if schema and schema not in topic.schemas:
            topic.schemas.append(schema)
        topic.declared = channel.metadata.get(DECLARED_TYPE, topic.declared)

    def _records(self, topics: Collection[str], begin_ns: int, end_ns: int) -> Iterator[tuple[Any, Stored]]:
        """Yield channels and messages up to the first damaged place, and record the damage."""
        try:
            if self._summary is not None:
                channels = self._channels(topics)
                indexes = self._summary.chunk_indexes
                with open(self.path, "rb") as file:  # of its own: several may read at the same time
                    for stored in sorted_messages(file, indexes, channels, begin_ns, end_ns):
                        yield channels[stored.channel], stored
                return
            for record in self._in_file_order():
                if not isinstance(record, tuple) or record[0].topic not in topics:
                    continue
                if begin_ns <= record[1].time_ns < end_ns:
                    yield record
        except _damages() as error:
            self.damage = _damage_text(error)

    def _in_file_order(self) -> Iterator[tuple[Any, Stored] | Any]:
        """Yield schemas and metadata, and channels with messages, as they come in the file.

        Raises at a damage.
        """
        from mcap.records import Channel, DataEnd, Metadata, Schema

        channels: dict[int, Any] = {}
        for record in self._stream():
            match record:
                case Channel():
                    channels[record.id] = record
                case Schema() | Metadata():
                    yield record
                case DataEnd():
                    return
                case Chunk():
                    for stored in messages_in(_contents(record), None, 0, _END_OF_TIME, 0):
                        yield channels[stored.channel], stored

    def _stream(self) -> Iterator[Any]:
        from mcap.stream_reader import StreamReader

        with open(self.path, "rb") as file:
            yield from StreamReader(file, emit_chunks=True).records


def _damages() -> tuple[type[Exception], ...]:
    """Return the errors that reading a damaged file may raise: `mcap` checks little, decompression all."""
    from mcap.exceptions import McapError
    from zstandard import ZstdError

    # RuntimeError: lz4's
    return (
        McapError,
        ZstdError,
        struct.error,
        OSError,
        ValueError,
        OverflowError,
        EOFError,
        LookupError,
        MemoryError,
        RuntimeError,
    )


def _dataflow(data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = from_json(data, dict[str, Any])
    except DecodeError:
        return {}
    return found


def _damage_text(error: BaseException) -> str:
    name = type(error).__name__
    if name in ("EndOfFile", "EOFError"):
        return "the file ends in the middle of something"
    return f"{name}: {error}" if str(error) else name


def _hint(beginning: bytes) -> str:
    if beginning.startswith(b"DORAREC"):
        return "; it is one of dora-rs, which this dora does not read"
    if not beginning:
        return "; it is empty"
    return ""
