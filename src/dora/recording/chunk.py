"""Messages in memory, already laid out as the contents of an MCAP chunk.

A message is copied once, out of the shared memory to where it stays until it is written. Buffers are
used again and again: fresh memory costs more than the copy.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable
from struct import Struct
from typing import Final

from dora.wire.message import Message

CHUNK_SIZE: Final = 4 << 20  # bytes; a chunk is full from here on
_MESSAGE: Final = 0x05  # opcode
_MESSAGE_HEAD: Final = Struct("<BQHIQQ")
_INDEX_ENTRY: Final = Struct("<QQ")
_pack = _MESSAGE_HEAD.pack
_pack_entry = _INDEX_ENTRY.pack
_move = ctypes.memmove


class ChunkSpan:
    """The messages of one topic in a chunk: sequence numbers of the first and the last, and how many."""

    __slots__ = ("first", "last", "messages")

    def __init__(self, first: int = 0, last: int = 0, messages: int = 0) -> None:
        self.first = first
        self.last = last
        self.messages = messages


class Chunk:
    """The messages of one chunk, and where each lies in it."""

    __slots__ = ("_address", "_memory", "first", "index", "last", "size", "spans", "view")

    def __init__(self, capacity: int) -> None:
        """Allocate; raises ``OSError`` if there is no memory."""
        self._memory = mmap.mmap(-1, capacity)  # which costs nothing before it is used
        self._address = ctypes.addressof(ctypes.c_ubyte.from_buffer(self._memory))
        self.view = memoryview(self._memory)
        self.clear()

    def clear(self) -> None:
        """Forget all messages."""
        self.size = 0
        self.first = self.last = 0  # log times
        self.index: dict[int, bytearray] = {}  # channel → (time, offset) of each message
        self.spans: dict[str, ChunkSpan] = {}  # by topic; those of outputs

    @property
    def capacity(self) -> int:
        return len(self.view)

    @property
    def contents(self) -> memoryview:
        """The message records, one behind the other."""
        return self.view[: self.size]

    def add(self, channel: int, sequence: int, time_ns: int, prefix: bytes, message: Message) -> None:
        """Append a message: ``prefix``, then the body. There has to be room, see `room_for`."""
        body_size = message.body_size
        head = _pack(
            _MESSAGE,
            22 + len(prefix) + body_size,
            channel,
            sequence & 0xFFFF_FFFF,
            time_ns,
            time_ns,
        )
        begin = self.size
        at = begin + 31 + len(prefix)
        end = at + body_size
        if message.owner is None:
            self.view[begin:end] = b"".join((head, prefix, message.small_body))
        else:
            self.view[begin:at] = head + prefix
            _move(self._address + at, message.address + message.body_offset, body_size)
        self._note(channel, time_ns, begin)
        self.size = end

    def add_data(self, channel: int, sequence: int, time_ns: int, data: bytes) -> None:
        """Append a message that is no output's."""
        begin = self.size
        head = _pack(_MESSAGE, 22 + len(data), channel, sequence & 0xFFFF_FFFF, time_ns, time_ns)
        self.size = begin + len(head) + len(data)
        self.view[begin : self.size] = head + data
        self._note(channel, time_ns, begin)

    def _note(self, channel: int, time_ns: int, offset: int) -> None:
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
    """Return the bytes that a message takes in a chunk."""
    return _MESSAGE_HEAD.size + prefix + body_size


class Pool:
    """The chunks of one recording: those in use, and those that can be used again."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes of all chunks together, except that there is always one."""
        self.limit = limit
        self.used = 0  # bytes of the chunks that are in use
        self._free: list[Chunk] = []
        self._lock = threading.Lock()

    def take(self, room: int) -> Chunk | None:
        """Return an empty chunk with room for so many bytes, None if too much is in use already."""
        capacity = max(CHUNK_SIZE + CHUNK_SIZE // 8, room)
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

    def give_back(self, chunks: Iterable[Chunk]) -> None:
        """Take back chunks that are not needed any more."""
        with self._lock:
            for chunk in chunks:
                self.used -= chunk.capacity
                if chunk.capacity <= CHUNK_SIZE + CHUNK_SIZE // 8 and len(self._free) < 4:
                    chunk.clear()
                    self._free.append(chunk)
