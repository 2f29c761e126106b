"""Ring buffers that overwrite what is oldest: they hold what a process has done last.

Nobody reads such a ring while all is well. It is a file in shared memory, so it survives a SIGKILL of its
writer. There is one writer; a reader copies the whole file (`read_ring`), also while the writer goes on.

Layout: words of 8 bytes (`_AT` and so on), then the entries: the data, zeros up to a multiple of 8, the
size in the last 8 bytes. So a reader walks from the newest entry to older ones. An entry that does not fit
behind the last one begins a new lap at the start of the ring. Data is written before the position that
publishes it; where the processor does not keep this order by itself, a fence does.

Rejected: positions modulo the size, with entries that go over the edge. They cost a branch for each entry,
and such a ring cannot grow. Here the owner raises `_ROOM` (`OverwritingRing.grow`), and the writer goes on
behind the first lap.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, open_own
from dora.transport.fence import ORDERED, fence

_AT, _END, _LAPS, _ROOM, _ON, _UNTIL, _SKIPPED = 0, 1, 2, 3, 4, 5, 6
_HEAD: Final = 128  # bytes

# A sender of more small messages than this would notice the ring. It stops writing, until `resume`.
MOST: Final = 5_000  # entries a second
_COUNTED: Final = 256  # entries between two looks at the clock
_SHORTEST_NS: Final = _COUNTED * 1_000_000_000 // MOST
# Copying large entries at this pace takes half a hundredth of a processor.
PACE: Final = 32_000_000  # bytes a second
_ATTEMPTS: Final = 5  # to copy a ring while no lap begins


class OverwritingWriter:
    """The writing end. Not for use by several threads at once."""

    def __init__(self, path: str, on_pause: Callable[[], None] = lambda: None) -> None:
        """Open a ring; raises ``OSError``, `UnsafeFile`. ``on_pause``: see `write`."""
        fd = open_own(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if size <= _HEAD or size % 8:
                raise UnsafeFile(f"{path} is not a ring: it has {size} bytes")
            self._view = memoryview(mmap.mmap(fd, size))
        finally:
            os.close(fd)
        self._words = self._view.cast("Q")
        self._most = size - _HEAD
        self._at = self._words[_AT]
        self._room = min(self._words[_ROOM], self._most)
        self._on_pause = on_pause
        self.free_ns = 0  # when the next large entry may be copied
        self.resume()

    def resume(self) -> None:
        """Write again, after a pause."""
        self._left = _COUNTED
        self._since_ns = time.monotonic_ns()
        self._words[_ON] = 1

    def write(self, entry: bytes) -> None:
        """Append a small entry.

        After more than `MOST` entries a second it pauses: it calls ``on_pause`` and expects no further
        entries until `resume`.
        """
        size = len(entry)
        at = self._at
        end = at + (size + 15 & -8)
        if end > self._room:
            at = self._turn(end, size)
            if at < 0:
                return
            end = at + (size + 15 & -8)
        begin = _HEAD + at
        words = self._words
        # Before the entry: a reader leaves out what may be overwritten by now.
        words[_UNTIL] = end
        if not ORDERED:
            fence()
        self._view[begin : begin + size] = entry
        words[(_HEAD + end >> 3) - 1] = size
        if not ORDERED:
            fence()
        self._at = words[_AT] = end
        self._left -= 1
        if not self._left:
            self._check_rate()

    def write_large(self, size: int, copy: Callable[[memoryview], None], now_ns: int) -> None:
        """Append an entry of any size that ``copy`` writes, or count it as skipped.

        It is skipped if it does not fit, and if copying would take more than `PACE` bytes a second.
        ``now_ns``: of any clock, always the same.
        """
        words = self._words
        if now_ns < self.free_ns:
            self.skip()
            return
        at = self._at
        end = at + (size + 15 & -8)
        if end > self._room:
            at = self._turn(end, size)
            if at < 0:
                words[_SKIPPED] += 1
                return
            end = at + (size + 15 & -8)
        self.free_ns = now_ns + size * 1_000_000_000 // PACE
        words[_UNTIL] = end
        if not ORDERED:
            fence()
        copy(self._view[_HEAD + at : _HEAD + at + size])
        words[(_HEAD + end >> 3) - 1] = size
        if not ORDERED:
            fence()
        self._at = words[_AT] = end

    def skip(self) -> None:
        """Count a large entry that is not written."""
        self._words[_SKIPPED] += 1

    def _turn(self, end: int, size: int) -> int:
        """Return where an entry begins that does not fit behind the last one; -1: nowhere.

        There after all, if the ring has grown, else in a new lap.
        """
        words = self._words
        self._room = room = min(words[_ROOM], self._most)
        if end <= room:
            return self._at
        if (size + 15 & -8) > room:
            return -1
        words[_END] = self._at
        words[_LAPS] += 1
        words[_UNTIL] = 0
        self._at = words[_AT] = 0
        if not ORDERED:
            fence()
        return 0

    def _check_rate(self) -> None:
        now = time.monotonic_ns()
        if now - self._since_ns < _SHORTEST_NS:
            self._words[_ON] = 0
            self._on_pause()
        self._left = _COUNTED
        self._since_ns = now


class OverwritingRing:
    """The owner of a ring, which makes it and gives it memory."""

    def __init__(self, path: str, room: int, most: int) -> None:
        """Make a ring of ``room`` bytes that may grow up to ``most``; raises ``OSError`` without memory."""
        self.room = room & -mmap.PAGESIZE
        self._path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, max(most, room) & -mmap.PAGESIZE)
            os.posix_fallocate(fd, 0, self.room)  # a full /dev/shm is an error here, and no SIGBUS
            self._words = memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)  # a dataflow of many nodes has many rings
        self._words[_ROOM] = self.room - _HEAD
        self._words[_ON] = 1

    @property
    def is_paused(self) -> bool:
        """Whether the writer has stopped because it had too much to write."""
        return not self._words[_ON]

    def needs_room(self, expected: int) -> bool:
        """Whether its lap ends with so many bytes more, or it has no room for an entry that came."""
        words = self._words
        at = words[_AT]
        return at + expected > words[_ROOM] or bool(words[_SKIPPED] and not at)

    @property
    def filled(self) -> int:
        """The bytes that were written in this lap."""
        return self._words[_AT]

    @property
    def laps(self) -> int:
        """How often the writer has begun anew at the start."""
        return self._words[_LAPS]

    @property
    def is_used(self) -> bool:
        """Whether anything was written, or would have been with more room."""
        return bool(self._words[_AT] or self._words[_LAPS] or self._words[_SKIPPED])

    def grow(self, room: int) -> bool:
        """Allow the ring to take ``room`` bytes from the end of its lap on.

        Return False if there is no memory for it.
        """
        room &= -mmap.PAGESIZE
        try:
            fd = open_own(self._path, os.O_RDWR)
        except (OSError, UnsafeFile):
            return False
        try:
            if os.fstat(fd).st_size < room:
                return False
            os.posix_fallocate(fd, 0, room)
        except OSError:
            return False
        finally:
            os.close(fd)
        self.room = room
        self._words[_ROOM] = room - _HEAD  # after its memory is there: the writer would get a SIGBUS
        return True


def read_ring(path: str) -> list[bytes]:
    """Return the entries of a ring, oldest first; raises ``OSError``, `UnsafeFile`.

    An entry that is being written, or overwritten, is left out.
    """
    fd = open_own(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        if size <= _HEAD:
            return []
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as memory:
            for _ in range(_ATTEMPTS):
                head = _words(memory)
                room = min(head[_ROOM], size - _HEAD)
                data = memory[_HEAD : _HEAD + room]
                after = _words(memory)
                if after[_LAPS] == head[_LAPS]:
                    break
    finally:
        os.close(fd)
    if after[_LAPS] != head[_LAPS]:
        return []  # a lap began at each attempt: nobody knows any more where the entries lie
    newest = min(head[_AT], len(data))
    found = _walk(data, newest, 0)
    if head[_LAPS]:
        intact = max(newest, after[_AT], after[_UNTIL])
        found += _walk(data, min(head[_END], len(data)), intact)
    found.reverse()
    return found


def skipped(path: str) -> int:
    """Return how many large entries a ring has skipped."""
    try:
        fd = open_own(path, os.O_RDONLY)
    except (OSError, UnsafeFile):
        return 0
    try:
        return int.from_bytes(os.pread(fd, 8, _SKIPPED * 8), "little")
    finally:
        os.close(fd)


def _words(memory: mmap.mmap) -> list[int]:
    return memoryview(memory[:_HEAD]).cast("Q").tolist()


def _walk(data: bytes, end: int, begin: int) -> list[bytes]:
    """Return the entries that end at ``end`` and before, and begin at ``begin`` or later, newest first."""
    found = []
    while end - 8 > begin:
        size = int.from_bytes(data[end - 8 : end], "little")
        start = end - (size + 15 & -8)
        if start < begin or not size:
            break
        found.append(data[start : start + size])
        end = start
    return found
