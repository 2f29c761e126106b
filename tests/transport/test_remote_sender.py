"""Which thread sends to other machines: a program's own never waits for room on the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zenoh

from dora.transport.network.fragments import PIECE, FragmentedMessage
from dora.transport.network.protocol import LABEL, PROGRESS
from dora.transport.network.send_thread import BATCH, ROOM, SendThread, demand
from dora.transport.network.sender import RemoteSender
from dora.transport.network.window import WINDOW
from dora.wire.node_config import LinkConfig, OutputConfig

PATIENCE = 60.0  # seconds that anything may take on a busy machine


class Network:
    """In place of a `Gate`: takes what is sent while it is open, and lets others wait."""

    def __init__(self) -> None:
        self.dataflow_id, self.node_id = "flow", "camera"
        self.launcher = SendThread("launcher")
        self.senders: list[RemoteSender] = []
        self.opened = threading.Event()
        self.opened.set()
        self.sent: list[tuple[str, int, int]] = []  # thread, number, size of the part
        self.changed = threading.Condition()
        self.count = 0
        self.faults = 0  # so many times, the launcher cannot send
        self.board: Any = SimpleNamespace(words=[0] * 256)

    def ways(self, _: str) -> Any:
        """As `Connection.ways`. Questions get no answer: all goes the usual way."""
        return SimpleNamespace(
            launcher=self.launcher,
            alone=self.take,
            among_others=self.take,
            quickly=self.take,
            put=self.put,
            ask=lambda _: None,
        )

    def put(self, payload: Any, attachment: bytes | None = None, *, express: bool = True) -> None:  # noqa: ARG002
        if attachment is not None:
            self.take(payload, attachment)

    def take(self, part: Any, attachment: bytes) -> None:
        here = threading.current_thread().name
        if here == "launcher":
            assert self.opened.wait(PATIENCE)
        with self.changed:
            if here == "launcher" and self.faults:
                self.faults -= 1
                self.changed.notify_all()
                raise zenoh.ZError("no")
            self.sent.append((here, LABEL.unpack(attachment)[1], len(part)))
            self.changed.notify_all()

    def sender(self, slot: int = 1, queue_size: int = 10) -> RemoteSender:
        link = LinkConfig(
            slot=slot,
            consumer=f"plot/in{slot}",
            node_slot=0,
            bell="",
            queue_size=queue_size,
            machine="desk",
        )
        output = OutputConfig(id="out", service="", slot=0, links=[link])
        gate: Any = self
        sender = RemoteSender(gate, output, link, self.board)
        self.senders.append(sender)
        for each in self.senders:
            each.beside = tuple(other for other in self.senders if other is not each)
        self.tell(sender, 0)
        return sender

    def tell(self, sender: RemoteSender, arrived: int, *, missing: bool = False) -> None:
        self.count += 1
        sender.on_progress(PROGRESS.pack(self.count, 7, sender.lane_id, arrived, 0, 0, 1, missing))

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), self.sent

    def by(self, thread: str) -> list[int]:
        return [number for name, number, _ in self.sent if name == thread]


HERE = threading.current_thread().name


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.opened.set()
    network.launcher.close()


def send(sender: RemoteSender, number: int, size: int) -> None:
    outgoing = FragmentedMessage(bytes(size))
    sender.put(outgoing, number, False, size)
    outgoing.settle()


def test_a_silent_receiver_holds_nobody(network: Network) -> None:
    network.opened.clear()
    sender = network.sender(queue_size=10)
    for number in range(1, 101):
        send(sender, number, 100_000)
    at_once = network.by(HERE)
    assert at_once == list(range(1, len(at_once) + 1))
    assert 0 < len(at_once) * demand(100_000, alone=True) <= ROOM
    network.opened.set()
    network.wait(lambda: len(network.sent) == WINDOW)
    network.tell(sender, WINDOW)
    network.wait(lambda: len(network.sent) == WINDOW + 10)
    assert [number for _, number, _ in network.sent] == list(range(1, WINDOW + 11))
    assert sender._lane.dropped == 100 - WINDOW - 10


def test_links_to_one_node_share_the_room(network: Network) -> None:
    network.opened.clear()
    first, second = network.sender(1), network.sender(2)
    for number in range(1, 8):
        send(first, number, 100_000)
    at_once = len(network.by(HERE))
    send(second, 1, 100_000)
    assert len(network.by(HERE)) == at_once
    network.opened.set()
    network.wait(lambda: len(network.sent) == 8)


def test_there_is_room_again_for_what_has_arrived(network: Network) -> None:
    sender = network.sender()
    for number in range(1, 200):
        send(sender, number, 200_000)
        network.tell(sender, number)
    assert network.by(HERE) == list(range(1, 200))


def test_what_is_too_large_for_the_queue_goes_through_the_launcher(network: Network) -> None:
    sender = network.sender()
    send(sender, 1, 17 * BATCH)
    network.wait(lambda: len(network.sent) == 1)
    assert network.sent == [("launcher", 1, 17 * BATCH)]


def test_what_was_lost_is_sent_again_in_pieces_and_by_the_launcher(network: Network) -> None:
    sender = network.sender()
    send(sender, 1, 2 * PIECE + 5)
    send(sender, 2, 8)
    network.tell(sender, 0, missing=True)
    network.wait(lambda: len(network.by("launcher")) == 4)
    again = [(number, size) for name, number, size in network.sent if name == "launcher"]
    assert again == [(1, PIECE), (1, PIECE), (1, 5), (2, 8)]


def test_a_launch_that_fails_does_not_end_the_link(network: Network) -> None:
    sender = network.sender()
    network.faults = 1
    send(sender, 1, 17 * BATCH)
    network.wait(lambda: not network.faults)

    def has_come() -> bool:
        network.tell(sender, 0, missing=True)  # again and again, as a receiver does
        return bool(network.by("launcher"))

    deadline = time.monotonic() + PATIENCE
    while not has_come():
        assert time.monotonic() < deadline
        with network.changed:
            network.changed.wait(0.01)
    assert set(network.by("launcher")) == {1}


def test_on_a_new_connection_nothing_goes_before_an_answer(network: Network) -> None:
    network.opened.clear()
    sender = network.sender(queue_size=100)
    for number in range(1, 11):
        send(sender, number, 100_000)
    former, network.launcher = network.launcher, SendThread("launcher")
    sender.renew(network.ways(sender.key))
    assert sender.is_launching
    send(sender, 11, 8)
    at_once = network.by(HERE)
    assert 0 < len(at_once) < 11
    network.opened.set()
    former.close()
    network.wait(lambda: len(network.sent) <= len(at_once) + 1)  # at most what the former one was at
    network.sent.clear()
    network.tell(sender, 2)
    network.wait(lambda: len(network.sent) == 9)
    assert [number for _, number, _ in network.sent] == list(range(3, 12))


def test_a_report_with_a_message_lets_the_launcher_launch(network: Network) -> None:
    sender = network.sender(queue_size=100)
    for number in range(1, WINDOW + 6):
        send(sender, number, 8)
    network.wait(lambda: len(network.sent) == WINDOW)
    by_here = len(network.by(HERE))
    sender.on_report(sender.lane_id, WINDOW, 0)
    network.wait(lambda: len(network.sent) == WINDOW + 5)
    assert len(network.by(HERE)) == by_here


def test_a_launcher_does_one_thing_after_the_other_and_then_nothing() -> None:
    launcher, done = SendThread("launcher"), []
    assert not launcher.busy
    first, last = threading.Event(), threading.Event()
    launcher.do(lambda: done.append(first.wait(PATIENCE)))
    for number in range(3):
        launcher.do(lambda number=number: done.append(number))  # type: ignore[misc]
    assert launcher.busy
    first.set()
    launcher.do(last.set)
    assert last.wait(PATIENCE)
    assert done == [True, 0, 1, 2]
    launcher.close()
    launcher.do(lambda: done.append(3))
    assert done == [True, 0, 1, 2]
