"""Messages that go to other machines in fragments."""

from __future__ import annotations

import os
import random

import pytest
import zenoh

from dora.transport.network.fragments import FRAGMENT_BYTES, FragmentedMessage, Reassembler

SIZES = [0, 1, FRAGMENT_BYTES, FRAGMENT_BYTES + 1, 3 * FRAGMENT_BYTES, 3 * FRAGMENT_BYTES + 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_reassembled_message_is_the_original(size: int, kind: type[bytes]) -> None:
    message = os.urandom(size)
    fragments = FragmentedMessage(kind(message)).fragments()
    assert len(fragments) == max(1, -(-size // FRAGMENT_BYTES))
    assert all(len(fragment) <= FRAGMENT_BYTES for fragment in fragments)
    reassembler = Reassembler()
    results = [
        reassembler.add(1, index, len(fragments), fragment)
        for index, fragment in random.Random(size).sample(list(enumerate(fragments)), len(fragments))
    ]
    reassembled = results.pop()
    assert results == [None] * len(results)
    assert reassembled is not None
    assert (len(reassembled), reassembled.to_bytes()) == (size, message)


def test_several_messages_may_be_in_flight() -> None:
    reassembler, one, other = Reassembler(), zenoh.ZBytes(b"one"), zenoh.ZBytes(b"other")
    assert reassembler.add(1, 0, 2, one) is None
    assert reassembler.add(2, 1, 2, other) is None
    assert reassembler.add(1, 0, 2, one) is None  # retransmitted
    first, second = reassembler.add(1, 1, 2, other), reassembler.add(2, 0, 2, one)
    assert first is not None and first.to_bytes() == b"oneother"
    assert second is not None and second.to_bytes() == b"oneother"


def test_fragments_of_messages_that_arrived_otherwise_are_discarded() -> None:
    reassembler, fragment = Reassembler(), zenoh.ZBytes(b"fragment")
    reassembler.add(1, 0, 2, fragment)
    reassembler.add(2, 0, 2, fragment)
    reassembler.forget(1)
    assert reassembler.add(1, 1, 2, fragment) is None
    assert reassembler.add(2, 1, 2, fragment) is not None


@pytest.mark.parametrize("fragments_first", [False, True])
def test_a_detached_message_does_not_change_with_its_memory(fragments_first: bool) -> None:
    memory = bytearray(b"x" * (FRAGMENT_BYTES + 1))
    message = FragmentedMessage(memory)
    if fragments_first:
        message.fragments()
    message.detach()
    memory[:] = b"y" * len(memory)
    assert message.zbytes().to_bytes() == b"x" * len(memory)
    assert b"".join(fragment.to_bytes() for fragment in message.fragments()) == b"x" * len(memory)
