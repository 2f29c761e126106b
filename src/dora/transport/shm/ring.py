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
taking synchronise memory (`dora.transport.semaphores`), neither side ever sees a half-written message,
on any processor.

Each message has a *position*, usually one more than the one before; it lies in the slot
``position % slots``. The sender drops the oldest message before it appends one to a full queue. If the
receiver owns the slot whose turn it is, the sender skips positions up to the next slot that it owns itself.
Nobody waits for anybody: a process that is killed or stopped while it owns a slot costs the other one this
slot.

``HEAD`` is where the sender will write next. It tells the receiver how far to look, and nothing else
depends on it: read too early, it makes the receiver look at a slot that has no message yet.

A receiver may *hold* a block: it writes the number of a *cell* into the word ``CELL`` of the slot, and
posts ``FREE`` for the slot at once, and ``RETURNED`` of the cell when it needs the block no more. Only the
sender knows which blocks are where; so it takes all of them back if the receiver dies.

A signal handler of the program may raise an exception in the middle of all this. CPython runs handlers
after calls, and at the beginning of functions. So no call is between the moment at which a slot becomes
ours and the assignment that remembers it: a semaphore is taken by going on with an iterator (`_tries`).
`RingReader.put_back` and `RingWriter.recover` then finish what was interrupted.

`tests/transport/test_ring_model.py` explores all interleavings of both sides, with a kill or an exception
at each step, in a memory that shows old values as long as it may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Final, Generic, Protocol, TypeVar

from dora.transport.semaphores import SIZE, Post, Semaphore, initialise

MAX_HELD: Final = 32  # blocks that a receiver may hold; it copies further messages

# Words of the ring.
VERSION, SLOTS, HEAD = 0, 1, 16
_VERSION: Final = int.from_bytes(b"dora\0\0\0\1", "little")
_HEADER_BYTES: Final = 256  # HEAD, which the sender writes all the time, is on a cache line of its own
# Words of a slot, after its two semaphores.
SLOT_BYTES: Final = 128
_SLOT_WORDS: Final = SLOT_BYTES // 8
FIRST: Final = _HEADER_BYTES // 8 + 2 * SIZE // 8  # the first word of the first slot
POSITION, BLOCK, CELL = 0, 1, 2
_ROUNDS: Final = 16  # to make room for one message, see `RingWriter.push`

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
    if words[VERSION] != _VERSION or slots < 2 or ring_bytes(slots - 1) > len(view):
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


def _tries(semaphores: Iterable[Semaphore]) -> list[Iterator[bool]]:
    """Return an iterator for each semaphore: each step tries to take it, and tells whether it did."""
    return [map(each.take, repeat(False)) for each in semaphores]


class RingWriter(Generic[B]):
    """The sender's side. Not for use by several threads at once."""

    def __init__(self, memory: RingMemory, release: Callable[[B], None]) -> None:
        """``release`` is called with each block that comes back, or was dropped."""
        self._words = memory.words
        self._post_full: list[Post] = [each.post for each in memory.full]
        self._try_full = _tries(memory.full)
        self._try_free = _tries(memory.free)
        self._try_returned = _tries(memory.returned)
        self._slots = len(memory.full)
        self._queue_size = self._slots - 1
        self._release = release
        self._out: deque[int] = deque()  # slots that are not ours, in the order of their messages
        self._blocks: list[B | None] = [None] * self._slots  # of these slots
        self._numbers = [0] * self._slots  # of their messages
        self._back = [False] * self._slots  # ``FREE`` was taken, and nothing else was done yet
        self._held: dict[int, B] = {}  # cell → block
        self._number = 0  # of the next message
        self._position = 0  # of the next message

    def push(self, block: B, code: int) -> bool:
        """Append a block; ``code`` is what the receiver gets. The oldest one of a full queue is dropped.

        Returns False, and leaves the block to the caller, if the receiver has all slots in hand: it does
        not keep the rules.
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
        self._position = position = position + 1
        words[HEAD] = position
        # No call before the slot is passed on: it is out if, and only if, it has a block.
        self._numbers[slot] = self._number
        self._number += 1
        self._blocks[slot] = block
        self._post_full[slot]()
        out.append(slot)
        return True

    def reclaim(self) -> None:
        """Take back what the receiver has given back."""
        out, back, blocks = self._out, self._back, self._blocks
        while out:
            slot = out[0]
            for taken in self._try_free[slot]:
                back[slot] = taken
                break
            if not taken:
                break
            del out[0]
            if self._words[FIRST + slot * _SLOT_WORDS + CELL]:
                self._account_for(slot)
            else:  # as there, without a call, for most messages
                block = blocks[slot]
                assert block is not None
                blocks[slot], back[slot] = None, False
                self._release(block)
        held = self._held
        for cell in tuple(held):
            for taken in self._try_returned[cell]:
                if taken:
                    block = held[cell]
                    del held[cell]
                    self._release(block)
                break

    def recover(self) -> None:
        """Put this account in order after an exception in the middle of any method."""
        out = [slot for slot, block in enumerate(self._blocks) if block is not None]
        out.sort(key=self._numbers.__getitem__)
        self._out.clear()
        self._out.extend(out)
        for slot in out:
            if self._is_back(slot):
                self._out.remove(slot)
                self._account_for(slot)

    def blocks(self) -> list[B]:
        """Return the blocks that the receiver may read."""
        return [*(block for block in self._blocks if block is not None), *self._held.values()]

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
        for block in self.blocks():
            self._release(block)
        self._blocks = [None] * self._slots
        self._out.clear()
        self._held.clear()

    def _make_room(self) -> None:
        """Take slots back so that the queue has room for one more message, unless they are in hand."""
        self._clear(self._number - self._queue_size)

    def _clear(self, last: int) -> None:
        """Take back the slots of the messages up to this number; drop those that were not received."""
        out, index = self._out, 0
        while index < len(out) and self._numbers[slot := out[index]] <= last:
            if self._is_back(slot):
                # The receiver gives back in the order of the messages. An older slot may have been in hand
                # a moment ago; it is accounted for first: this one may use the same cell again.
                for older in [out[each] for each in range(index)]:
                    if self._is_back(older):
                        out.remove(older)
                        self._account_for(older)
                out.remove(slot)
                self._account_for(slot)
                index = 0
                continue
            for taken in self._try_full[slot]:
                if taken:
                    dropped, self._blocks[slot] = self._blocks[slot], None
                    del out[index]
                    assert dropped is not None
                    self._release(dropped)
                else:
                    index += 1
                break

    def _is_back(self, slot: int) -> bool:
        """Take ``FREE`` of a slot if the receiver has given it back; return whether it has."""
        if not self._back[slot]:
            for taken in self._try_free[slot]:
                self._back[slot] = taken
                break
        return self._back[slot]

    def _account_for(self, slot: int) -> None:
        """Account for the block of a slot that the receiver has given back."""
        word = FIRST + slot * _SLOT_WORDS + CELL
        cell, held = self._words[word] - 1, self._held
        block = back = self._blocks[slot]
        assert block is not None
        if cell >= 0:
            back = None
            if cell in held:
                # The receiver returned the block of this cell before it used the cell again.
                for is_returned in self._try_returned[cell]:
                    assert is_returned
                    back = held[cell]
                    break
            held[cell] = block
            self._words[word] = 0
        self._blocks[slot] = None
        self._back[slot] = False
        if back is not None:
            self._release(back)


class RingReader:
    """The receiver's side. Not for use by several threads at once, except `return_cell`."""

    def __init__(self, memory: RingMemory) -> None:
        self.words = memory.words
        self._try_full = _tries(memory.full)
        self._post_full: list[Post] = [each.post for each in memory.full]
        self._is_empty = [each.is_zero for each in memory.full]
        self.post_free: list[Post] = [each.post for each in memory.free]  # gives a slot back
        self._post_returned: list[Post] = [each.post for each in memory.returned]
        self._slots = len(memory.full)
        self._next = 0  # the position after the last message
        self._hand = -1  # the first word of the slot that is ours
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
            for taken in self._try_full[slot]:
                if not taken:
                    break
                self._hand = word = FIRST + slot * _SLOT_WORDS
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
            self._hand = -1
            self._post_full[slot]()
            for taken in self._try_full[older]:
                if not taken:  # the sender has just dropped it
                    return self.take()
                self._hand = FIRST + older * _SLOT_WORDS
                break
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

    def give_back(self, word: int) -> None:
        """Give a slot back."""
        self._hand = -1
        self.post_free[(word - FIRST) // _SLOT_WORDS]()

    def put_back(self) -> None:
        """Undo `take` after an exception in the middle of it, or before `give_back`.

        The message is the next one again. If the program holds its block, it is lost.
        """
        word = self._hand
        if word < 0:
            return
        if self.words[word + CELL]:
            self.give_back(word)
        else:
            self._next = self.words[word]
            slot = (word - FIRST) // _SLOT_WORDS
            self._hand = -1
            self._post_full[slot]()

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
