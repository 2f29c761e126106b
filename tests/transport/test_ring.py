"""What a receiver finds in a ring whose messages do not lie one behind the other.

`test_ring_model` explores everything that a few messages may meet; this takes a few more.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest

from dora.transport.shm.ring import (
    BLOCK,
    CELL,
    HEAD,
    RingMemory,
    RingReader,
    RingWriter,
    make_ring,
    ring_bytes,
)


class Killed(BaseException):
    pass


@pytest.fixture
def memory() -> Iterator[RingMemory]:
    """A ring for two messages."""
    mapping = mmap.mmap(-1, ring_bytes(2))
    view = memoryview(mapping)
    yield make_ring(view, ctypes.addressof(ctypes.c_char.from_buffer(mapping)), 2)


def send_with_a_slot_in_hand(memory: RingMemory) -> tuple[RingWriter[int], RingReader]:
    """Send 1 to 3, of which the receiver has the first in hand: so the sender skips its position."""
    writer, reader = RingWriter[int](memory, lambda _: None), RingReader(memory)
    for number in (1, 2):
        assert writer.push(number, number)
    in_hand = reader.take()
    assert memory.words[in_hand + BLOCK] == 1
    assert writer.push(3, 3)
    return writer, reader


def taken(reader: RingReader) -> int:
    """Take the next message and give it back; return its number, 0 if there is none."""
    word = reader.take()
    if word < 0:
        return 0
    number = reader.words[word + BLOCK]
    reader.give_back(word)
    return number


def test_a_message_is_found_although_its_sender_was_killed_while_it_appended_another_one(
    memory: RingMemory,
) -> None:
    writer, reader = send_with_a_slot_in_hand(memory)

    def post() -> None:
        raise Killed

    writer._post_full = [post] * 3
    with pytest.raises(Killed):
        writer.push(4, 4)
    reader.give_back(reader._hand)
    assert reader.has_messages()
    assert taken(reader) == 3
    assert not reader.has_messages()
    assert taken(reader) == 0


def test_the_oldest_message_comes_first_also_if_the_receiver_sees_an_old_end_of_the_queue(
    memory: RingMemory,
) -> None:
    writer, reader = send_with_a_slot_in_hand(memory)
    seen = memory.words[HEAD]
    assert writer.push(4, 4), "in the place of 2"
    end, memory.words[HEAD] = memory.words[HEAD], seen
    reader.give_back(reader._hand)
    assert taken(reader) == 3
    memory.words[HEAD] = end
    assert taken(reader) == 4
    assert taken(reader) == 0


def test_a_message_that_the_program_holds_is_not_put_back(memory: RingMemory) -> None:
    """A signal handler raises an exception before its slot is given back."""
    released: list[int] = []
    writer, reader = RingWriter[int](memory, released.append), RingReader(memory)
    writer.push(1, 1)
    word = reader.take()
    cell = reader.cells.pop()
    memory.words[word + CELL] = cell + 1
    reader.put_back()
    assert taken(reader) == 0
    writer.reclaim()
    assert (writer.blocks(), released) == ([1], [])
    reader.return_cell(cell)
    writer.reclaim()
    assert (writer.blocks(), released) == ([], [1])


def test_a_receiver_that_keeps_all_slots_gets_no_message_until_it_gives_one_back(
    memory: RingMemory,
) -> None:
    writer, reader = RingWriter[int](memory, lambda _: None), RingReader(memory)
    words = []
    for number in (1, 2, 3):
        assert writer.push(number, number)
        words.append(reader.take())
    assert not writer.push(4, 4)
    assert writer.blocks() == [1, 2, 3]
    reader.give_back(words[1])
    assert writer.push(5, 5)
    assert taken(reader) == 5
