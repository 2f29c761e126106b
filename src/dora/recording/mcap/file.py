"""Read MCAP files, complete ones and damaged ones, of dora and of other programs.

A file that was cut off yields all messages before the cut, one with a damaged place those before that
place. `McapFile.damage` then says why.

The library `mcap` reads all records but messages. Its own sorting compares Python objects, and reads a
quarter as many small messages a second.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from struct import Struct
from typing import Any, BinaryIO, Final, NamedTuple, Self

from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Chunk, ChunkIndex

from dora.errors import DoraError
from dora.recording.mcap.format import NotARecording

MAGIC: Final = b"\x89MCAP0\r\n"
END_OF_TIME: Final = 2**63  # nanoseconds: clocks, Arrow and Rerun count them in 63 bits

RECORD: Final = Struct("<BQ")  # opcode, length
MESSAGE: Final = Struct("<HIQQ")  # channel, sequence, log time, publish time
# The footer (opcode, length, where the summary and its offsets begin, checksum), and the mark at the end.
_TAIL: Final = Struct("<BQQQI8s")
_MOST_HEADER: Final = 1 << 16  # bytes that are read of it: a damaged length may be any number
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

            # One byte more than claimed shows a wrong size. `lz4.frame.decompress` has no limit.
            unpacked = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        case _:
            raise McapError(f"its compression `{compression}` is unknown")
    if len(unpacked) != size:
        raise McapError("a chunk has another size than it claims")
    return unpacked


def parsed(kind: Any, data: bytes) -> Any:
    """Return the record of a class of the library ``mcap`` that is in these bytes."""
    from io import BytesIO

    from mcap.data_stream import ReadDataStream

    return kind.read(ReadDataStream(BytesIO(data)))


def definition(opcode: int, data: bytes) -> Any:
    """Return the schema or channel that a record with one of these opcodes defines."""
    from mcap.records import Channel, Schema

    return parsed(Schema if opcode == Opcode.SCHEMA else Channel, data)


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
    contents: bytes,
    channels: Collection[int] | None,
    begin_ns: int,
    end_ns: int,
    order: int,
    define: Callable[[Any], None] | None = None,
) -> Iterator[Stored]:
    """Yield the messages of a chunk; ``order`` is the number of the first one.

    ``end_ns`` is at most the end of time, which is checked here. ``define`` gets the schemas and
    channels: most programs write these into chunks.
    """
    position, end = 0, len(contents)
    unpack_record, unpack_message = RECORD.unpack_from, MESSAGE.unpack_from
    while position < end:
        opcode, length = unpack_record(contents, position)
        position += RECORD.size
        after = position + length
        if after > end:
            raise EndOfFile()
        if opcode == Opcode.MESSAGE:
            channel, sequence, time_ns, _ = unpack_message(contents, position)
            if begin_ns <= time_ns < end_ns and (channels is None or channel in channels):
                data = contents[position + MESSAGE.size : after]
                yield Stored(time_ns, order, channel, sequence, data)
                order += 1
            elif time_ns >= END_OF_TIME:
                raise McapError("a message claims to be from after the year 2262")
        elif define is not None and (opcode in (Opcode.SCHEMA, Opcode.CHANNEL)):
            define(definition(opcode, contents[position:after]))
        position = after


def sorted_messages(
    file: BinaryIO, indexes: Sequence[ChunkIndex], channels: Collection[int], begin_ns: int, end_ns: int
) -> Iterator[Stored]:
    """Yield the messages of some channels, by their times; chunks may overlap.

    Raises at a damaged chunk, after the messages of the chunks before it.
    """
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
        try:
            found = list(messages_in(_read(file, index), channels, begin_ns, end_ns, order))
        except damages():
            yield from waiting
            raise
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
            found = messages_in(_read(file, index), channels, 0, END_OF_TIME, 0)
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


class McapFile:
    """An open file. `index` finds out what is in it, `messages` reads it."""

    def __init__(self, path: str) -> None:
        """Open a file; raises `NotARecording` if it is no MCAP file, `DoraError` if there is none."""
        self.path = path
        self.damage = ""  # why the end of the file, or a part, cannot be read
        self.channels: dict[int, Any] = {}  # by id
        self.schemas: dict[int, Any] = {}  # by id
        self.metadata: dict[str, dict[str, str]] = {}  # by name
        self.counts: Counter[int] = Counter()  # messages, by the id of the channel
        self.first_ns = self.last_ns = 0  # times of the first and the last message that count
        self._indexes: Sequence[ChunkIndex] | None = None  # None: read in the order of the file
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
            self.size = os.path.getsize(path)
            beginning = self._file.read(len(MAGIC))
        except OSError as error:
            raise DoraError(f"the recording {path} cannot be read: {error.strerror}") from None
        if beginning != MAGIC:
            self.close()
            raise NotARecording(f"{path} is no recording: it is not an MCAP file{_hint(beginning)}")
        self.profile = self._read_profile()  # None: the header cannot be read

    @property
    def is_indexed(self) -> bool:
        """Whether the file has a summary at its end, after `index`."""
        return self._indexes is not None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def beginning(self) -> Iterator[Any]:
        """Yield the records of the file in their order, up to a damaged place; chunks as a whole."""
        try:
            yield from self._stream()
        except damages() as error:
            self.damage = damage_text(error)

    def index(self, counts: Callable[[Any], bool]) -> None:
        """Find channels, metadata, and the times of the messages of the channels that ``counts`` accepts.

        A file without a usable summary at its end is scanned. Afterwards, the file is open only while it is
        read: a bag may have more files than a process may open.
        """
        self.damage = ""
        if (summary := self._read_summary(needs_indexes=False)) is not None:
            self._indexes = summary.chunk_indexes
            self._find_edges(counts)
        else:
            self._scan(counts)
        self.close()

    def messages(
        self, accepts: Callable[[Any], bool], begin_ns: int, end_ns: int
    ) -> Iterator[tuple[Any, Stored]]:
        """Yield messages with their channels up to the first damaged place, and note the damage.

        By time, or if the file has no summary, in the order of the file.
        """
        try:
            if self._indexes is not None:
                channels = {id_: channel for id_, channel in self.channels.items() if accepts(channel)}
                with open(self.path, "rb") as file:  # of its own: several may read at the same time
                    for stored in sorted_messages(file, self._indexes, channels, begin_ns, end_ns):
                        yield channels[stored.channel], stored
                return
            for channel, stored in self._in_file_order():
                if accepts(channel) and begin_ns <= stored.time_ns < end_ns:
                    yield channel, stored
        except damages() as error:
            self.damage = damage_text(error)

    def _read_profile(self) -> str | None:
        from mcap.records import Header

        try:
            opcode, length = RECORD.unpack(self._file.read(RECORD.size))
            if opcode != Opcode.HEADER:
                return None
            profile: str = parsed(Header, self._file.read(min(length, _MOST_HEADER))).profile
        except damages():
            return None
        return profile

    def _read_summary(self, *, needs_indexes: bool) -> Any | None:
        """Read the summary at the end of the file; return None if it is not enough to find all messages.

        ``needs_indexes``: not even with chunks, if these have no indexes.
        """
        from mcap.reader import SeekingReader

        self._file.seek(0)
        try:
            reader = SeekingReader(self._file)
            summary = reader.get_summary()
            check_summary(self._file)
            if summary is None or summary.statistics is None:
                return None
            self.metadata = {one.name: one.metadata for one in reader.iter_metadata()}
        except damages() as error:
            self.damage = damage_text(error)
            return None
        counts = summary.statistics.channel_message_counts
        named = {id_ for index in summary.chunk_indexes for id_ in index.message_index_offsets}
        if not named | counts.keys() <= summary.channels.keys():
            return None  # other programs may leave channels out there
        if summary.statistics.message_count and not (named if needs_indexes else summary.chunk_indexes):
            return None  # or write messages without chunks, or chunks without indexes
        self.channels, self.schemas = dict(summary.channels), dict(summary.schemas)
        self.counts = Counter(counts)
        return summary

    def _find_edges(self, counts: Callable[[Any], bool]) -> None:
        assert self._indexes is not None
        for _, stored in self.messages(counts, 0, END_OF_TIME):
            self.first_ns = stored.time_ns
            break
        try:
            ids = [id_ for id_, channel in self.channels.items() if counts(channel)]
            self.last_ns = last_time(self._file, self._indexes, ids)
        except damages() as error:
            self.damage = damage_text(error)

    def _scan(self, counts: Callable[[Any], bool]) -> None:
        """Read a file whose summary is missing or damaged, to its end."""
        known, self.damage = self.damage, ""  # about the end, which may be missing altogether
        first_ns, last_ns = END_OF_TIME, 0
        try:
            for channel, stored in self._in_file_order():
                self.channels[channel.id] = channel
                self.counts[channel.id] += 1
                if counts(channel):
                    first_ns = min(first_ns, stored.time_ns)
                    last_ns = max(last_ns, stored.time_ns)
            self.damage = known
        except damages() as error:
            self.damage = damage_text(error)
        if last_ns:
            self.first_ns, self.last_ns = first_ns, last_ns

    def _in_file_order(self) -> Iterator[tuple[Any, Stored]]:
        """Yield channels with messages as they come in the file, and note schemas and metadata.

        Raises at a damage, and if the end is missing.
        """
        from mcap.records import Channel, DataEnd, Message, Metadata, Schema

        channels: dict[int, Any] = {}

        def define(record: Any) -> None:
            if isinstance(record, Channel):
                channels[record.id] = record
            else:
                self.schemas[record.id] = record

        for record in self._stream():
            match record:
                case Channel() | Schema():
                    define(record)
                case Metadata():
                    self.metadata[record.name] = record.metadata
                case DataEnd():
                    return
                case Message():
                    if record.log_time >= END_OF_TIME:
                        raise McapError("a message claims to be from after the year 2262")
                    id_ = record.channel_id
                    yield channels[id_], Stored(record.log_time, 0, id_, record.sequence, record.data)
                case Chunk():
                    for stored in messages_in(_contents(record), None, 0, END_OF_TIME, 0, define):
                        yield channels[stored.channel], stored
        raise McapError("its end is missing")

    def _stream(self) -> Iterator[Any]:
        from mcap.stream_reader import StreamReader

        with open(self.path, "rb") as file:
            yield from StreamReader(file, emit_chunks=True).records


def damages() -> tuple[type[Exception], ...]:
    """Return the errors that reading a damaged file may raise: `mcap` checks little, decompression all."""
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


def damage_text(error: BaseException) -> str:
    """Return why a file is damaged, as a part of a sentence."""
    name = type(error).__name__
    if name in ("EndOfFile", "EOFError"):
        return "the file ends in the middle of something"
    return f"{name}: {error}" if str(error) else name


def _hint(beginning: bytes) -> str:
    if beginning.startswith(b"DORAREC"):
        return "; it is one of dora-rs, which this dora does not read"
    if beginning.startswith(b"#ROSBAG"):
        return "; it is a bag of ROS 1, and `rosbags-convert` makes one of ROS 2 from it"
    if not beginning:
        return "; it is empty"
    return ""
