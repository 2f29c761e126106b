"""Ring buffers: a sender copies its small messages to them for a recorder that may read them late.

The queue of a tap has room for a fixed number of messages, and that memory is reserved: 256 messages
are plenty of images, and two milliseconds of a burst of numbers. A ring buffer has room for *bytes*:
4 MiB hold 30,000 small messages. One process writes it and one reads it. Each message costs the sender
one more copy.

Large messages stay in the queue of the tap, and so do messages that find the ring buffer full: a sender
never waits for a recorder. The writer counts these messages, so the reader knows when to look into the
queue.

Layout: words of 8 bytes (`_WRITTEN` and so on), then the entries: the size, the message, zeros up to the
next multiple of 8. A size of 0 means that the next entry is at the start of the ring. A position is the
number of bytes ever written or read. Data is written before the position that publishes it, and read after
it. Where the processor does not keep this order by itself, a fence does (`dora.transport.fence`).
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from typing import Final

from dora._ownership import UnsafeFile, check_folder, open_own
from dora._paths import SHARED_MEMORY
from dora.transport.fence import FENCED, ORDERED, fence
from dora.wire.message import Message, MessageError

AVAILABLE: Final = FENCED and sys.platform == "linux"

_FOLDER: Final = r"dora-rings-\d+-[a-z0-9_]{8}"
_WRITTEN, _OPEN, _OTHERS, _READ = 0, 1, 2, 8  # _READ has a cache line of its own
_HEAD: Final = 128  # bytes
_FREE_EVERY: Final = 1 << 16  # bytes that the reader reads before it frees them


def remove_ring_buffers(folder: str) -> None:
    """Remove the folder of a recorder's ring buffers; leave any other path alone."""
    place, name = os.path.split(folder)
    if place != SHARED_MEMORY or not re.fullmatch(_FOLDER, name):
        return
    try:
        check_folder(folder)
    except (OSError, UnsafeFile):
        return  # removed already, or not of this user
    import shutil  # each run imports this module, few remove a folder

    shutil.rmtree(folder, ignore_errors=True)


class RingBufferWriter:
    """The sending end. Not for use by several threads at once."""

    def __init__(self, path: str) -> None:
        """Open a ring buffer that its reader has created; raises ``OSError``, `UnsafeFile`."""
        fd = open_own(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if size <= _HEAD or size % 8:
                raise UnsafeFile(f"{path} is not a ring buffer: it has {size} bytes")
            self._view = memoryview(mmap.mmap(fd, size))
        finally:
            os.close(fd)
        self._words = self._view.cast("Q")
        self._room = len(self._view) - _HEAD
        self._written = self._words[_WRITTEN]
        self._limit = self._words[_READ] + self._room  # the position up to which there is room
        self._others = self._words[_OTHERS]
        self._words[_OPEN] = 1

    def write(self, message: bytes) -> None:
        """Append a message that has been sent; count it instead if there is no room."""
        size = len(message)
        written = self._written
        at = written % self._room
        after = written + (size + 15 & -8)
        rest = self._room - at
        wrap = after - written > rest
        if wrap:
            after += rest
        if after > self._limit:
            self._limit = self._words[_READ] + self._room
            if after > self._limit:
                self.skip()
                return
            if not ORDERED:
                fence()
        if wrap:
            self._words[_HEAD + at >> 3] = 0
            at = 0
        begin = _HEAD + at
        self._words[begin >> 3] = size
        self._view[begin + 8 : begin + 8 + size] = message
        if not ORDERED:
            fence()
        self._written = self._words[_WRITTEN] = after

    def skip(self) -> None:
        """Count a message that has been sent and is not in the ring buffer."""
        self._others += 1
        self._words[_OTHERS] = self._others

    def close(self) -> None:
        """Stop writing: the reader finds all further messages in the queue."""
        self._words[_OPEN] = 0


class RingBuffer:
    """The reading end, which creates the file. Not for use by several threads at once."""

    def __init__(self, path: str, size: int) -> None:
        """Create a ring buffer of about ``size`` bytes and allocate its memory; raises ``OSError``."""
        self.path = path
        size = size & -mmap.PAGESIZE
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # without memory, a later write would be a SIGBUS
            self._view = memoryview(mmap.mmap(fd, size))
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        self._words = self._view.cast("Q")
        self._room = size - _HEAD
        self._read = self._freed = self._written = 0

    @property
    def is_written(self) -> bool:
        """Whether a sender writes to it."""
        return self._words[_OPEN] != 0

    @property
    def others(self) -> int:
        """How many messages were sent that are not in the ring buffer."""
        return self._words[_OTHERS]

    def take(self) -> Message | None:
        """Take the oldest message; raises `MessageError` if the ring buffer is damaged."""
        read = self._read
        if read == self._written:
            self._free_read()
            self._written = self._words[_WRITTEN]
            if read == self._written:
                return None
            if not ORDERED:
                fence()
        at = read % self._room
        size = self._words[_HEAD + at >> 3]
        if not size:
            read += self._room - at
            at = 0
            size = self._words[_HEAD >> 3]
        begin = _HEAD + at + 8
        self._read = read = read + (size + 15 & -8)
        if read > self._written:
            raise MessageError("the ring buffer of a sender is damaged")
        message = Message(self._view[begin : begin + size].tobytes())
        if read - self._freed >= _FREE_EVERY:
            self._free_read()
        return message

    def _free_read(self) -> None:
        if not ORDERED:
            fence()
        self._freed = self._words[_READ] = self._read

    def close(self) -> None:
        """Remove the file; a sender that still has it open may go on writing."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
