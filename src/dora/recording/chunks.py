"""Reading messages out of chunks, in the order of their times.

The library `mcap` knows all other records. Its own way to sort messages compares Python objects, and reads
a quarter as many small messages a second.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from struct import Struct
from typing import Any, BinaryIO, Final, NamedTuple

from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import ChunkIndex

_RECORD: Final = Struct("<BQ")  # opcode, length
_MESSAGE: Final = Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK: Final = Struct(
    "<BQQQQII"
)  # opcode, length, times, size, checksum, length of the compression's name
# The footer (opcode, length, where the summary and its offsets begin, checksum), and the mark at the end.
_TAIL: Final = Struct("<BQQQI8s")
_TAIL_CHECKED: Final = 25  # bytes of it that the checksum is about, together with the summary
_LARGEST: Final = 4 << 30  # bytes of a chunk; few bytes can be made to look like more than any memory
_END_OF_TIME: Final = 2**64


class Stored(NamedTuple):
    """A message of a chunk. ``order`` is its place in the file: no two are equal."""

    time_ns: int
    order: int
    channel: int
    sequence: int
    data: bytes


def unpack(compression: str, data: bytes, size: int) -> bytes:
    """Return the contents of a chunk; raises what the compression does for data that is damaged."""
    if size > _LARGEST:
        raise McapError(f"a chunk claims {size:,} bytes")
    unpacked: bytes
    match compression:
        case "":
            unpacked = data
        case "zstd":
            import zstandard

            # What the data says of itself goes before what it is asked for.
            told = zstandard.get_frame_parameters(data).content_size
            if told not in (size, zstandard.CONTENTSIZE_UNKNOWN):
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


def check(contents: bytes, checksum: int) -> None:
    """Raise if the contents of a chunk are not those that were written."""
    if checksum and zlib.crc32(contents) != checksum:
        raise McapError("the checksum of a chunk is wrong")


def check_summary(file: BinaryIO) -> None:
    """Raise if the summary at the end of a file is not what was written, if its footer has a checksum."""
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
    """Yield the messages of a chunk; ``order`` is the number of the first one."""
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
        # What comes before everything in this chunk, and thus in all later ones.
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
    file.seek(index.chunk_start_offset)
    head = file.read(_CHUNK.size)
    fields: tuple[Any, ...] = _CHUNK.unpack(head)
    opcode, _, _, _, size, checksum, name_length = fields
    if opcode != Opcode.CHUNK:
        raise McapError("there is no chunk where the index says")
    name = file.read(name_length).decode()
    length = int.from_bytes(file.read(8), "little")
    data = file.read(length)
    if len(data) < length:
        raise EndOfFile()
    contents = unpack(name, data, size)
    check(contents, checksum)
    return contents
