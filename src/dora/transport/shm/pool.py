"""The memory of one output: blocks in files, which messages are written to and read from where they lie.

Blocks have sizes in steps of at most an eighth, so that a message wastes little. A file, called a segment,
has several small blocks or one large one. A block that comes back is used again first, because the
processor's cache still has it. Blocks that were idle for a while are freed: memory follows use.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from typing import Final

from dora.errors import SharedMemoryFull, TransportError
from dora.transport.mapping import Mapping, make
from dora.transport.shm.room import RESERVE, free_bytes, full, is_short, missing
from dora.wire.message import ALIGNMENT

SMALL: Final = 8192  # bytes of the smallest block
_SEGMENT: Final = 1 << 18  # bytes of the largest segment with several blocks
_FEWEST: Final = 4  # small blocks of the first segment
_IDLE_AFTER: Final = 256  # about so many messages later, blocks that were idle all the time are freed
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def block_size(size: int) -> int:
    """Return the size of the block for a message of ``size`` bytes.

    >>> block_size(0), block_size(8193), block_size(100_000), block_size((1 << 20) + 64)
    (8192, 9216, 106496, 1179648)
    """
    if size <= SMALL:
        return SMALL
    step = 1 << ((size - 1).bit_length() - 4)
    return -(-size // step) * step


def code_of(segment: int, offset: int) -> int:
    """Return the number that names a block in a ring: its segment, and where it begins."""
    return segment << 32 | offset // ALIGNMENT


class Segment:
    """A file with blocks of one size."""

    __slots__ = ("blocks", "idle", "mapping", "number", "path")

    def __init__(self, number: int, path: str, mapping: Mapping) -> None:
        self.number = number
        self.path = path
        self.mapping = mapping
        self.blocks: list[Block] = []
        self.idle = 0  # blocks in the pool


class Block:
    """Memory for one message. ``uses``: how many receivers may read it."""

    __slots__ = ("address", "code", "segment", "uses", "view")

    def __init__(self, segment: Segment, number: int, offset: int, size: int) -> None:
        self.segment = segment
        self.address = segment.mapping.address + offset
        self.view = segment.mapping.view[offset : offset + size]
        self.code = code_of(number, offset)
        self.uses = 0


class Pool:
    """The blocks of one output."""

    def __init__(
        self, path: str, output_id: str, reclaim: Callable[[], None], reclaim_from_taps: Callable[[], None]
    ) -> None:
        """``path``: what the paths of the segments begin with. ``reclaim`` lets blocks come back.

        ``reclaim_from_taps`` also lets those come back that wait for observers, which lose them.
        """
        self._path = path
        self._output_id = output_id
        self._reclaim = reclaim
        self._reclaim_from_taps = reclaim_from_taps
        self._made = 0  # segments so far
        self._segments: dict[int, Segment] = {}  # by number, those that are there
        self._idle: dict[int, list[Block]] = {SMALL: []}  # by size; the last one is used first
        self._small = self._idle[SMALL]
        self._total: dict[int, int] = {}  # blocks, by size
        self._fewest: dict[int, int] = {}  # size → the fewest idle blocks since the last `_trim`
        self._before_refill = 0  # small messages until blocks are reclaimed
        self._messages = 0  # since the last `_trim`, about
        self._count = {SMALL: _FEWEST}  # blocks of the next segment

    def take_small(self) -> Block:
        """Return a block of `SMALL` bytes; raises `SharedMemoryFull`."""
        size = SMALL
        if self._before_refill and self._small:
            self._before_refill -= 1
        else:
            size = self._refill(SMALL, SMALL)
            self._before_refill = len(self._small) // 2
        return self._pop(size)

    def take(self, size: int) -> Block:
        """Return a block for ``size`` bytes; raises `SharedMemoryFull`, `TransportError`."""
        if size <= SMALL:
            return self.take_small()
        # Reclaimed each time: the block that came back last is in the cache, and memory stays small.
        return self._pop(self._refill(block_size(size), size))

    def put(self, block: Block) -> None:
        """Take a block back, which nobody uses any more."""
        block.segment.idle += 1
        self._idle[len(block.view)].append(block)

    def release(self, block: Block) -> None:
        """Count down the receivers that may read a block."""
        block.uses -= 1
        if not block.uses:
            block.segment.idle += 1
            self._idle[len(block.view)].append(block)

    def recount(self, used: Counter[Block]) -> None:
        """Count anew which blocks are idle, after an exception in the middle of any method.

        ``used``: how many receivers and loans have a block.
        """
        for idle in self._idle.values():
            idle.clear()
        self._total.clear()
        for segment in self._segments.values():
            segment.idle = 0
            for block in segment.blocks:
                size = len(block.view)
                self._total[size] = self._total.get(size, 0) + 1
                block.uses = used[block]
                if not block.uses:
                    self._idle.setdefault(size, [])
                    self.put(block)
        folder, prefix = os.path.split(self._path)
        files = os.listdir(folder) if os.path.isdir(folder) else []
        mine = {f"{prefix}{number}" for number in self._segments}
        for name in files:
            if name.startswith(prefix) and name not in mine:  # it was being made, or removed
                _remove(f"{folder}/{name}")

    def close(self) -> None:
        """Remove all files. Receivers that have them mapped keep what they have."""
        for number in range(self._made):
            _remove(f"{self._path}{number}")

    def _pop(self, size: int) -> Block:
        idle = self._idle[size]
        block = idle.pop()
        block.segment.idle -= 1
        return block

    def _refill(self, wanted: int, size: int) -> int:
        """Reclaim, and return the size of a block that is idle then: this one, or a larger one."""
        self._reclaim()
        idle = self._idle.get(wanted, ())
        self._fewest[wanted] = min(len(idle), self._fewest.get(wanted, len(idle)))
        # Of small blocks, half of those that are idle are used before the next time.
        self._messages += 1 + (len(idle) // 2 if wanted == SMALL else 0)
        if self._messages >= _IDLE_AFTER:
            self._trim()
        if idle:
            return wanted
        larger = [each for each, idle in self._idle.items() if wanted < each <= 2 * wanted and idle]
        if larger:
            return min(larger)
        if is_short(wanted):  # a slow recorder must not take the memory of the nodes
            self._reclaim_from_taps()
            if self._idle.get(wanted):
                return wanted
        try:
            return self._add_segment(wanted, size)
        except SharedMemoryFull:
            self._fewest.clear()
            self._trim()  # everything that is idle goes
            return self._add_segment(wanted, size)

    def _add_segment(self, wanted: int, size: int) -> int:
        """Make a segment, and return the size of its blocks: ``wanted``, or less if room is short."""
        count = min(self._count.get(wanted, 1), max(1, _SEGMENT // wanted))
        free = free_bytes()
        if free is not None and free < wanted * count + RESERVE:
            wanted, count = max(SMALL, -(-size // ALIGNMENT) * ALIGNMENT), 1
            if free < wanted + RESERVE:
                raise full(self._output_id, size if free < size else size + RESERVE, free)
        length = -(-wanted * count // _PAGE) * _PAGE
        # Never used twice: receivers keep segments mapped, and know them by this number.
        number = self._made
        self._made += 1
        path = f"{self._path}{number}"
        try:
            mapping = make(path, length)
        except (OSError, OverflowError) as error:
            if isinstance(error, FileNotFoundError):
                raise missing(f"output `{self._output_id}`", os.path.dirname(path)) from error
            code = error.errno if isinstance(error, OSError) else errno.EFBIG
            if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise full(self._output_id, size, free_bytes() or 0) from error
            raise TransportError(
                f"output `{self._output_id}`: {path} cannot be made: {os.strerror(code or 0)}"
            ) from error
        segment = Segment(number, path, mapping)
        segment.blocks = [Block(segment, number, at * wanted, wanted) for at in range(count)]
        segment.idle = count
        self._segments[number] = segment
        self._count[wanted] = 2 * count
        self._total[wanted] = self._total.get(wanted, 0) + count
        self._idle.setdefault(wanted, []).extend(segment.blocks)
        return wanted

    def _trim(self) -> None:
        """Free segments that were idle all the time."""
        self._messages = 0
        for size, idle in tuple(self._idle.items()):
            fewest = min(self._fewest.get(size, len(idle)), len(idle))
            # Small blocks are not reclaimed each time: with twice as many as are in use, that is rare.
            spare = max(_FEWEST, self._total.get(SMALL, 0) - fewest) if size == SMALL else 1
            surplus = fewest - (spare if size in self._fewest else 0)
            gone = set()
            for segment in dict.fromkeys(block.segment for block in idle):
                if segment.idle == len(segment.blocks) and segment.idle <= surplus:
                    surplus -= segment.idle
                    gone.add(segment)
            if gone:
                self._count[size] = _FEWEST if size == SMALL else 1
                # Out of use first: a signal handler may raise an exception in between.
                idle[:] = [block for block in idle if block.segment not in gone]
            for segment in gone:
                self._total[size] -= segment.idle
                del self._segments[segment.number]
                _remove(segment.path)
                segment.mapping.free_pages()
                segment.blocks = []  # a circle would keep the mapping until the next garbage collection
        self._fewest.clear()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
