"""What comes from another machine: to whom it is given, what is acknowledged, and what goes back."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import TIMEOUT

from dora.errors import SharedMemoryFull, TransportError
from dora.gateway.ages import Ages
from dora.gateway.connection import RoadConnection
from dora.gateway.meeting import NewBypass, NewRoad
from dora.gateway.outgoing import CONNECTIONS
from dora.gateway.ports import Incoming, Memory
from dora.gateway.road import Links, Road, decode
from dora.transport.board import (
    BEGUN,
    CLOSED,
    CONNECTED,
    CONTROL,
    CREDIT_WAITING,
    DROPPED,
    FIRST,
    FORWARDED,
    RECEIVED,
    STATE,
    Board,
)
from dora.transport.doorbell import Doorbell
from dora.wire.encode import encode
from dora.wire.gateway_frame import ACK, ASKS_FOR_ACK, TEXT
from dora.wire.message import pack_head
from dora.wire.node_config import LinkConfig, OutputConfig

OUTPUT, LINK, NODE, LINES = 0, 1, 2, 3
STREAM = 5
QUEUE = 10
LARGE = 100_000  # bytes


class Room:
    """Shared memory for a message."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = memoryview(bytearray(size))
        self.discarded = False

    def discard(self) -> None:
        self.discarded = True


class Port:
    """Notes what receivers here get."""

    def __init__(self) -> None:
        self.forwarded: list[int] = []
        self.rung = 0
        self.fault: Exception | None = None
        self.config: OutputConfig | None = None

    def forward(self, message: Any, loan: Any) -> None:  # noqa: ARG002
        if self.fault is not None:
            raise self.fault
        self.forwarded.append(message.sequence)

    def reserve(self, size: int) -> Room:
        if self.fault is not None:
            raise self.fault
        return Room(size)

    def ring(self) -> None:
        self.rung += 1

    def change(self, config: OutputConfig, _: Any) -> None:
        self.config = config


def message(sequence: int, size: int = 1) -> bytes:
    payload = encode(bytes(size))
    return pack_head(payload.encoding, payload.schema, b"", size, sequence, 1) + payload.to_bytes()


class Rig:
    """The output `a/x` of the machine `left`, with a receiver here."""

    def __init__(self, folder: Path) -> None:
        self.board = Board.create(str(folder / "board"), LINES)
        bell = str(folder / "bell")
        Doorbell.make(bell)
        self.doorbell = Doorbell(bell)
        self.link = LinkConfig(
            slot=LINK,
            node_slot=NODE,
            bell=bell,
            consumer="b/x",
            queue_size=QUEUE,
            queue_policy="backpressure",
        )
        self.port = Port()
        config = OutputConfig("a/x", "channel", OUTPUT, [self.link])
        self.incoming = Incoming(config, self.port, self.board, None)  # type: ignore[arg-type]
        pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
        for pair in pairs:
            for each in pair:
                each.setblocking(False)
        self.delivered: dict[Incoming, bool] = {}
        self.road = Road(
            NewRoad("left", True, [near for near, _ in pairs]), self.board.words, self.delivered
        )
        self.road.incoming[STREAM] = self.incoming
        self.far = [RoadConnection(far, lambda _, size: Memory(size)) for _, far in pairs]

    def deliver(
        self, body: Any, *, stream: int = STREAM, flags: int = 0, is_bypassed: bool = False
    ) -> bool:
        size = body.size if isinstance(body, Room | Memory) else len(body)
        return self.road.deliver(stream, size, body, flags, Ages(), is_bypassed=is_bypassed)

    def said(self) -> list[Any]:
        """Return what the other machine gets in the next moment: numbers of messages, and reports."""
        self.road.pump(time.monotonic())
        return [
            number if kind == ACK else decode(body)
            for each in self.far
            for kind, _, _, number, body in each.read()
            if kind in (ACK, TEXT)
        ]

    def is_rung(self) -> bool:
        return bool(select.select([self.doorbell.fd], [], [], 0)[0])

    def close(self) -> None:
        self.road.close()
        for each in self.far:
            each.close()
        self.doorbell.close()
        self.board.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def large(sequence: int, room: Any = Room) -> Any:
    data = message(sequence, LARGE)
    loan = room(len(data))
    loan.memory[:] = data
    return loan


def test_a_message_that_comes_again_is_taken_once(rig: Rig) -> None:
    """Those that were not acknowledged before a cut are sent again."""
    for sequence in (1, 2, 2, 1, 3):
        assert rig.deliver(message(sequence))
    assert rig.port.forwarded == [1, 2, 3]


def test_a_bypass_brings_the_next_message_and_a_road_any_later_one(rig: Rig) -> None:
    assert rig.deliver(message(1), is_bypassed=True)
    assert not rig.deliver(message(3), is_bypassed=True), "the second one may come on the road"
    assert rig.port.forwarded == [1]
    assert rig.deliver(message(3))
    assert rig.deliver(message(2), is_bypassed=True), "it is not needed any more"
    assert rig.port.forwarded == [1, 3]


def test_memory_for_a_message_that_nobody_gets_is_given_back(rig: Rig) -> None:
    taken, repeated, unknown = large(1), large(1), large(1)
    assert rig.deliver(taken)
    assert rig.deliver(repeated)
    assert not rig.deliver(unknown, stream=STREAM + 1)
    assert [each.discarded for each in (taken, repeated, unknown)] == [False, True, True]
    damaged = large(2)
    damaged.memory[:] = bytes(damaged.size)
    assert not rig.deliver(damaged)
    assert damaged.discarded
    assert rig.incoming.bad.count == 1


def test_a_message_without_room_in_shared_memory_is_counted_by_its_receivers(rig: Rig) -> None:
    """Else a sender under back-pressure would wait for it without end."""
    rig.port.fault = SharedMemoryFull("there is no room")
    assert isinstance(rig.road._room(STREAM, LARGE), Memory)
    assert rig.deliver(large(1, Memory))
    assert (rig.incoming.forwarded, rig.board.get(OUTPUT, BEGUN)) == (1, 1)
    rig.port.fault = TransportError("nor for a small one")
    assert rig.deliver(message(2))
    assert (rig.incoming.forwarded, rig.board.get(OUTPUT, BEGUN)) == (2, 2)
    assert rig.port.forwarded == []


def test_the_number_of_a_message_is_written_before_it_is_sent(rig: Rig) -> None:
    """A gateway that is killed in between sends no message twice."""
    rig.port.fault = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        rig.deliver(message(1))
    assert rig.board.get(OUTPUT, FORWARDED) == 1


def test_receivers_are_woken_at_the_first_message_and_again_after_further_ones(rig: Rig) -> None:
    rig.deliver(message(1))
    assert rig.delivered == {rig.incoming: False}
    rig.deliver(message(2))
    assert rig.delivered == {rig.incoming: True}
    assert rig.port.rung == 1


def test_receivers_are_woken_to_count_what_will_not_come(rig: Rig) -> None:
    rig.incoming.begin(3, 7)
    assert rig.is_rung()
    assert rig.board.get(NODE, CONTROL)
    assert (rig.incoming.forwarded, rig.board.get(OUTPUT, BEGUN)) == (3, 7)
    rig.doorbell.clear()
    rig.incoming.begin(3, 7)
    assert not rig.is_rung(), "they know it already"


def test_a_message_is_acknowledged_once(rig: Rig) -> None:
    rig.deliver(message(1), flags=ASKS_FOR_ACK)
    assert rig.said() == [1]
    assert rig.road.ack_at == 0, "the gateway may sleep"
    assert rig.said() == []
    rig.road.incoming[STREAM + 1] = rig.incoming
    rig.deliver(message(2), stream=STREAM + 1, flags=ASKS_FOR_ACK)
    assert rig.said() == [2]


def test_a_message_that_asks_for_nothing_is_acknowledged_soon(rig: Rig) -> None:
    rig.deliver(message(1))
    rig.deliver(message(2))
    assert 0 < rig.road.ack_at - rig.road.heard < 0.1
    rig.road.ack_at = time.monotonic()
    assert rig.said() == [2]


def receive(rig: Rig, received: int, dropped: int = 0) -> None:
    rig.board.set(LINK, RECEIVED, received)
    rig.board.set(LINK, DROPPED, dropped)
    rig.road.report_credit()


def test_credit_is_reported_after_half_a_queue_and_at_once_for_the_last_message(rig: Rig) -> None:
    """A sender may wait for what is reported, and the next tick comes 0.1 s later."""
    rig.board.set(LINK, STATE, CONNECTED)
    rig.board.set(LINK, FIRST, 100)
    rig.incoming.begin(100)
    rig.road.report_links()
    assert rig.said() == [Links([("b/x", CONNECTED, 100)])]
    for sequence in range(101, 109):
        rig.deliver(message(sequence), flags=ASKS_FOR_ACK)
    assert rig.said() == [108]
    receive(rig, QUEUE // 2 - 1)
    assert rig.said() == []
    receive(rig, QUEUE // 2 - 1, dropped=1)
    assert rig.said() == [Links([("b/x", CONNECTED, 105)])]
    receive(rig, 7, dropped=1)
    assert rig.said() == [Links([("b/x", CONNECTED, 108)])]
    receive(rig, 7, dropped=1)
    assert rig.said() == []


def test_the_end_of_a_receiver_is_reported_at_once(rig: Rig) -> None:
    rig.board.set(LINK, STATE, CONNECTED)
    rig.road.report_links()
    rig.deliver(message(1))
    rig.said()
    rig.board.set(LINK, STATE, CLOSED)
    rig.road.report_credit()
    assert Links([("b/x", CLOSED, 0)]) in rig.said()


def test_the_latch_here_forgets_what_the_other_one_has_forgotten(rig: Rig) -> None:
    forgotten: list[int] = []
    rig.incoming.forget_latched(1)
    rig.incoming._latch = SimpleNamespace(forget=forgotten.append)  # type: ignore[assignment]
    rig.incoming.forget_latched(2)
    assert forgotten == [2]


def test_receivers_ring_once_the_sender_may_wait_for_them(rig: Rig) -> None:
    rig.board.set(LINK, STATE, CONNECTED)
    rig.road.report_links()
    for sequence in range(1, QUEUE // 2 + 1):
        rig.road.report_credit()
        assert not rig.board.get(OUTPUT, CREDIT_WAITING)
        rig.deliver(message(sequence))
    rig.road.report_credit()
    assert rig.board.get(OUTPUT, CREDIT_WAITING)
    receive(rig, QUEUE // 2)
    assert not rig.board.get(OUTPUT, CREDIT_WAITING)


def test_a_link_that_went_is_reported_until_it_is_closed(rig: Rig) -> None:
    rig.board.set(LINK, STATE, CONNECTED)
    rig.road.report_links()
    rig.incoming.config = OutputConfig("a/x", "channel", OUTPUT, [])
    rig.incoming.change(rig.incoming.config, lambda _: None)  # type: ignore[arg-type, return-value]
    rig.said()
    rig.road.report_links()
    assert rig.said() == []
    assert rig.incoming.links
    rig.board.set(LINK, STATE, CLOSED)
    rig.road.report_links()
    assert rig.said() == [Links([("b/x", CLOSED, 0)])]
    assert not rig.incoming.links


def test_a_road_that_is_closed_closes_its_bypasses(rig: Rig) -> None:
    near, node = socket.socketpair()
    rig.road.add_bypass(NewBypass("left", b"token", near))
    node.settimeout(TIMEOUT)
    with node:
        rig.road.close()
        assert node.recv(1) == b""
