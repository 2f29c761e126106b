"""Where a recorder puts what it takes: a file, or memory from which files are saved."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from dora.errors import DoraError
from dora.recording.mcap.channels import ChannelTable
from dora.recording.mcap.format import End, RecordingStart, TopicEnd
from dora.recording.mcap.writer import DiskFull, RecordingFailed, RecordingWriter
from dora.recording.recorder.chunk import ChunkSpan, CompressedChunk, Pool, WriteThread, keep
from dora.recording.recorder.intake import spans_of
from dora.recording.recorder.options import (
    RecordingOptions,
    Saved,
    file_name,
    numbered,
    ring_memory,
    unused,
)

# The last seconds of a dataflow, in memory.

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


Reason = Literal["asked", "dataflow ended", "disk full", "saved"]


class Expected(msgspec.Struct, frozen=True):
    """What should be there of a topic: the numbers after ``before`` up to ``last``, without ``unsent``."""

    before: int
    last: int
    unsent: tuple[int, ...] = ()


def ends_of(
    expected: dict[str, Expected], spans: dict[str, ChunkSpan], *, whole: bool
) -> dict[str, TopicEnd]:
    """Return what came of each topic: ``whole`` from its beginning, else from the first that is there."""
    ends = {}
    for name, item in expected.items():
        span = spans.get(name) or ChunkSpan()
        before = item.before if whole or not span.messages else min(span.first - 1, item.last)
        unsent = sum(1 for number in item.unsent if before < number <= item.last)
        lost = item.last - before - span.messages - unsent
        if not whole and not span.messages:
            lost = 0
        ends[name] = TopicEnd(span.messages, max(0, lost), span.first, span.last)
    return ends


class FileTarget:
    """Writes everything into one file."""

    def __init__(
        self,
        settings: RecordingOptions,
        channels: ChannelTable,
        pool: Pool,
        start: RecordingStart,
        dataflow: bytes,
    ) -> None:
        """Create the file; raises `DoraError`."""
        path = settings.path or unused(file_name())
        self._writer = RecordingWriter(path, channels, force=settings.force)
        try:
            self._writer.begin(start, dataflow)
        except RecordingFailed:
            self._writer.close()
            if not settings.force:  # with it, the file may have been there before
                os.unlink(path)  # there is nothing in it, and it would be in the way of the next attempt
            raise
        self._spans: list[dict[str, ChunkSpan]] = []  # of each chunk in the file
        self.store = WriteThread(pool, settings.compression, self._write)

    @property
    def path(self) -> str:
        return self._writer.path

    def _write(self, sealed: CompressedChunk) -> None:
        self._writer.write(sealed)
        self._spans.append(dict(sealed.spans))

    def finish(self, reason: Reason, expected: dict[str, Expected], failed: Iterable[str]) -> Saved:
        """Wait until all is written, and end the file; what went wrong is in the result."""
        self.store.close()
        problem = self.store.failure
        if isinstance(problem, DiskFull):
            reason = "disk full"
        while True:
            topics = ends_of(expected, spans_of(self._spans), whole=True)
            complete = problem is None and not any(topic.lost for topic in topics.values())
            end = End(
                complete=complete,
                stopped=time.time_ns(),
                reason=reason,
                topics=topics,
                failed=sorted(failed),
            )
            try:
                self._writer.finish(end)
                break
            except DiskFull as error:
                problem, reason = problem or error, "disk full"
                if not self._writer.drop_last():
                    self._writer.close()
                    break
                self._spans.pop()
            except RecordingFailed as error:
                problem, complete = problem or error, False
                self._writer.close()
                break
        return Saved(
            path=self.path,
            size=self._writer.size,
            complete=complete,
            topics=topics,
            problem=str(problem or ""),
        )


class RingTarget:
    """Keeps the last seconds in memory, and writes them into a file whenever it is asked."""

    def __init__(
        self,
        settings: RecordingOptions,
        channels: ChannelTable,
        pool: Pool,
        start: RecordingStart,
        dataflow: bytes,
    ) -> None:
        assert settings.last_seconds is not None
        self._settings = settings
        self._channels = channels
        self._start = start
        self._dataflow = dataflow
        self._ring = Ring(settings.last_seconds, ring_memory())
        self._lock = threading.Lock()
        self._count = 0
        self._savers: list[threading.Thread] = []
        self.store = WriteThread(pool, settings.compression, self._add)

    @property
    def path(self) -> str:
        """Where the next file will be."""
        settings = self._settings
        if settings.path and settings.force:
            return numbered(settings.path, self._count + 1)
        return unused(settings.path or file_name())

    def forget(self) -> None:
        """Let go of what is too old by now."""
        with self._lock:
            self._ring.forget(time.time_ns())

    def save(
        self, expected: dict[str, Expected], failed: Iterable[str], on_saved: Callable[[Saved], None]
    ) -> None:
        """Write what has been handed over until now; ``on_saved`` is called in another thread."""
        failed = sorted(failed)

        def begin() -> None:
            with self._lock:
                chunks = self._ring.chunks()
            # In a thread of its own, because what comes meanwhile has to be kept, too.
            thread = threading.Thread(
                target=lambda: on_saved(self._write(chunks, expected, failed)), name="dora-recording-save"
            )
            self._savers.append(thread)
            thread.start()

        self.store.call(begin)

    def close(self) -> None:
        """Wait until all is written that was asked for."""
        self.store.close()
        for thread in self._savers:
            thread.join()

    def _add(self, sealed: CompressedChunk) -> None:
        kept = keep(sealed)
        with self._lock:
            self._ring.add(kept, time.time_ns())

    def _write(
        self, chunks: list[CompressedChunk], expected: dict[str, Expected], failed: list[str]
    ) -> Saved:
        topics = ends_of(expected, spans_of(dict(chunk.spans) for chunk in chunks), whole=False)
        complete = not any(topic.lost for topic in topics.values())
        end = End(complete=complete, stopped=time.time_ns(), reason="saved", topics=topics, failed=failed)
        with self._lock:  # two savings at a time get two files
            saved = Saved(path=self.path, topics=topics, complete=complete)
            try:
                writer = RecordingWriter(saved.path, self._channels, force=self._settings.force)
            except DoraError as error:
                return msgspec.structs.replace(saved, complete=False, problem=str(error))
            self._count += 1
        try:
            writer.begin(self._start, self._dataflow)
            for chunk in chunks:
                writer.write(chunk)
            writer.finish(end)
        except RecordingFailed as error:
            writer.close()
            return msgspec.structs.replace(saved, size=writer.size, complete=False, problem=str(error))
        return msgspec.structs.replace(saved, size=writer.size)
