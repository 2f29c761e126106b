"""Messages in memory, laid out like the contents of an MCAP chunk.

A message is copied once, from shared memory to the chunk that is written. Buffers are reused: fresh memory
costs more than the copy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any, Final, Literal, NamedTuple

from dora.errors import DoraError
from dora.wire.message import Message

CHUNK_SIZE: Final = 4 << 20  # bytes; a chunk is full from here on
CHUNK_ROOM: Final = CHUNK_SIZE + CHUNK_SIZE // 8  # bytes; only a message that needs more gets more
_MESSAGE: Final = 0x05  # opcode
_MESSAGE_HEAD: Final = Struct("<BQHIQQ")
_INDEX_ENTRY: Final = Struct("<QQ")
_pack = _MESSAGE_HEAD.pack
_pack_entry = _INDEX_ENTRY.pack
_move = ctypes.memmove


@dataclass(slots=True)
class ChunkSpan:
    """The messages of one topic in a chunk: sequence numbers of the first and the last, and how many."""

    first: int = 0
    last: int = 0
    messages: int = 0


def spans_of(chunks: Iterable[dict[str, ChunkSpan]]) -> dict[str, ChunkSpan]:
    """Return the span of each topic over several chunks, which are in order."""
    found: dict[str, ChunkSpan] = {}
    for spans in chunks:
        for name, span in spans.items():
            known = found.get(name)
            if known is None:
                found[name] = ChunkSpan(span.first, span.last, span.messages)
            else:
                known.last = span.last
                known.messages += span.messages
    return found


class Chunk:
    """The messages of one chunk, and where each lies in it."""

    __slots__ = ("_address", "_memory", "first", "index", "last", "size", "spans", "view")

    def __init__(self, capacity: int) -> None:
        """Allocate; raises ``OSError`` if there is no memory."""
        self._memory = mmap.mmap(-1, capacity)  # costs nothing before it is used
        self._address = ctypes.addressof(ctypes.c_ubyte.from_buffer(self._memory))
        self.view = memoryview(self._memory)
        self.clear()

    def clear(self) -> None:
        """Remove all messages."""
        self.size = 0
        self.first = self.last = 0  # log times
        self.index: dict[int, bytearray] = {}  # channel → (time, offset) of each message
        self.spans: dict[str, ChunkSpan] = {}  # by topic; of outputs only

    @property
    def capacity(self) -> int:
        """Bytes that the chunk has room for, used or not."""
        return len(self.view)

    @property
    def contents(self) -> memoryview:
        """The message records, one after the other."""
        return self.view[: self.size]

    def add(self, channel: int, sequence: int, time_ns: int, prefix: bytes, message: Message) -> None:
        """Append a message: ``prefix``, then the body. There has to be room (`room_for`).

        ``time_ns``: its place in the recording, most often the time of sending.
        """
        body_size = message.body_size
        head = _pack(
            _MESSAGE,
            22 + len(prefix) + body_size,
            channel,
            sequence & 0xFFFF_FFFF,
            time_ns,
            message.time_ns,
        )
        begin = self.size
        at = begin + 31 + len(prefix)
        end = at + body_size
        if message.owner is None:
            self.view[begin:end] = b"".join((head, prefix, message.small_body))
        else:
            self.view[begin:at] = head + prefix
            _move(self._address + at, message.address + message.body_offset, body_size)
        self._add_entry(channel, time_ns, begin)
        self.size = end

    def add_data(self, channel: int, sequence: int, time_ns: int, data: bytes) -> None:
        """Append a message that no output sent."""
        begin = self.size
        head = _pack(_MESSAGE, 22 + len(data), channel, sequence & 0xFFFF_FFFF, time_ns, time_ns)
        self.size = begin + len(head) + len(data)
        self.view[begin : self.size] = head + data
        self._add_entry(channel, time_ns, begin)

    def _add_entry(self, channel: int, time_ns: int, offset: int) -> None:
        index = self.index
        if not index:
            self.first = self.last = time_ns
        elif time_ns < self.first:
            self.first = time_ns
        elif time_ns > self.last:
            self.last = time_ns
        entries = index.get(channel)
        if entries is None:
            entries = index[channel] = bytearray()
        entries += _pack_entry(time_ns, offset)


def room_for(prefix: int, body_size: int) -> int:
    """Return how many bytes a message takes in a chunk."""
    return _MESSAGE_HEAD.size + prefix + body_size


class ChunkPool:
    """The chunks of one recording: those in use, and those that can be reused."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes of all chunks together, except that there is always one."""
        self.limit = limit
        self.used = 0  # bytes of the chunks that are in use
        self._free: list[Chunk] = []
        self._lock = threading.Lock()  # the recorder takes chunks, other threads release them

    def take(self, room: int) -> Chunk | None:
        """Return an empty chunk with room for so many bytes, None if too much is in use already."""
        capacity = max(CHUNK_ROOM, room)
        with self._lock:
            if self.used and self.used + capacity > self.limit:
                return None
            self.used += capacity
            if self._free and capacity <= self._free[-1].capacity:
                return self._free.pop()
        try:
            return Chunk(capacity)
        except OSError:
            with self._lock:
                self.used -= capacity
            return None

    def release(self, chunks: Iterable[Chunk]) -> None:
        """Make chunks available again."""
        with self._lock:
            for chunk in chunks:
                self.used -= chunk.capacity
                # A few are enough for reuse; the memory of a burst goes back to the system.
                if chunk.capacity <= CHUNK_ROOM and len(self._free) < 4:
                    chunk.clear()
                    self._free.append(chunk)


# Chunks as they are written to a file, compressed or not.

Compression = Literal["zstd", "lz4", "none"]

_WORTH_IT = 0.9  # of the size; a chunk that stays above it is read faster uncompressed
_ZSTD_LEVEL = 1  # level 3, the default, takes twice as long for 5 % less


class CompressedChunk(NamedTuple):
    """A complete chunk. ``contents`` may be the memory of the chunk that it was made from."""

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


def compress(chunk: Chunk, compression: Compression, *, checked: bool = True) -> CompressedChunk:
    """Return a chunk as it is written to a file; uncompressed if compression hardly makes it smaller.

    An uncompressed one shares the memory of the chunk. ``checked``: with a checksum.
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
    """Import the compressor; that would take too long during a recording."""
    if compression != "none":
        _compressor(compression)(b"")


def detached(chunk: CompressedChunk) -> CompressedChunk:
    """Return a copy that owns its memory."""
    return chunk._replace(contents=bytes(chunk.contents))


@cache
def _compressor(compression: str) -> Callable[[Any], bytes]:
    if compression == "lz4":
        import lz4.frame

        compress: Callable[[Any], bytes] = lz4.frame.compress
        return compress
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress


# Nothing below may hold the interpreter's lock for long: compressing and writing release it, so the
# recorder takes messages meanwhile.

HIGH_PRIORITY: Final = -10  # of the thread that empties taps, which must not be late
_NORMAL_PRIORITY: Final = 0


def set_priority(priority: int) -> None:
    """Set the priority of the calling thread, and of threads that it starts, if the system allows it."""
    if sys.platform == "linux":  # elsewhere it would concern the whole process
        try:
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        except OSError:
            pass  # most users may not raise it, and recorders work without


class WriteThread:
    """Compresses and stores chunks in a thread, in the order of `put`."""

    def __init__(
        self, pool: ChunkPool, compression: Compression, store: Callable[[CompressedChunk], None]
    ) -> None:
        """``store`` is called in the thread; after it has raised `DoraError`, all chunks are dropped."""
        self.failure: DoraError | None = None  # needs no lock: it is set in one step, and stays
        self._pool = pool
        self._compression = compression
        self._store = store
        self._waiting: deque[Chunk | Callable[[], None]] = deque()
        # Held only to append or to take, never while a chunk is compressed or written: `put` must not wait.
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="dora-recording", daemon=True)
        self._thread.start()

    def put(self, item: Chunk | Callable[[], None]) -> None:
        """Store a chunk, then return it to the pool; or call a function in the thread."""
        with self._changed:
            self._waiting.append(item)
            self._changed.notify()

    def close(self) -> None:
        """Return once everything is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        set_priority(_NORMAL_PRIORITY)  # a thread inherits the recorder's, which may be higher
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                item = self._waiting.popleft()
            if isinstance(item, Chunk):
                self._store_chunk(item)
            else:
                item()

    def _store_chunk(self, chunk: Chunk) -> None:
        try:
            if self.failure is None:
                self._store(self._compress(chunk))
        except DoraError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - for example no memory: the recorder would wait for ever
            self.failure = DoraError(f"the recording cannot continue: {type(error).__name__}: {error}")
        finally:
            self._pool.release([chunk])

    def _compress(self, chunk: Chunk) -> CompressedChunk:
        # If chunks pile up, compression is skipped before messages are lost.
        if self._pool.used > self._pool.limit // 4:
            return compress(chunk, "none", checked=False)
        return compress(chunk, self._compression)
