"""Tapes: where a sender leaves its small messages for a recorder that may come late.

The queue of a tap has room for a number of messages, and the room is reserved: 256 are a lot for images,
and two milliseconds of a burst of numbers. A tape is room for *bytes*, a ring of memory that one process
writes and one reads: 4 MiB hold 30,000 small messages. Writing to it costs the sender a copy.

Large messages are not on the tape, they stay in the queue of the tap. Nor is what finds the tape full:
nobody waits for a recorder. The writer counts these, so that the reader knows when to look into the queue.

Layout: words of 8 bytes (`_WRITTEN` and so on), then the entries: the size, the message, zeros up to the
next multiple of 8. The size 0 says that the next entry is at the beginning. A position is the number of
bytes ever written or read. Data is written before the position that shows it, which other
processes see in this order on x86-64 (`AVAILABLE`); elsewhere Python has nothing to make sure of it.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import sys
from typing import Final

from dora._ownership import UnsafeFile, check_folder, open_own
from dora._paths import SHARED_MEMORY
from dora.transport.doorbell import FENCED
from dora.wire.message import Message, MessageError

AVAILABLE: Final = FENCED and sys.platform == "linux"

_FOLDER: Final = re.compile(r"dora-tapes-\d+-[a-z0-9_]{8}")
_WRITTEN, _OPEN, _OTHERS, _READ = 0, 1, 2, 8  # _READ has a cache line of its own
_HEAD: Final = 128  # bytes
_STEP: Final = 1 << 16  # bytes after which the reader gives back what it has read


def remove_tapes(folder: str) -> None:
    """Remove the folder of a recorder's tapes; anything else that a path may name stays as it is."""
    place, name = os.path.split(folder)
    if place != SHARED_MEMORY or not _FOLDER.fullmatch(name):
        return
    try:
        check_folder(folder)
    except (OSError, UnsafeFile):
        return  # it is gone already, or it is not a recorder's
    shutil.rmtree(folder, ignore_errors=True)


class RingBufferWriter:
    """The sender's end. Not for use by several threads at once."""

    def __init__(self, path: str) -> None:
        """Go on with a tape that a reader has made; raises ``OSError``, `UnsafeFile`."""
        fd = open_own(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if size <= _HEAD or size % 8:
                raise UnsafeFile(f"{path} is not a tape: it has {size} bytes")
            self._view = memoryview(mmap.mmap(fd, size))
        finally:
            os.close(fd)
        self._words = self._view.cast("Q")
        self._room = len(self._view) - _HEAD
        self._written = self._words[_WRITTEN]
        self._limit = self._words[_READ] + self._room  # up to where may be written
        self._others = self._words[_OTHERS]
        self._words[_OPEN] = 1

    def write(self, message: bytes) -> None:
        """Append a message that has been sent, if there is room."""
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
        if wrap:
            self._words[_HEAD + at >> 3] = 0
            at = 0
        begin = _HEAD + at
        self._words[begin >> 3] = size
        self._view[begin + 8 : begin + 8 + size] = message
        self._written = self._words[_WRITTEN] = after

    def skip(self) -> None:
        """Count a message that has been sent and is not on the tape."""
        self._others += 1
        self._words[_OTHERS] = self._others

    def close(self) -> None:
        """Write no more: the reader finds all that comes in the queue."""
        self._words[_OPEN] = 0


class RingBuffer:
    """The reader's end, which makes the tape. Not for use by several threads at once."""

    def __init__(self, path: str, size: int) -> None:
        """Make a tape of about so many bytes, with memory behind it; raises ``OSError``."""
        self.path = path
        size = size & -mmap.PAGESIZE
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # without memory, whoever writes later would be killed
            self._view = memoryview(mmap.mmap(fd, size))
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        self._words = self._view.cast("Q")
        self._room = size - _HEAD
        self._read = self._given_back = self._written = 0

    @property
    def is_written(self) -> bool:
        """Whether a sender writes to it."""
        return self._words[_OPEN] != 0

    @property
    def others(self) -> int:
        """How many messages were sent that are not on the tape."""
        return self._words[_OTHERS]

    def take(self) -> Message | None:
        """Take the oldest message; raises `MessageError` if the tape is damaged."""
        read = self._read
        if read == self._written:
            self._give_back()
            self._written = self._words[_WRITTEN]
            if read == self._written:
                return None
        at = read % self._room
        size = self._words[_HEAD + at >> 3]
        if not size:
            read += self._room - at
            at = 0
            size = self._words[_HEAD >> 3]
        begin = _HEAD + at + 8
        self._read = read = read + (size + 15 & -8)
        if read > self._written:
            raise MessageError("what a sender has written to a tape is damaged")
        message = Message(self._view[begin : begin + size].tobytes())
        if read - self._given_back >= _STEP:
            self._give_back()
        return message

    def _give_back(self) -> None:
        self._given_back = self._words[_READ] = self._read

    def close(self) -> None:
        """Remove it; a sender that still writes to it does so for nobody."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
