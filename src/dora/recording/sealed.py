"""Chunks as they go into a file: compressed or not, and independent of the memory they were made in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from dora.recording.chunk import Chunk, ChunkSpan

Compression = Literal["zstd", "lz4", "none"]

_WORTH_IT = 0.9  # of the size; what does not get below is read faster without compression
_ZSTD_LEVEL = 1  # level 3, the default, takes twice as long for 5 % less


class CompressedChunk(NamedTuple):
    """A chunk that is complete. ``contents`` may be the memory of the chunk it was made from."""

    contents: bytes | memoryview
    compression: str  # as MCAP calls it, "" for none
    size: int  # bytes before compression
    crc: int  # of the bytes before compression; 0: not computed
    first: int  # log times
    last: int
    entries: Mapping[int, bytes | bytearray]  # channel → (time, offset) of each message
    spans: Mapping[str, ChunkSpan] = {}  # by topic

    def counts(self) -> dict[int, int]:
        """Return the number of messages of each channel."""
        return {channel: len(entries) // 16 for channel, entries in self.entries.items()}


def seal(chunk: Chunk, compression: Compression, *, checked: bool = True) -> CompressedChunk:
    """Return a chunk as it goes into a file; in the chunk's own memory if it is not compressed.

    What hardly gets smaller is not compressed. ``checked``: with a checksum.
    """
    contents: bytes | memoryview = chunk.contents
    crc = zlib.crc32(contents) if checked else 0
    name = ""
    if compression != "none":
        packed = _compressor(compression)(contents)
        if len(packed) < _WORTH_IT * chunk.size:
            contents, name = packed, compression
    return CompressedChunk(
        contents, name, chunk.size, crc, chunk.first, chunk.last, chunk.index, chunk.spans
    )


def prepare(compression: Compression) -> None:
    """Import what compressing needs; in the middle of a recording that would take too long."""
    if compression != "none":
        _compressor(compression)(b"")


def keep(sealed: CompressedChunk) -> CompressedChunk:
    """Return the same in memory of its own."""
    return sealed._replace(contents=bytes(sealed.contents), entries=dict(sealed.entries))


@cache
def _compressor(compression: str) -> Callable[[Any], bytes]:
    if compression == "lz4":
        import lz4.frame

        compress: Callable[[Any], bytes] = lz4.frame.compress
        return compress
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
