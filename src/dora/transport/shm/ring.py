"""The ring: one sender passes blocks of memory to one receiver, and gets them back.

The ring has one slot more than the queue is long. A slot has two semaphores, ``FULL`` and ``FREE``, and a
few words. At any time the slot belongs to exactly one side:

=====================================  =============================================================
the slot belongs to                    from
=====================================  =============================================================
the sender                             the beginning, or the moment it takes ``FREE`` or ``FULL``
the first to take ``FULL``: receiver,  ``FULL`` is posted by the sender, which has written the words
or sender, which drops the message
the receiver                           the moment it takes ``FULL``, until it posts ``FREE``
the sender                             ``FREE`` is posted by the receiver
=====================================  =============================================================

A semaphore is posted only by the side that owns the slot, and has the value 0 then; so a slot never has two
owners. Its words, and the block that they name, are read and written by the owner only. As posting and
taking synchronise memory (`dora.transport.shm.semaphores`), neither side ever sees a half-written message,
on any processor.

Each message has a *position*, usually one more than the one before; it lies in the slot
``position % slots``. The sender drops the oldest message before it appends one to a full queue. If the
receiver owns the slot whose turn it is, the sender skips positions up to the next slot that it owns itself.
Nobody waits for anybody: a process that is killed or stopped while it owns a slot costs the other one this
slot.

``HEAD`` is where the sender will write next. It tells the receiver how far to look, and nothing else
depends on it: read too early, it makes the receiver look at a slot that has no message yet.

A receiver may *hold* a block: it writes the number of a *cell* into the slot, and posts ``FREE`` for the
slot at once, and ``RETURNED`` of the cell when it needs the block no more. Only the sender knows which
blocks are where; so it takes all of them back if the receiver dies.

`tests/transport/test_ring_model.py` explores all interleavings of both sides, with a kill at each step,
in a memory that shows old values as long as it may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from dora.transport.shm.semaphores import SIZE, Post, Semaphore, Take, initialise

MAX_HELD: Final = 32  # blocks that a receiver may hold

# Words of the ring.
VERSION, SLOTS, HEAD = 0, 1, 16
_VERSION: Final = int.from_bytes(b"dora\0\0\0\1", "little")
_HEADER_BYTES: Final = 256  # HEAD, which the sender writes all the time, is on a cache line of its own
# Words of a slot, after its two semaphores.
SLOT_BYTES: Final = 128
_SLOT_WORDS: Final = SLOT_BYTES // 8
FIRST: Final = _HEADER_BYTES // 8 + 2 * SIZE // 8  # the first word of the first slot
POSITION, BLOCK, CELL = 0, 1, 2
_ROUNDS: Final = 16

B = TypeVar("B")


class Words(Protocol):
    """The words of a ring: a `memoryview` of unsigned 64-bit integers."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class WrongVersion(Exception):
    """The file is not a ring of this version."""


class RingMemory:
    """The words of a ring, and its semaphores: of the slots, of the slots, of the cells."""

    def __init__(
        self,
        words: Words,
        full: list[Semaphore],
        free: list[Semaphore],
        returned: list[Semaphore],
    ) -> None:
        self.words = words
        self.full = full
        self.free = free
        self.returned = returned


def ring_bytes(queue_size: int) -> int:
    """Return the size of a ring in bytes."""
    return _HEADER_BYTES + (queue_size + 1) * SLOT_BYTES + MAX_HELD * SIZE


def make_ring(view: memoryview, address: int, queue_size: int) -> RingMemory:
    """Make a ring in zeroed memory."""
    slots = queue_size + 1
    for offset in _offsets(slots):
        initialise(address + offset)
    words = view.cast("Q")
    words[SLOTS] = slots
    words[VERSION] = _VERSION
    return _memory(words, address, slots)


def open_ring(view: memoryview, address: int) -> RingMemory:
    """Use a ring that another process has made; raises `WrongVersion`."""
    if len(view) < _HEADER_BYTES or len(view) % 8:
        raise WrongVersion
    words = view.cast("Q")
    slots = words[SLOTS]
    if words[VERSION] != _VERSION or ring_bytes(slots - 1) > len(view):
        raise WrongVersion
    return _memory(words, address, slots)


def _offsets(slots: int) -> list[int]:
    """Return where the semaphores are: of the slots in turn, ``FULL`` and ``FREE``, and of the cells."""
    end = _HEADER_BYTES + slots * SLOT_BYTES
    starts = range(_HEADER_BYTES, end, SLOT_BYTES)
    return [
        *(start + more for start in starts for more in (0, SIZE)),
        *range(end, end + MAX_HELD * SIZE, SIZE),
    ]


def _memory(words: memoryview, address: int, slots: int) -> RingMemory:
    semaphores = [Semaphore(address + offset) for offset in _offsets(slots)]
    return RingMemory(
        words, semaphores[: 2 * slots : 2], semaphores[1 : 2 * slots : 2], semaphores[2 * slots :]
    )


class RingWriter(Generic[B]):
    """The sender's side. Not for use by several threads at once."""

    def __init__(self, memory: RingMemory, release: Callable[[B], None]) -> None:
        """``release`` is called with each block that comes back, or was dropped."""
        self._words = memory.words
        self._post_full: list[Post] = [each.post for each in memory.full]
        self._take_full: list[Take] = [each.take for each in memory.full]
        self._take_free: list[Take] = [each.take for each in memory.free]
        self._take_returned: list[Take] = [each.take for each in memory.returned]
        self._slots = len(memory.full)
        self._queue_size = self._slots - 1
        self._release = release
        self._out: deque[int] = deque()  # slots that are not ours, in the order of their messages
        self._blocks: list[B | None] = [None] * self._slots  # of these slots
        self._numbers = [0] * self._slots  # of their messages
        self._held: dict[int, B] = {}  # cell → block
        self._number = 0  # of the next message
        self._position = 0  # of the next message

    def push(self, block: B, code: int) -> bool:
        """Append a block; ``code`` is what the receiver gets. The oldest one of a full queue is dropped.

        Returns False, and leaves the block to the caller, if the receiver has lost slots: a signal handler
        of its program has raised an exception while it had one in hand.
        """
        out, slots, position = self._out, self._slots, self._position
        if len(out) >= self._queue_size:
            self._make_room()
        slot = position % slots
        if self._blocks[slot] is not None:
            # The receiver has one slot in hand at a time, but may change from one to another meanwhile.
            # A slot that it leaves stays left, so a few rounds are enough.
            for _ in range(_ROUNDS):
                if len(out) < slots:
                    break
                self._make_room()
            else:
                return False
            while self._blocks[slot] is not None:
                position += 1
                slot = position % slots
        words = self._words
        word = FIRST + slot * _SLOT_WORDS
        words[word] = position
        words[word + BLOCK] = code
        self._blocks[slot] = block
        self._numbers[slot] = self._number
        out.append(slot)
        self._post_full[slot]()
        self._number += 1
        self._position = position = position + 1
        words[HEAD] = position
        return True

    def reclaim(self) -> None:
        """Take back what the receiver has given back."""
        out = self._out
        while out and self._take_free[out[0]](False):
            self._account_for(out.popleft())
        for cell in tuple(self._held):
            if self._take_returned[cell](False):
                self._release(self._held.pop(cell))

    def end(self) -> None:
        """Take back everything, except what a receiver that lives still has."""
        self._clear(self._number)
        self.reclaim()

    @property
    def is_out(self) -> bool:
        """Whether the receiver has a block."""
        return bool(self._held or self._out)

    def take_all(self) -> None:
        """Take back everything: the receiver is dead."""
        for slot in self._out:
            self._release(self._taken_from(slot))
        self._out.clear()
        for block in self._held.values():
            self._release(block)
        self._held.clear()

    def _make_room(self) -> None:
        """Take slots back so that the queue has room for one more message, unless they are in hand."""
        self._clear(self._number - self._queue_size)

    def _clear(self, last: int) -> None:
        """Take back the slots of the messages up to this number; drop those that were not received."""
        out, index = self._out, 0
        while index < len(out) and self._numbers[slot := out[index]] <= last:
            if self._take_free[slot](False):
                # The receiver gives back in the order of the messages. An older slot may have been in hand
                # a moment ago; it is accounted for first: this one may use the same cell again.
                for older in [out[each] for each in range(index)]:
                    if self._take_free[older](False):
                        out.remove(older)
                        self._account_for(older)
                out.remove(slot)
                self._account_for(slot)
                index = 0
            elif self._take_full[slot](False):
                del out[index]
                self._release(self._taken_from(slot))
            else:
                index += 1

    def _taken_from(self, slot: int) -> B:
        block, self._blocks[slot] = self._blocks[slot], None
        assert block is not None
        return block

    def _account_for(self, slot: int) -> None:
        """Account for the block of a slot that the receiver has given back."""
        block = self._taken_from(slot)
        word = FIRST + slot * _SLOT_WORDS + CELL
        cell = self._words[word] - 1
        if cell < 0:
            self._release(block)
            return
        self._words[word] = 0
        if cell in self._held:
            # The receiver returned the block of this cell before it used the cell again.
            is_returned = self._take_returned[cell](False)
            assert is_returned
            self._release(self._held.pop(cell))
        self._held[cell] = block


class RingReader:
    """The receiver's side. Not for use by several threads at once, except `return_cell`."""

    def __init__(self, memory: RingMemory) -> None:
        self.words = memory.words
        self._take_full: list[Take] = [each.take for each in memory.full]
        self._post_full: list[Post] = [each.post for each in memory.full]
        self._is_empty = [each.is_zero for each in memory.full]
        self.post_free: list[Post] = [each.post for each in memory.free]  # gives a slot back
        self._post_returned: list[Post] = [each.post for each in memory.returned]
        self._slots = len(memory.full)
        self._next = 0  # the position after the last message
        self.cells = list(range(len(memory.returned)))  # that hold no block

    def take(self) -> int:
        """Take the oldest message: return the first word of its slot, or -1 if there is none.

        The slot is the caller's. It reads the block from it, and then calls `give_back`.
        """
        words = self.words
        position = self._next
        head = words[HEAD]
        if head <= position:
            return -1
        slots = self._slots
        for at in range(max(position, head - slots), head):
            slot = at % slots
            if self._take_full[slot](False):
                word = FIRST + slot * _SLOT_WORDS
                found = words[word]
                if found == position:
                    self._next = found + 1
                    return word
                return self._take_oldest(slot)
        return -1

    def _take_oldest(self, slot: int) -> int:
        """Take the oldest message instead of the one in a slot that is ours, if there is an older one."""
        words = self.words
        while True:
            word = FIRST + slot * _SLOT_WORDS
            found = words[word]
            older = self._older(found, slot)
            if older < 0:
                self._next = found + 1
                return word
            # Back first: with two slots in hand, the sender might find none.
            self._post_full[slot]()
            if not self._take_full[older](False):  # the sender has just dropped it
                return self.take()
            slot = older

    def _older(self, found: int, mine: int) -> int:
        """Return the slot with the oldest message before a position that is ours, -1 if there is none.

        All that was posted before the message that is ours is known here. A slot whose position is higher
        was written since, so its older message is gone; and a slot that is empty has none.
        """
        words, slots = self.words, self._slots
        oldest, result = found, -1
        for at in range(max(self._next, found - slots + 1), found):
            slot = at % slots
            if slot != mine and not self._is_empty[slot]():
                position = words[FIRST + slot * _SLOT_WORDS]
                if position < oldest:
                    oldest, result = position, slot
        return result

    def give_back(self, word: int, cell: int = -1) -> None:
        """Give a slot back; ``cell``: and hold its block in this cell, until `return_cell`."""
        if cell >= 0:
            self.words[word + CELL] = cell + 1
        self.post_free[(word - FIRST) // _SLOT_WORDS]()

    def return_cell(self, cell: int) -> None:
        """Give back the block that a cell holds; the cell is free then."""
        self._post_returned[cell]()
        self.cells.append(cell)

    def has_messages(self) -> bool:
        head = self.words[HEAD]
        if head <= self._next:
            return False
        slots = self._slots
        return any(not self._is_empty[at % slots]() for at in range(max(self._next, head - slots), head))
