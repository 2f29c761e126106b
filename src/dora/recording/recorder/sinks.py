"""The sinks of a recorder: a file, or a ring in memory that is saved to files on demand."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from dora.errors import DoraError
from dora.recording.mcap.channels import ChannelTable
from dora.recording.mcap.chunk import (
    ChunkPool,
    ChunkSpan,
    CompressedChunk,
    WriteThread,
    detached,
    spans_of,
)
from dora.recording.mcap.format import End, Reason, RecordingStart, TopicEnd
from dora.recording.mcap.writer import DiskFull, RecordingFailed, RecordingWriter
from dora.recording.recorder.options import (
    RecordingOptions,
    Saved,
    file_name,
    numbered,
    ring_memory,
    unused,
)

_OVERHEAD: Final = 512  # bytes of a chunk besides its contents, roughly
SYNC_EVERY: Final = 1.0  # seconds between the end of one round and the next; more often wears cards out


class Ring:
    """Keeps the chunks of the last ``seconds`` in memory, in at most ``limit`` bytes."""

    def __init__(self, seconds: float, limit: int) -> None:
        self._span_ns = int(seconds * 1e9)
        self._limit = limit
        self._chunks: deque[CompressedChunk] = deque()
        self.bytes = 0

    def add(self, chunk: CompressedChunk, now_ns: int) -> None:
        """Append a chunk that owns its memory; drop chunks that are too old or too many."""
        self._chunks.append(chunk)
        self.bytes += _size(chunk)
        self.drop_old(now_ns)
        while self.bytes > self._limit and len(self._chunks) > 1:
            self._drop()

    def drop_old(self, now_ns: int) -> None:
        """Drop chunks whose last message is too old."""
        while self._chunks and self._chunks[0].last < now_ns - self._span_ns:
            self._drop()

    def chunks(self) -> list[CompressedChunk]:
        """Return the chunks, oldest first."""
        return list(self._chunks)

    def _drop(self) -> None:
        self.bytes -= _size(self._chunks.popleft())


def _size(chunk: CompressedChunk) -> int:
    return len(chunk.contents) + sum(map(len, chunk.entries.values())) + _OVERHEAD


class Expected(msgspec.Struct, frozen=True):
    """The sequence numbers a topic should have: after ``before`` up to ``last``, without ``unsent``.

    ``untapped``: the output could not be tapped, so not even a ring has had its messages.
    """

    before: int
    last: int
    unsent: tuple[int, ...] = ()
    untapped: bool = False


def topic_ends(
    expected: dict[str, Expected], spans: dict[str, ChunkSpan], *, from_start: bool
) -> dict[str, TopicEnd]:
    """Return how complete each topic is, from its start or from its first recorded message."""
    ends = {}
    for name, item in expected.items():
        span = spans.get(name) or ChunkSpan()
        before = item.before if from_start or not span.messages else span.first - 1
        unsent = sum(1 for number in item.unsent if before < number <= item.last)
        lost = item.last - before - span.messages - unsent
        if not (from_start or span.messages or item.untapped):
            lost = 0
        ends[name] = TopicEnd(span.messages, max(0, lost), span.first, span.last)
    return ends


class DiskSync:
    """Has the system write a file to its disk, so that a recording survives a loss of power.

    The system alone leaves new data in memory for half a minute, and the length of a file with it: a board
    that is switched off would find an empty file. A thread calls ``sync`` every second, until `close`, or
    until it has raised `DoraError`, because a slow card may take seconds for it, and the recorder goes on
    writing meanwhile.
    """

    def __init__(self, sync: Callable[[], None], on_failure: Callable[[DoraError], None]) -> None:
        """``on_failure`` is called in the thread."""
        self._sync = sync
        self._on_failure = on_failure
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dora-recording-sync", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Return once the thread has ended: ``sync`` is not called any more."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed.wait(SYNC_EVERY):
            try:
                self._sync()
            except DoraError as error:
                self._on_failure(error)
                return


class FileSink:
    """Writes everything into one file."""

    def __init__(
        self,
        settings: RecordingOptions,
        channels: ChannelTable,
        pool: ChunkPool,
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
                os.unlink(path)  # it is empty, and would block the next attempt
            raise
        self.write_thread = WriteThread(pool, settings.compression, self._writer.write)
        self._disk_sync = DiskSync(self._writer.sync, self._fail)
        self._overwrites = settings.force

    def discard(self) -> None:
        """Close the file, and remove it: nothing was recorded."""
        self._stop()
        self._writer.close()
        if not self._overwrites:  # else the file may have been there before
            os.unlink(self.path)

    def _stop(self) -> None:
        """End both threads: from here on, the caller's alone uses the writer."""
        self.write_thread.close()
        self._disk_sync.close()

    @property
    def path(self) -> str:
        return self._writer.path

    def _fail(self, error: DoraError) -> None:
        self.write_thread.failure = self.write_thread.failure or error  # the first one is the cause

    def finish(self, reason: Reason, expected: dict[str, Expected], failed: Iterable[str]) -> Saved:
        """Wait until all chunks are written, and finish the file; problems are in the result."""
        self._stop()
        problem = self.write_thread.failure
        if isinstance(problem, DiskFull):
            reason = "disk full"
        # On a full disk, chunks go until the end fits: without it the file would count as cut off.
        while True:
            topics = topic_ends(expected, self._writer.spans(), from_start=True)
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
                problem, reason, complete = problem or error, "disk full", False
                if not self._writer.drop_last():
                    self._writer.close()
                    break
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


class RingSink:
    """Keeps the last seconds in memory, and writes them to a file on request."""

    def __init__(
        self,
        settings: RecordingOptions,
        channels: ChannelTable,
        pool: ChunkPool,
        start: RecordingStart,
        dataflow: bytes,
    ) -> None:
        assert settings.last_seconds is not None
        self._settings = settings
        self._channels = channels
        self._start = start
        self._dataflow = dataflow
        self._ring = Ring(settings.last_seconds, ring_memory())
        # The write thread adds to the ring, the recorder's drops what is old, threads that save name files.
        self._lock = threading.Lock()
        self._count = 0
        self._savers: list[threading.Thread] = []
        self.write_thread = WriteThread(pool, settings.compression, self._add)

    @property
    def path(self) -> str:
        """The path of the next file."""
        settings = self._settings
        if settings.path and settings.force:
            return numbered(settings.path, self._count + 1)
        return unused(settings.path or file_name())

    def drop_old(self) -> None:
        """Drop chunks that are too old by now."""
        with self._lock:
            self._ring.drop_old(time.time_ns())

    def save(
        self, expected: dict[str, Expected], failed: Iterable[str], on_saved: Callable[[Saved], None]
    ) -> None:
        """Write all chunks so far; ``on_saved`` is called in another thread."""
        failed = sorted(failed)

        def begin() -> None:
            with self._lock:
                chunks = self._ring.chunks()
            # In a separate thread, because the ring has to take new chunks meanwhile.
            thread = threading.Thread(
                target=lambda: on_saved(self._write(chunks, expected, failed)), name="dora-recording-save"
            )
            thread.start()
            self._savers = [saver for saver in self._savers if saver.is_alive()] + [thread]

        # Through the write thread: by then, the ring has all chunks that were put before.
        self.write_thread.put(begin)

    def close(self) -> None:
        """Wait until all requested files are written."""
        self.write_thread.close()  # first: it starts the savers
        for thread in self._savers:
            thread.join()

    def discard(self) -> None:
        """End without anything recorded."""
        self.close()

    def _add(self, chunk: CompressedChunk) -> None:
        kept = detached(chunk)
        with self._lock:
            self._ring.add(kept, time.time_ns())

    def _write(
        self, chunks: list[CompressedChunk], expected: dict[str, Expected], failed: list[str]
    ) -> Saved:
        topics = topic_ends(expected, spans_of(dict(chunk.spans) for chunk in chunks), from_start=False)
        complete = not any(topic.lost for topic in topics.values())
        end = End(complete=complete, stopped=time.time_ns(), reason="saved", topics=topics, failed=failed)
        with self._lock:  # two saves at a time get two files
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
