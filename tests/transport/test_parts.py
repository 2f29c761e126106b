"""Messages that go to other machines in parts."""

from __future__ import annotations

import os
import random

import pytest
import zenoh

from dora.transport.network.fragments import PART, FragmentedMessage, Reassembler


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART, 3 * PART + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_message_is_the_same_when_it_was_put_together(size: int, kind: type[bytes]) -> None:
    message = os.urandom(size)
    parts = FragmentedMessage(kind(message)).parts()
    assert len(parts) == max(1, -(-size // PART))
    assert all(len(part) <= PART for part in parts)
    puzzle = Reassembler()
    found = [
        puzzle.add(1, index, len(parts), part)
        for index, part in random.Random(size).sample(list(enumerate(parts)), len(parts))
    ]
    whole = found.pop()
    assert found == [None] * len(found)
    assert whole is not None
    assert (len(whole), whole.to_bytes()) == (size, message)


def test_several_messages_may_be_under_way() -> None:
    puzzle, one, other = Reassembler(), zenoh.ZBytes(b"one"), zenoh.ZBytes(b"other")
    assert puzzle.add(1, 0, 2, one) is None
    assert puzzle.add(2, 1, 2, other) is None
    assert puzzle.add(1, 0, 2, one) is None  # sent once more
    first, second = puzzle.add(1, 1, 2, other), puzzle.add(2, 0, 2, one)
    assert first is not None and first.to_bytes() == b"oneother"
    assert second is not None and second.to_bytes() == b"oneother"


def test_parts_of_what_arrived_otherwise_are_forgotten() -> None:
    puzzle, part = Reassembler(), zenoh.ZBytes(b"part")
    puzzle.add(1, 0, 2, part)
    puzzle.add(2, 0, 2, part)
    puzzle.forget(1)
    assert puzzle.add(1, 1, 2, part) is None
    assert puzzle.add(2, 1, 2, part) is not None


@pytest.mark.parametrize("parts_first", [False, True])
def test_what_was_sent_does_not_change_with_the_memory_it_was_in(parts_first: bool) -> None:
    memory = bytearray(b"x" * (PART + 1))
    message = FragmentedMessage(memory)
    if parts_first:
        message.parts()
    message.settle()
    memory[:] = b"y" * len(memory)
    assert message.whole().to_bytes() == b"x" * len(memory)
    assert b"".join(part.to_bytes() for part in message.parts()) == b"x" * len(memory)
