"""Send window and receive window, over a network that loses messages and keeps their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dora.transport.network.in_flight import MAX_IN_FLIGHT, MIN_IN_FLIGHT
from dora.transport.network.latched_sender import LatchedWindow
from dora.transport.network.protocol import LATCHED_FLAG
from dora.transport.network.window import WINDOW, Entry, ReceiveWindow, SendWindow

WINDOW_ID = 7


class Network:
    """A send window, a receive window, and the messages between them."""

    def __init__(self, capacity: int | None) -> None:
        self.in_flight: list[Entry] = []
        self.received: list[int] = []
        self.sender = SendWindow(capacity, is_kept=lambda message: message.endswith("0"))
        self.receiver = ReceiveWindow()
        self.sent = 0

    def send(self, size: int = 1) -> None:
        self.sent += 1
        self.sender.put(self.sent, f"message {self.sent}", size)
        self.transmit()

    def transmit(self) -> None:
        while (entry := self.sender.next()) is not None:
            self.in_flight.append(entry)

    def probe(self) -> None:
        """Deliver all messages in flight and a probe after them, which is acknowledged."""
        self.deliver()
        self.receiver.open(WINDOW_ID, self.sender.last)
        if not self.sender.open:
            self.sender.open = True
        self.acknowledge()

    def acknowledge(self) -> None:
        missing = self.receiver.missing
        self.sender.acknowledge(self.receiver.arrived, 0.0)
        self.receiver.on_ack_sent()
        if missing:
            self.sender.retransmit()
        self.transmit()

    def deliver(self) -> None:
        delivered, self.in_flight[:] = list(self.in_flight), []
        for number, sequence, _, size in delivered:
            if self.receiver.accept(WINDOW_ID, number, size):
                self.received.append(sequence)

    def lose(self) -> None:
        self.in_flight.clear()


def opened(capacity: int | None) -> Network:
    network = Network(capacity)
    network.probe()
    return network


def test_nothing_is_transmitted_before_the_receiver_is_there() -> None:
    network = Network(None)
    network.send()
    assert network.in_flight == []
    network.probe()
    network.deliver()
    assert network.received == [1]


def test_the_window_bounds_the_messages_in_flight() -> None:
    network = opened(10)
    for _ in range(WINDOW + 25):
        network.send()
    assert len(network.in_flight) == WINDOW
    network.probe()
    network.probe()
    # Of the 25 that had to wait, the newest 10 were kept, and those that must not be dropped.
    kept = [260, 270]
    assert network.received == [*range(1, WINDOW + 1), *kept, *range(WINDOW + 16, WINDOW + 26)]
    assert network.sender.dropped == 13
    assert network.sender.is_idle


def test_the_last_transmitted_message_is_known_at_any_time() -> None:
    window = SendWindow(None)
    window.open = True
    numbers = [window.last_transmitted]
    for sequence in (1, 2, 3):
        window.put(sequence, "", 1)
    window.next()
    numbers.append(window.last_transmitted)
    window.next()
    window.undo_next()  # there was no room for it
    numbers.append(window.last_transmitted)
    window.acknowledge(1, 0.0)
    numbers.append(window.last_transmitted)
    window.next()
    window.next()
    numbers.append(window.last_transmitted)
    window.retransmit()
    numbers.append(window.last_transmitted)
    assert numbers == [0, 1, 1, 1, 3, 1]


def test_a_message_larger_than_the_window_is_in_flight_alone() -> None:
    network = opened(10)
    network.send(MAX_IN_FLIGHT * 3)
    network.send(10)
    assert [entry[1] for entry in network.in_flight] == [1]
    network.probe()
    network.probe()
    assert network.received == [1, 2]


def test_messages_lost_in_a_cut_are_retransmitted() -> None:
    network = opened(None)
    network.send()
    network.probe()
    network.send()
    network.send()
    network.lose()
    network.send()
    network.deliver()  # the fourth is not the next one: it is not accepted
    assert network.received == [1]
    network.probe()
    network.deliver()
    assert network.received == [1, 2, 3, 4]


def test_a_new_receiving_process_gets_all_messages_that_are_not_acknowledged() -> None:
    network = opened(None)
    network.send()
    network.probe()
    for _ in range(3):
        network.send()
    network.lose()
    network.sender.restart()
    assert network.sender.last_sequence == 1
    network.receiver = ReceiveWindow()
    network.send()
    network.probe()
    network.deliver()
    assert network.received == [1, 2, 3, 4, 5]


def test_a_new_receiving_process_gets_no_more_messages_than_may_wait() -> None:
    network = opened(2)
    for _ in range(5):
        network.send()
    network.lose()
    network.sender.restart()
    network.receiver = ReceiveWindow()
    network.probe()
    network.deliver()
    assert network.received == [4, 5]
    assert network.sender.dropped == 3


def test_a_new_receiving_process_gets_what_must_not_be_dropped_in_order() -> None:
    network = opened(1)
    for _ in range(WINDOW + 25):
        network.send()
    network.lose()
    network.sender.restart()
    network.receiver = ReceiveWindow()
    network.probe()
    network.deliver()
    assert network.received == [*range(10, WINDOW + 25, 10), WINDOW + 25]


def test_messages_for_a_closed_receiver_are_discarded() -> None:
    network = opened(None)
    network.send()
    network.sender.abandon()
    assert network.sender.is_idle
    assert network.sender.last_sequence == 1


def test_an_acknowledgement_is_due_after_an_eighth_of_the_window() -> None:
    window = ReceiveWindow()
    window.open(WINDOW_ID, 0)
    for number in range(1, WINDOW // 8):
        assert window.accept(WINDOW_ID, number, 1)
        assert not window.is_ack_due()
    assert window.has_unacknowledged()
    assert window.accept(WINDOW_ID, WINDOW // 8, 1)
    assert window.is_ack_due()
    window.on_ack_sent()
    assert not window.has_unacknowledged()
    assert not window.accept(WINDOW_ID + 1, WINDOW // 8 + 1, 1), "a message of a former sender"


@given(
    st.lists(st.sampled_from(["send", "large", "deliver", "lose", "probe", "acknowledge"]), max_size=300),
    st.sampled_from([None, 1, 3]),
)
def test_every_message_arrives_once_and_in_order(steps: list[str], capacity: int | None) -> None:
    network = opened(capacity)
    for step in steps:
        match step:
            case "send":
                network.send()
            case "large":
                network.send(MIN_IN_FLIGHT // 2)
            case "deliver":
                network.deliver()
            case "lose":
                network.lose()
            case "probe":
                network.probe()
            case "acknowledge":
                network.acknowledge()
    for _ in range(len(steps) + 3):
        network.probe()
    assert network.sender.is_idle
    assert network.received == sorted(set(network.received))
    assert len(network.received) == network.sent - network.sender.dropped
    if capacity is None:
        assert network.received == list(range(1, network.sent + 1))


def test_messages_that_arrive_early_are_accepted_after_the_others() -> None:
    window = ReceiveWindow()
    window.open(WINDOW_ID, 0)
    assert not window.accept(WINDOW_ID, 3, 1)
    window.keep_early(WINDOW_ID, 3, "third")
    assert not window.accept(WINDOW_ID, 2, 1)
    window.keep_early(WINDOW_ID, 2, "second")
    assert window.pop_early() is None
    assert window.accept(WINDOW_ID, 1, 1)
    for number, message in ((2, "second"), (3, "third")):
        assert window.pop_early() == message
        assert window.accept(WINDOW_ID, number, 1)
    assert window.pop_early() is None
    assert not window.missing


def test_early_messages_of_one_send_window_are_not_messages_of_the_next() -> None:
    window = ReceiveWindow()
    window.open(WINDOW_ID, 0)
    window.keep_early(WINDOW_ID, 2, "of the first")
    window.open(WINDOW_ID + 1, 1)
    assert window.pop_early() is None
    window.keep_early(WINDOW_ID, 2, "late")
    window.keep_early(WINDOW_ID + 1, 1, "known")
    assert window.pop_early() is None
    assert window.arrived == 1


def test_a_second_process_gets_only_what_is_in_the_latch_now() -> None:
    """Even if the first one ended before it acknowledged what was in the latch at its start."""
    window = LatchedWindow(None, 0)

    def open_with(*latched: int) -> list[tuple[int, bool]]:
        """Return the sequence numbers that a new process gets, and whether again."""
        window.put_latched([(number, b"message") for number in latched])
        window.open = True
        window.acknowledge(window.last, 0.0)
        sent = []
        while (entry := window.next()) is not None:
            sent.append((entry[1], bool(entry[2][1] & LATCHED_FLAG)))
        return sent

    assert open_with(4, 5) == [(4, True), (5, True)]
    window.put(6, (b"message", 0), 7)
    window.restart()
    assert open_with(5, 6) == [(4, False), (5, True), (6, True)]
