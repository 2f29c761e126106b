"""A stream between its output and the road: what waits there, and what is dropped."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dora.gateway.connection import RoadConnection
from dora.gateway.meeting import NewRoad
from dora.gateway.outgoing import CONNECTIONS
from dora.gateway.ports import Memory, Sending
from dora.gateway.road import Road
from dora.transport.board import CLOSED, CONNECTED, SENT, STATE, UNCONNECTED, Board
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.node_config import InputConfig, LinkConfig, StreamConfig
from dora.wire.untrusted import UntrustedMessage

OUTPUT, PRESSED, OTHER, STREAM, LINES = 0, 1, 2, 3, 4
SECOND = 1_000_000_000
QUEUE = 3


class Rig:
    """The output `a/x`, a road to the machine `right`, and receivers there."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.board = Board.create(str(folder / "board"), LINES)
        self.queue: deque[Message] = deque(maxlen=QUEUE)
        self.newest = 0
        pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
        for pair in pairs:
            for each in pair:
                each.setblocking(False)
        self.road = Road(NewRoad("right", True, [near for near, _ in pairs]), self.board.words, {})
        self.far = [RoadConnection(far, lambda _, size: Memory(size)) for _, far in pairs]

    def stream(self, *links: LinkConfig, max_age_ns: int = 0) -> Sending:
        pressed = any(link.queue_policy == "backpressure" for link in links)
        item = InputConfig(
            "x to right",
            "link",
            "a/x",
            slot=STREAM,
            output_slot=OUTPUT,
            queue_size=QUEUE,
            queue_policy="backpressure" if pressed else "drop_oldest",
            max_age_ns=max_age_ns,
        )
        receiver = SimpleNamespace(receive=lambda: self.queue.popleft() if self.queue else None)
        config = StreamConfig("a/x", "right", item, list(links))
        sending = Sending(1, config, receiver, self.board, self.folder)
        self.road.use([sending])
        sending.resume(0)
        return sending

    def send(self, time_ns: int) -> None:
        self.newest += 1
        payload = encode(b"x")
        head = pack_head(payload.encoding, payload.schema, b"", payload.size, self.newest, time_ns)
        self.board.set(OUTPUT, SENT, self.newest)
        self.queue.append(Message(head + payload.to_bytes()))

    def pump(self) -> list[int]:
        """Send what can go; return the numbers that arrive."""
        self.road.pump(time.monotonic())
        return [UntrustedMessage(body).sequence for each in self.far for *_, body in each.read()]

    def close(self) -> None:
        self.road.close()
        for each in self.far:
            each.close()
        self.board.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def link(slot: int, policy: str = "drop_oldest", *, dynamic: bool = False) -> LinkConfig:
    return LinkConfig(
        slot=slot,
        node_slot=9,
        bell="",
        consumer=f"b/{slot}",
        machine="right",
        dynamic=dynamic,
        queue_size=QUEUE,
        queue_policy=policy,  # type: ignore[arg-type]
    )


def test_messages_that_are_too_old_by_the_wall_clock_are_not_sent(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    rig.stream(link(OTHER), max_age_ns=100 * SECOND)
    now = time.time_ns()
    rig.send(now - 1000 * SECOND)
    rig.send(now)
    assert rig.pump() == [2]
    rig.send(now - 1000 * SECOND)
    assert rig.pump() == [3], "the newest one goes at any age"


@pytest.mark.parametrize(
    ("dynamic", "state", "loses_nothing"),
    [
        (True, UNCONNECTED, False),
        (True, CONNECTED, True),
        (True, CLOSED, False),
        (False, UNCONNECTED, True),  # the sender has waited for it at its start
        (False, CONNECTED, True),
        (False, CLOSED, False),
    ],
)
def test_nothing_is_dropped_while_a_receiver_gives_credit_and_else_all_but_the_newest(
    rig: Rig, dynamic: bool, state: int, loses_nothing: bool
) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    rig.board.set(PRESSED, STATE, state)
    sending = rig.stream(link(OTHER), link(PRESSED, "backpressure", dynamic=dynamic))
    rig.road.connections[0].flush = lambda: False  # type: ignore[method-assign]  # the network is full
    for _ in range(1000):
        rig.send(1)
        rig.pump()
    in_flight = len(sending.outgoing._in_flight)
    assert (len(sending.outgoing.ready) + in_flight == 1000) == loses_nothing
    assert loses_nothing or len(sending.outgoing.ready) <= QUEUE


def test_what_waits_for_a_receiver_that_ends_is_dropped_but_for_the_newest(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    rig.board.set(PRESSED, STATE, CONNECTED)
    sending = rig.stream(link(OTHER), link(PRESSED, "backpressure"))
    rig.road.connections[0].flush = lambda: False  # type: ignore[method-assign]  # the network is full
    for _ in range(1000):
        rig.send(1)
        rig.pump()
    sending.take_report(f"b/{PRESSED}", CLOSED, 1000)
    rig.pump()
    assert [entry.sequence for entry in sending.outgoing.ready] == [998, 999, 1000]
