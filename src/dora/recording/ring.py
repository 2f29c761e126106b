"""The last seconds of a dataflow, in memory."""

from __future__ import annotations

from collections import deque
from typing import Final

from dora.recording.sealed import CompressedChunk

_OVERHEAD: Final = 512  # bytes of a chunk besides its contents, roughly


class Ring:
    """Keeps the chunks of the last ``seconds``, in at most ``limit`` bytes."""

    def __init__(self, seconds: float, limit: int) -> None:
        self._span_ns = int(seconds * 1e9)
        self._limit = limit
        self._chunks: deque[CompressedChunk] = deque()
        self.bytes = 0
        self.cut = False  # memory was too small for the whole time

    def add(self, chunk: CompressedChunk, now_ns: int) -> None:
        """Append a chunk, in memory of its own, and let go of what is too old or too much."""
        self._chunks.append(chunk)
        self.bytes += _size(chunk)
        self.forget(now_ns)
        while self.bytes > self._limit and len(self._chunks) > 1:
            self._drop()
            self.cut = True

    def forget(self, now_ns: int) -> None:
        """Let go of chunks whose last message is too old."""
        while self._chunks and self._chunks[0].last < now_ns - self._span_ns:
            self._drop()

    def chunks(self) -> list[CompressedChunk]:
        """Return what is kept, oldest first."""
        return list(self._chunks)

    def _drop(self) -> None:
        self.bytes -= _size(self._chunks.popleft())


def _size(chunk: CompressedChunk) -> int:
    return len(chunk.contents) + sum(map(len, chunk.entries.values())) + _OVERHEAD
