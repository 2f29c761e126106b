"""Frames over a pair of sockets, whole and in pieces."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from dora.gateway.connection import (
    _TCP_NOTSENT_LOWAT,
    LARGE,
    ConnectionEnded,
    RoadConnection,
    prepare_socket,
)
from dora.transport.sealing import SealedSocket, Sealer
from dora.wire.gateway_frame import ACK, DATA, HEADER, TEXT


class Room:
    """Memory for a large body."""

    def __init__(self, size: int) -> None:
        self.memory = memoryview(bytearray(size))
        self.discarded = False

    def discard(self) -> None:
        self.discarded = True


class Pair:
    def __init__(self) -> None:
        near, far = socket.socketpair()
        self.rooms: list[Room] = []
        near.setblocking(False)
        far.setblocking(False)
        self.near = RoadConnection(near, self._room)
        self.far = RoadConnection(far, self._room)

    def _room(self, stream: int, size: int) -> Any:  # noqa: ARG002
        self.rooms.append(Room(size))
        return self.rooms[-1]

    def carry(self) -> list[tuple[int, int, int, int, bytes]]:
        """Write and read until everything has arrived; return the frames with their bodies."""
        found = []
        while True:
            done = self.near.flush()
            for kind, flags, stream, number, body in self.far.read():
                data = body if isinstance(body, bytes) else bytes(body.memory[:number])
                found.append((kind, flags, stream, number, data))
            if done:
                return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.near.close()
    pair.far.close()


@pytest.mark.parametrize("size", [0, 1, 64, LARGE - 1, LARGE, LARGE + 1, 3 << 20])
def test_frames_arrive_in_order_with_their_bodies(pair: Pair, size: int) -> None:
    bodies = [os.urandom(size) for _ in range(5)]
    for index, body in enumerate(bodies):
        pair.near.put(DATA, index, body=body, flags=1)
        pair.near.put(ACK, index, 1 << 60)
    assert pair.carry() == [
        frame
        for index, body in enumerate(bodies)
        for frame in ((DATA, 1, index, size, body), (ACK, 0, index, 1 << 60, b""))
    ]
    assert pair.near.waiting == 0


def test_a_large_body_is_received_in_the_memory_for_it(pair: Pair) -> None:
    pair.near.put(DATA, 3, body=bytes(1 << 20))
    pair.carry()
    assert [len(room.memory) for room in pair.rooms] == [1 << 20]
    assert not pair.rooms[0].discarded


def test_the_memory_for_half_a_body_is_given_back_at_the_end(pair: Pair) -> None:
    pair.near.put(DATA, 3, body=bytes(8 << 20))
    assert not pair.near.flush()
    assert list(pair.far.read()) == []
    assert pair.near.waiting > 0
    pair.far.close()
    assert pair.rooms[0].discarded


def test_a_connection_that_ends_says_so(pair: Pair) -> None:
    pair.near.put(ACK, 1, 2)
    pair.near.flush()
    pair.near.close()
    frames = []
    with pytest.raises(ConnectionEnded) as ended:
        for _ in range(2):  # the frames before the end come first
            frames.extend(pair.far.read())
    assert ended.value.closed_there
    pair.far.close()
    with pytest.raises(ConnectionEnded):
        pair.far.put(ACK, 1, 2)
        pair.far.flush()


def test_a_frame_that_claims_too_much_ends_the_connection(pair: Pair) -> None:
    pair.near.socket.send(HEADER.pack(DATA, 0, 1, 1 << 63))
    with pytest.raises(ConnectionEnded, match="damaged"):
        list(pair.far.read())
    assert pair.rooms == []


def test_a_report_that_claims_too_much_ends_the_connection(pair: Pair) -> None:
    pair.near.socket.send(HEADER.pack(TEXT, 0, 0, 1 << 30))
    with pytest.raises(ConnectionEnded, match="damaged"):
        list(pair.far.read())
    assert pair.rooms == []


def test_a_connection_is_not_forgotten_by_routers_nor_waited_for_without_end() -> None:
    with socket.socket() as connection:
        prepare_socket(connection, patience=3.0)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000


def test_many_small_frames_that_were_tried_one_by_one_go_in_several_calls(pair: Pair) -> None:
    """The system takes about a thousand pieces in a call."""
    pair.near.put(DATA, body=bytes(8 << 20))
    for number in range(2000):
        pair.near.put(ACK, 1, number)
        assert not pair.near.flush()
    assert [number for kind, _, _, number, _ in pair.carry() if kind == ACK] == list(range(2000))


def test_what_was_not_written_is_given_back_at_the_end(pair: Pair) -> None:
    owner = Room(LARGE)
    left = weakref.ref(owner)
    pair.near.put(DATA, body=owner.memory, owner=owner)
    del owner
    assert left() is not None
    pair.near.close()
    assert left() is None


def test_encrypted_records_that_come_together_are_all_read_at_once() -> None:
    """The system does not say that there is more in the memory of this process."""
    near, far = socket.socketpair()
    sealer, frames = Sealer(bytes(32)), b""
    for number in range(5):
        frames += b"".join(sealer.seal(HEADER.pack(ACK, 0, 1, number), b""))
        sealer.number += 1
    connection = RoadConnection(SealedSocket(far, bytes(32)), lambda _, size: Room(size))
    near.sendall(frames)
    assert [number for *_, number, _ in connection.read()] == list(range(5))
    connection.close()
    near.close()


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such option, or another number")
def test_the_system_holds_little_of_what_waits_for_others() -> None:
    with socket.socket() as connection:
        prepare_socket(connection, may_wait=True)
        assert connection.getsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT) == 128 << 10
