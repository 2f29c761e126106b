"""A program's own thread never waits for room on the network to another machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zenoh
from waiting import TIMEOUT

from dora.transport.board import CLOSED, CONNECTED
from dora.transport.network.fragments import RETRANSMIT_BYTES, FragmentedMessage
from dora.transport.network.protocol import ACK, ACK_FLAG, DATA_HEADER, PING
from dora.transport.network.send_thread import BATCH, ROOM, SendThread, queue_space
from dora.transport.network.sender import RemoteSender
from dora.transport.network.window import WINDOW
from dora.wire.node_config import LinkConfig, OutputConfig
from dora.wire.output_rules import Priority


class Network:
    """Replaces a `Peer`; blocks its senders while it is not open."""

    def __init__(self) -> None:
        self.dataflow_id, self.node_id = "flow", "camera"
        self.send_thread = SendThread("send thread")
        self.senders: list[RemoteSender] = []
        self.opened = threading.Event()
        self.opened.set()
        self.sent: list[tuple[str, int, int]] = []  # thread, number, size of the fragment
        self.sequences: list[int] = []
        self.flags: list[int] = []
        self.fast: list[tuple[int, int]] = []  # number, size of the fragment; on the fast path
        self.changed = threading.Condition()
        self.count = 0
        self.is_fast = True
        self.pinged: bytes | None = None
        self.plain: list[int] = []  # numbers of messages that went by the session and not by a publisher
        self.probes = 0
        self.faults = 0  # times that the send thread cannot send
        self.board: Any = SimpleNamespace(words=[0] * 256)

    def publishers(self, _: str) -> Any:
        """Replaces `PeerConnection.publishers`. Pings get no answer unless `open_fast_path` is called."""
        return SimpleNamespace(
            send_thread=self.send_thread,
            put_express=self.take,
            put_batched=self.take,
            put_fast=self.take_fast,
            put=self.put,
            ping=self.ping,
        )

    def ping(self, data: bytes) -> None:
        self.pinged = data

    def open_fast_path(self, sender: RemoteSender) -> None:
        assert self.pinged is not None
        (ping,) = PING.unpack(self.pinged)
        self.count += 1
        sender.on_ack(ACK.pack(self.count, 7, sender.window_id, 0, 0, ping, 1, False))

    def take_fast(self, fragment: Any, attachment: bytes) -> None:
        self.fast.append((DATA_HEADER.unpack(attachment)[1], len(fragment)))

    def put(self, payload: Any, attachment: bytes | None = None, *, express: bool = True) -> None:  # noqa: ARG002
        if attachment is None:
            self.probes += 1
        else:
            self.plain.append(DATA_HEADER.unpack(attachment)[1])
            self.take(payload, attachment)

    def take(self, fragment: Any, attachment: bytes) -> None:
        here = threading.current_thread().name
        if here == "send thread":
            assert self.opened.wait(TIMEOUT)
        with self.changed:
            if here == "send thread" and self.faults:
                self.faults -= 1
                self.changed.notify_all()
                raise zenoh.ZError("no")
            _, number, sequence, flags, *_ = DATA_HEADER.unpack(attachment)
            self.sent.append((here, number, len(fragment)))
            self.sequences.append(sequence)
            self.flags.append(flags)
            self.changed.notify_all()

    def sender(
        self,
        slot: int = 1,
        queue_size: int = 10,
        *,
        loses_nothing: bool = False,
        priority: Priority | None = None,
        max_age_ns: int = 0,
    ) -> RemoteSender:
        link = LinkConfig(
            slot=slot,
            consumer=f"plot/in{slot}",
            node_slot=0,
            bell="",
            queue_size=queue_size,
            queue_policy="backpressure" if loses_nothing else "drop_oldest",
            machine="desk",
            max_age_ns=max_age_ns,
        )
        output = OutputConfig(id="out", service="", slot=0, links=[link], priority=priority)
        peer: Any = self
        sender = RemoteSender(peer, output, link, self.board)
        self.senders.append(sender)
        for each in self.senders:
            each.set_siblings(self.senders)
        self.acknowledge(sender, 0)
        if self.is_fast:
            self.measure(sender, 1e9)
        return sender

    def measure(self, sender: RemoteSender, rate: float) -> None:
        """Let a link know the rate of the network, in bytes a second."""
        limit = sender._window.limit
        limit.begin(0.0)
        assert limit.measure(1)
        limit.on_ack(1, int(rate), 1.0, is_full=True)

    def acknowledge(
        self, sender: RemoteSender, arrived: int, *, missing: bool = False, state: int = CONNECTED
    ) -> None:
        self.count += 1
        sender.on_ack(ACK.pack(self.count, 7, sender.window_id, arrived, 0, 0, state, missing))

    def announce(self, sender: RemoteSender) -> None:
        """Let the receiver say that it is there; it does not know the send window."""
        self.count += 1
        sender.on_ack(ACK.pack(self.count, 7, 0, 0, 0, 0, CONNECTED, False))

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT), self.sent

    def by(self, thread: str) -> list[int]:
        return [number for name, number, _ in self.sent if name == thread]


HERE = threading.current_thread().name


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.opened.set()
    network.send_thread.close()


def send(sender: RemoteSender, number: int, size: int) -> None:
    outgoing = FragmentedMessage(bytes(size))
    sender.put(outgoing, number, False, size)
    outgoing.detach()


def test_a_receiver_that_does_not_read_blocks_no_program(network: Network) -> None:
    network.opened.clear()
    sender = network.sender(queue_size=10)
    for number in range(1, WINDOW + 37):
        send(sender, number, 30_000)
    at_once = network.by(HERE)
    assert at_once == list(range(1, len(at_once) + 1))
    assert 0 < len(at_once) * queue_space(30_000, alone=True) <= ROOM
    network.opened.set()
    network.wait(lambda: len(network.sent) == WINDOW)
    network.acknowledge(sender, WINDOW)
    network.wait(lambda: len(network.sent) == WINDOW + 10)
    assert [number for _, number, _ in network.sent] == list(range(1, WINDOW + 11))
    assert sender._window.dropped == 26


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


def test_acknowledged_messages_make_room(network: Network) -> None:
    sender = network.sender()
    for number in range(1, 200):
        send(sender, number, 200_000)
        network.acknowledge(sender, number)
    assert network.by(HERE) == list(range(1, 200))


def test_a_message_larger_than_the_queue_uses_the_send_thread(network: Network) -> None:
    sender = network.sender()
    send(sender, 1, 17 * BATCH)
    network.wait(lambda: len(network.sent) == 1)
    assert network.sent == [("send thread", 1, 17 * BATCH)]


def test_lost_messages_are_retransmitted_in_fragments_by_the_send_thread(network: Network) -> None:
    sender = network.sender()
    send(sender, 1, 2 * RETRANSMIT_BYTES + 5)
    send(sender, 2, 8)
    network.acknowledge(sender, 0, missing=True)
    network.wait(lambda: len(network.by("send thread")) == 4)
    again = [(number, size) for name, number, size in network.sent if name == "send thread"]
    assert again == [(1, RETRANSMIT_BYTES), (1, RETRANSMIT_BYTES), (1, 5), (2, 8)]


def test_a_failed_transmission_does_not_end_the_link(network: Network) -> None:
    sender = network.sender()
    network.faults = 1
    send(sender, 1, 17 * BATCH)
    network.wait(lambda: not network.faults)

    def has_come() -> bool:
        network.acknowledge(sender, 0, missing=True)  # again and again, like a receiver
        return bool(network.by("send thread"))

    deadline = time.monotonic() + TIMEOUT
    while not has_come():
        assert time.monotonic() < deadline
        with network.changed:
            network.changed.wait(0.01)
    assert set(network.by("send thread")) == {1}


def cut(network: Network, sender: RemoteSender) -> None:
    """Send ten messages into a network that is cut, and one more on the new connection."""
    network.opened.clear()
    for number in range(1, 11):
        send(sender, number, 100_000)
    former, network.send_thread = network.send_thread, SendThread("send thread")
    sender.renew(network.publishers(sender.key))
    assert sender.is_blocked
    send(sender, 11, 8)
    at_once = network.by(HERE)
    assert 0 < len(at_once) < 11
    network.opened.set()
    former.close()  # at most after the message that it was sending
    assert len(network.sent) <= len(at_once) + 1
    network.sent.clear()
    network.sequences.clear()


def test_nothing_is_transmitted_on_a_new_connection_before_an_acknowledgement(network: Network) -> None:
    sender = network.sender(queue_size=100, loses_nothing=True)
    cut(network, sender)
    network.acknowledge(sender, 2)
    network.wait(lambda: len(network.sent) == 8)
    network.acknowledge(sender, 10)
    network.wait(lambda: len(network.sent) == 9)
    assert network.sequences == list(range(3, 12))


def test_after_a_cut_only_the_newest_messages_are_sent(network: Network) -> None:
    sender = network.sender(queue_size=3)
    cut(network, sender)
    network.acknowledge(sender, 0)
    for count in (1, 2, 3):
        network.wait(lambda count=count: len(network.sent) >= count)  # type: ignore[misc]
        network.acknowledge(sender, count)
    assert network.sequences == [9, 10, 11]
    assert sender.is_idle


def test_on_a_slow_network_one_message_is_in_flight(network: Network) -> None:
    network.is_fast = False
    sender = network.sender(queue_size=1)
    network.measure(sender, 1e6)
    for number in range(1, 6):
        send(sender, number, 100_000)
    assert network.sequences == [1]
    assert network.flags[0] & ACK_FLAG, "the next one waits for its acknowledgement"
    network.acknowledge(sender, 1)
    assert network.sequences == [1, 5]


def test_a_small_message_does_not_wait_for_a_large_one(network: Network) -> None:
    network.is_fast = False
    control, camera = network.sender(1), network.sender(2, queue_size=1)
    network.measure(camera, 1e6)
    network.open_fast_path(control)
    network.opened.clear()
    for number in range(1, 4):
        send(camera, number, 1 << 20)  # the send thread waits for room
    for number in range(1, 11):
        send(control, number, 64)
    assert network.fast == [(number, 64) for number in range(1, 11)]


def test_a_small_message_that_would_wait_is_sent_with_the_next_acknowledgement(network: Network) -> None:
    network.is_fast = False
    control, camera = network.sender(1), network.sender(2, queue_size=1)
    network.measure(camera, 1e6)
    send(control, 1, 64)
    assert network.flags == [ACK_FLAG], "the fast path opens soon"
    network.open_fast_path(control)
    send(camera, 1, 500_000)
    network.pinged = None
    send(control, 2, 64)  # it must not overtake the first
    assert network.pinged is not None
    assert network.fast == []
    network.acknowledge(control, 1)
    assert network.fast == [(2, 64)]


def test_a_picture_on_a_slow_network_leaves_the_fast_path_to_small_messages(network: Network) -> None:
    network.is_fast = False
    slow, fast = network.sender(1), network.sender(2)
    for sender, rate in ((slow, 1e6), (fast, 1e9)):
        network.measure(sender, rate)
        network.open_fast_path(sender)
        send(sender, 1, 64_000)
    assert network.fast == [(1, 64_000)]
    assert network.flags == [ACK_FLAG], "each one measures the network again"


def test_a_message_of_control_takes_the_fast_path_at_any_size(network: Network) -> None:
    network.is_fast = False
    slow = network.sender(1, priority="control")
    network.measure(slow, 1e6)
    network.open_fast_path(slow)
    send(slow, 1, 50_000)  # the network needs 50 ms for it
    assert sum(size for _, size in network.fast) == 50_000


def test_a_small_message_of_normal_priority_or_bulk_is_not_urgent(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = network.sender(1, queue_size=1)
    network.measure(camera, 1e6)
    priorities: list[Priority] = ["normal", "bulk"]
    others = [network.sender(2 + index, priority=each) for index, each in enumerate(priorities)]
    for sender in others:
        network.open_fast_path(sender)
    send(camera, 1, 500_000)
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    for sender in others:
        send(sender, 1, 64)
        send(sender, 2, 64)  # at once, so not alone
    monkeypatch.undo()
    (first, size), *more = network.fast
    assert (first, size) == (1, 64), "a single short message takes the fast path, unless it is bulk"
    assert not more


def test_bulk_waits_while_another_link_has_a_backlog(network: Network) -> None:
    network.is_fast = False
    bulk = network.sender(1, queue_size=1, priority="bulk")
    camera = network.sender(2, queue_size=5)
    network.measure(camera, 1e6)
    for number in (1, 2):
        send(camera, number, 100_000)  # the second one waits for the first
    network.sequences.clear()
    for number in range(11, 14):
        send(bulk, number, 100_000)
    assert network.sequences == []
    network.acknowledge(camera, 1)
    network.wait(lambda: len(network.sequences) == 2)
    assert network.sequences == [2, 13], "only the newest of those that waited"
    assert bulk._window.dropped == 2


def test_links_of_equal_priority_do_not_wait_for_each_other(network: Network) -> None:
    network.is_fast = False
    first = network.sender(1, queue_size=5, priority="bulk")
    second = network.sender(2, queue_size=5, priority="bulk")
    for sender in (first, second):
        network.measure(sender, 1e6)
        for number in (1, 2):
            send(sender, number, 100_000)
    assert network.sequences == [1, 1]


def test_a_link_whose_receiver_is_not_there_holds_no_other_up(network: Network) -> None:
    network.is_fast = False
    absent = network.sender(1, priority="control")
    bulk = network.sender(2, priority="bulk")
    absent.renew(network.publishers(absent.key))
    send(absent, 1, 64)
    send(bulk, 7, 64)
    assert network.sequences == [7]


def test_messages_that_grow_too_old_before_they_are_sent_are_dropped(network: Network) -> None:
    network.is_fast = False
    sender = network.sender(queue_size=10, max_age_ns=1)
    network.measure(sender, 1e6)
    for number in range(1, 5):
        send(sender, number, 100_000)
    network.acknowledge(sender, 1)
    assert network.sequences == [1, 4], "by the newest one, the receiver counts the others"
    assert sender._window.dropped == 2


def test_a_piggyback_acknowledgement_leaves_transmission_to_the_send_thread(network: Network) -> None:
    sender = network.sender(queue_size=100)
    for number in range(1, WINDOW + 6):
        send(sender, number, 8)
    network.wait(lambda: len(network.sent) == WINDOW)
    by_here = len(network.by(HERE))
    sender.on_piggyback_ack(sender.window_id, WINDOW, 0)
    network.wait(lambda: len(network.sent) == WINDOW + 5)
    assert len(network.by(HERE)) == by_here


def test_a_send_thread_runs_jobs_in_order_until_it_is_closed() -> None:
    send_thread, done = SendThread("send thread"), []
    assert not send_thread.busy
    first, last = threading.Event(), threading.Event()
    send_thread.submit(lambda: done.append(first.wait(TIMEOUT)))
    for number in range(3):
        send_thread.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    assert send_thread.busy
    first.set()
    send_thread.submit(last.set)
    assert last.wait(TIMEOUT)
    assert done == [True, 0, 1, 2]
    send_thread.close()
    send_thread.submit(lambda: done.append(3))
    assert done == [True, 0, 1, 2]


def test_on_a_new_connection_publishers_wait_for_the_first_message_that_arrives(network: Network) -> None:
    """They discard messages until they know of the subscriber."""
    sender = network.sender()
    for number in (1, 2, 3):
        send(sender, number, 8)
    network.acknowledge(sender, 3)
    sender.renew(network.publishers(""))
    network.acknowledge(sender, 3)  # the receiver has opened the new window, and got no message
    network.plain.clear()
    send(sender, 4, 8)
    assert network.plain == [4]
    network.acknowledge(sender, 4)
    send(sender, 5, 8)
    assert network.plain == [4]


def test_a_receiver_that_is_back_is_probed_until_it_has_answered(network: Network) -> None:
    sender = network.sender()
    network.acknowledge(sender, 0, state=CLOSED)
    probes = network.probes
    sender.tick(time.monotonic())
    assert network.probes == probes
    network.announce(sender)  # its answer to this probe is lost
    for more in (2, 3):
        sender.tick(time.monotonic())
        assert network.probes == probes + more
    network.acknowledge(sender, 0)
    sender.tick(time.monotonic())
    assert network.probes == probes + 3


def test_a_back_pressured_link_begins_behind_the_messages_that_nobody_was_there_for(
    network: Network,
) -> None:
    sender = network.sender(loses_nothing=True)
    network.acknowledge(sender, 0, state=CLOSED)
    for number in (1, 2, 3):
        send(sender, number, 8)
    assert network.sent == []
    network.announce(sender)
    network.acknowledge(sender, 0)
    assert sender._window.last_sequence == 3, "the receiver learns of them by the next probe"
