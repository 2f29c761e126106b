"""Encrypted records of one connection: what is sent comes out, and nothing else does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.transport.bypass import LARGEST
from dora.transport.sealing import SealedSocket, Sealer
from dora.wire.gateway_frame import HEADER

KEY = bytes(range(32))
HEAD = bytes(HEADER.size)


def records(bodies: list[bytes]) -> list[bytes]:
    sealer, sealed = Sealer(KEY), []
    for body in bodies:
        sealed.append(b"".join(sealer.seal(HEAD, body)))
        sealer.number += 1
    return sealed


class Pair:
    """The receiving end of a connection, and the other end, which takes any bytes."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        near.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.sealed = SealedSocket(near, KEY)

    def take(self, size: int = 1 << 20) -> bytes:
        """Return all that has come, taken in pieces of this size."""
        taken, target = b"", memoryview(bytearray(size))
        try:
            while count := self.sealed.recv_into(target):
                taken += bytes(target[:count])
        except BlockingIOError:
            pass
        return taken

    def close(self) -> None:
        self.far.close()
        self.sealed.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.mark.lengthy
@given(
    st.lists(st.sampled_from([0, 1, 100, 5_000, 20_000]), min_size=1, max_size=6),
    st.lists(st.integers(1, 9_000), min_size=1, max_size=6),
    st.integers(1, 9_000),
)
def test_all_that_is_sent_comes_out_however_it_is_cut(
    sizes: list[int], cuts: list[int], taken: int
) -> None:
    pair, bodies = Pair(), [os.urandom(size) for size in sizes]
    data, found, index = b"".join(records(bodies)), b"", 0
    while data:
        cut = cuts[index % len(cuts)]
        index += 1
        pair.far.sendall(data[:cut])
        data = data[cut:]
        found += pair.take(taken)
    assert found == b"".join(HEAD + body for body in bodies)
    pair.close()


def test_the_longest_message_has_a_record(pair: Pair) -> None:
    (record,) = records([bytes(LARGEST)])
    pair.far.sendall(record)
    assert pair.take() == HEAD + bytes(LARGEST)


def test_the_end_of_the_connection_is_an_end(pair: Pair) -> None:
    pair.far.sendall(records([b"first", b"second"])[0][:-1])
    pair.far.close()
    assert pair.take() == b"", "there is half a record"
    assert pair.sealed.recv_into(memoryview(bytearray(10))) == 0


FIRST, SECOND, THIRD = records([b"first", b"second", b"third"])
FORGERIES: dict[str, Callable[[], bytes]] = {
    "changed": lambda: FIRST[:-20] + bytes([FIRST[-20] ^ 1]) + FIRST[-19:],
    "with another tag": lambda: FIRST[:-1] + bytes([FIRST[-1] ^ 1]),
    "left out": lambda: SECOND,
    "repeated": lambda: FIRST + FIRST,
    "moved": lambda: FIRST + THIRD + SECOND,
    "with another key": lambda: b"".join(Sealer(bytes(32)).seal(HEAD, b"first")),
    "shorter than its tag": lambda: b"\x03\0\0\0abc",
    "too long": lambda: b"\xff\xff\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_record_is_refused(pair: Pair, forgery: str) -> None:
    pair.far.sendall(FORGERIES[forgery]())
    with pytest.raises(ValueError, match="record"):
        pair.take()


def test_a_record_that_was_not_sent_uses_up_no_number(pair: Pair) -> None:
    sealer = Sealer(KEY)
    sealer.seal(HEAD, b"the system had no room")
    pair.far.sendall(b"".join(sealer.seal(HEAD, b"later")))
    assert pair.take() == HEAD + b"later"
