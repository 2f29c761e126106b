"""A stream between its output and the road: what waits there, and what is dropped."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dora.gateway.connection import RoadConnection
from dora.gateway.meeting import NewRoad
from dora.gateway.outgoing import CONNECTIONS, SMALL
from dora.gateway.ports import Memory, Sending
from dora.gateway.road import Road
from dora.transport.board import (
    BEGUN,
    CLOSED,
    CONNECTED,
    CREDIT_WAITING,
    FIRST,
    FORWARDED,
    RECEIVED,
    SENT,
    STATE,
    UNCONNECTED,
    Board,
)
from dora.transport.doorbell import Doorbell
from dora.transport.latch import LatchFile, latch_path
from dora.transport.spill import spill_folder, take_spilled
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.node_config import InputConfig, LinkConfig, StreamConfig
from dora.wire.output_rules import LatchRule, Priority
from dora.wire.untrusted import UntrustedMessage

OUTPUT, PRESSED, OTHER, STREAM, LINES = 0, 1, 2, 3, 4
SECOND = 1_000_000_000
QUEUE = 3


def message(sequence: int, *, time_ns: int = 1, size: int = 1) -> bytes:
    payload = encode(bytes(size))
    head = pack_head(payload.encoding, payload.schema, b"", payload.size, sequence, time_ns)
    return head + payload.to_bytes()


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

    def stream(
        self,
        *links: LinkConfig,
        max_age_ns: int = 0,
        latched: LatchRule | None = None,
        credit_bell: str = "",
    ) -> Sending:
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
        config = StreamConfig("a/x", "right", item, list(links), credit_bell, latched=latched)
        sending = Sending(1, config, receiver, self.board, self.folder)
        self.road.use([sending])
        sending.resume(0)
        return sending

    def send(self, time_ns: int = 1) -> bytes:
        self.newest += 1
        data = message(self.newest, time_ns=time_ns)
        self.board.set(OUTPUT, SENT, self.newest)
        self.queue.append(Message(data))
        return data

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
        rig.send()
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
        rig.send()
        rig.pump()
    sending.take_report(f"b/{PRESSED}", CLOSED, 1000)
    rig.pump()
    assert [entry.sequence for entry in sending.outgoing.ready] == [998, 999, 1000]


def test_a_request_that_the_queue_has_dropped_goes_in_its_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    rig.stream(link(OTHER))
    looks = []

    def look(*arguments: Any) -> Any:
        looks.append(arguments)
        return take_spilled(*arguments)

    monkeypatch.setattr("dora.gateway.ports.take_spilled", look)
    for _ in range(3):
        rig.send()
        assert rig.pump() == [rig.newest]
    assert not looks, "no message is missing"
    folder = Path(spill_folder(rig.folder, OTHER))
    folder.mkdir()
    (folder / "4").write_bytes(rig.send())
    for _ in range(QUEUE):
        rig.send()
    assert rig.pump() == [4, 5, 6, 7]
    assert list(folder.iterdir()) == []


def test_messages_that_a_machine_has_lost_with_its_gateway_are_not_awaited(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    sending = rig.stream(link(OTHER))
    for _ in range(3):
        rig.send()
    rig.pump()
    sending.outgoing.acknowledge(3, 0)
    sending.outgoing.stop()
    sending.resume(1)
    assert sending.state == (3, 0), "its receivers count the second and the third one"
    sending.note_arrived()
    assert rig.board.get(OUTPUT, FORWARDED) == 3
    rig.send()
    assert rig.pump() == [4]


def test_a_machine_gets_the_messages_of_the_latch_that_it_does_not_have(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CLOSED)
    rule = LatchRule(3)
    latch = LatchFile(latch_path(rig.board.path, OUTPUT), rule, "x")
    for number in range(1, 6):
        latch.write(number, rig.send())
    rig.queue.clear()
    sending = rig.stream(link(OTHER), latched=rule)
    assert sending.is_wanted, "by those who will be there"
    sending.note_arrived()
    assert rig.board.get(OUTPUT, FORWARDED) == 0
    assert [entry.sequence for entry in sending.latched(0)] == [3, 4, 5]
    assert [entry.sequence for entry in sending.latched(3)] == [4, 5]
    assert rig.pump() == [3, 4, 5]


def test_a_sender_that_waits_is_woken_by_reports_and_if_the_machine_is_lost(rig: Rig) -> None:
    bell = f"{rig.folder}/credit"
    Doorbell.make(bell)
    doorbell = Doorbell(bell)
    rig.board.set(PRESSED, STATE, CONNECTED)
    sending = rig.stream(link(PRESSED, "backpressure"), credit_bell=bell)

    def is_rung() -> bool:
        rung = bool(select.select([doorbell.fd], [], [], 0)[0])
        doorbell.clear()
        return rung

    rig.board.set(PRESSED, FIRST, 100)
    sending.take_report(f"b/{PRESSED}", CONNECTED, 103)
    assert rig.board.get(PRESSED, RECEIVED) == 3
    assert not is_rung(), "nobody waits"
    rig.board.set(OUTPUT, CREDIT_WAITING, 1)
    sending.take_report("b/another", CONNECTED, 104)
    assert not is_rung()
    sending.take_report(f"b/{PRESSED}", CONNECTED, 90)
    assert rig.board.get(PRESSED, RECEIVED) == 0
    assert is_rung()
    sending.close_links()
    assert rig.board.get(PRESSED, STATE) == CLOSED
    assert is_rung()
    assert not sending.is_wanted
    doorbell.close()


def test_an_output_for_two_machines_has_arrived_once_both_have_it(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    first, second = rig.stream(link(OTHER)), rig.stream(link(OTHER))
    first.of_output = second.of_output = [first, second]
    rig.send()
    for sending, arrived in ((first, 0), (second, 1)):
        sending.outgoing.acknowledge(1, 0)
        sending.note_arrived()
        assert rig.board.get(OUTPUT, FORWARDED) == arrived


def other_output(
    rig: Rig, first: Sending, priority: Priority | None = None
) -> tuple[Sending, deque[Message]]:
    """Return another output on the road, and its queue."""
    item = msgspec.structs.replace(first.config.item, output_slot=PRESSED)
    config = msgspec.structs.replace(first.config, name="a/y", item=item, priority=priority)
    queue: deque[Message] = deque()
    receiver = SimpleNamespace(receive=lambda: queue.popleft() if queue else None)
    second = Sending(2, config, receiver, rig.board, rig.folder)
    rig.road.use([first, second])
    second.resume(0)
    return second, queue


def test_an_output_waits_while_one_of_a_higher_rank_has_more_to_send(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    first = rig.stream(link(OTHER))
    second, queue = other_output(rig, first, "bulk")
    rig.send()
    assert rig.pump() == [1]
    rig.send()
    queue.append(Message(message(1)))
    rig.board.set(PRESSED, SENT, 1)
    rig.pump()
    assert (first.outgoing.sent, second.outgoing.sent) == (2, 0)
    rig.pump()
    assert second.outgoing.sent == 1


def test_a_connection_gets_nothing_while_the_system_has_not_taken_all_of_a_lower_one(rig: Rig) -> None:
    rig.board.set(OTHER, STATE, CONNECTED)
    first = rig.stream(link(OTHER))
    second, queue = other_output(rig, first)
    with pytest.MonkeyPatch.context() as full:
        full.setattr(rig.road.connections[0], "flush", lambda: False)
        rig.send()
        queue.append(Message(message(1, size=2 * SMALL)))
        rig.board.set(PRESSED, SENT, 1)
        for _ in range(2):
            rig.pump()
            assert (first.outgoing.sent, second.outgoing.sent) == (1, 0)
    assert rig.pump() == [1, 1]


def test_the_shortest_round_trip_of_a_road_counts_for_all_its_outputs(rig: Rig) -> None:
    sending = rig.stream(link(OTHER))
    sending.outgoing.limit.rate = 1e7
    for seconds in (0.2, 0.05, 0.1):
        rig.road.measure(seconds)
    assert (rig.road.round_trip, rig.road.last_round_trip) == (0.05, 0.1)
    assert sending.outgoing.limit.bytes == 1_000_000, "two round trips"


def test_the_latch_of_a_restarted_node_begins_after_its_former_messages_unless_they_survive(
    rig: Rig,
) -> None:
    rig.board.set(OUTPUT, BEGUN, 2)
    for rule, begins_after in ((LatchRule(3), 2), (LatchRule(3, survive_restart=True), 0), (None, 0)):
        assert rig.stream(link(OTHER), latched=rule).latch_begins_after() == begins_after


def test_what_was_sent_before_the_gateway_began_does_not_wait(rig: Rig) -> None:
    rig.board.set(OUTPUT, SENT, 1000)
    sending = rig.stream(link(OTHER))
    assert sending.waiting == 0
    assert sending.state == (1000, 0)
    sending.note_arrived()
    assert rig.board.get(OUTPUT, FORWARDED) == 1000


def test_what_nobody_there_wants_is_settled_at_once(rig: Rig) -> None:
    """The sender may wait for it at its end, and the receivers to come do not count it."""
    rig.board.set(OTHER, STATE, CLOSED)
    sending = rig.stream(link(OTHER))
    rig.send()
    assert rig.pump() == []
    assert sending.state == (1, 0)
    assert rig.board.get(OUTPUT, FORWARDED) == 1


def test_a_message_that_comes_after_the_last_one_wakes_the_gateway(rig: Rig) -> None:
    """Its sender rings only while the gateway sleeps, which looks once more before it does."""
    rig.board.set(OTHER, STATE, CONNECTED)
    sending = rig.stream(link(OTHER))
    rig.send()
    assert rig.pump() == [1]
    assert sending.outgoing.is_hungry
