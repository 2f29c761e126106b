"""Which message of an output goes next to another machine, over a network in virtual time."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.gateway.in_flight import MIN_IN_FLIGHT
from dora.gateway.outgoing import (
    BULK,
    CONNECTIONS,
    CONTROL,
    MAX_MESSAGES,
    MAX_SHARED,
    NORMAL,
    SMALL,
    Outgoing,
    OutgoingMessage,
)
from dora.wire.output_rules import Priority

LARGE = 1 << 20
MS = 1_000_000
WALL = 1_700_000_000_000 * MS  # by how much the wall clock is ahead of the one that only goes on


class Machine:
    """An output, its queue for the gateway, and a network that carries its messages in order."""

    def __init__(
        self,
        queue_size: int,
        *,
        loses_nothing: bool = False,
        priority: Priority | None = None,
        age: int = 0,
    ) -> None:
        self.queue: deque[OutgoingMessage] = deque(maxlen=None if loses_nothing else queue_size)
        self.newest = 0
        self.now = 0
        self.kept: set[int] = set()
        capacity = None if loses_nothing else queue_size
        self.stream = Outgoing(
            lambda: self.queue.popleft() if self.queue else None,
            lambda: self.newest,
            capacity,
            age,
            priority,
        )
        self.on_network: list[tuple[int, OutgoingMessage]] = []  # connection, message
        self.received: list[int] = []
        self.stream.resume(0)

    @property
    def wall_ns(self) -> int:
        return WALL + self.now

    def send(self, count: int = 1, size: int = 1, *, kept: bool = False, shared: bool = False) -> None:
        for _ in range(count):
            self.newest += 1
            self.queue.append(OutgoingMessage(self.newest, size, self.wall_ns, kept, shared, None))

    def pump(self) -> list[int]:
        """Send what can go; return the numbers."""
        sent = []
        for connection in range(CONNECTIONS):
            while self.stream.next_connection(self.wall_ns) == connection:
                entry = self.stream.pop(connection, self.now)
                self.on_network.append((connection, entry))
                sent.append(entry.sequence)
        return sent

    def arrive(self) -> None:
        """Let all that is on the network arrive, and acknowledge it."""
        for _, entry in self.on_network:
            self.received.append(entry.sequence)
        self.on_network.clear()
        if self.received:
            self.stream.acknowledge(self.received[-1], self.now)

    def cut(self) -> None:
        self.on_network.clear()
        self.stream.stop()


def test_one_large_message_is_in_flight_and_the_newest_goes_next() -> None:
    machine = Machine(1)
    machine.send(size=LARGE)
    assert machine.pump() == [1]
    machine.send(5, LARGE)
    assert machine.pump() == []
    machine.arrive()
    assert machine.pump() == [6]


def test_a_message_that_waited_here_is_dropped_for_newer_ones() -> None:
    machine = Machine(2)
    machine.send(size=MIN_IN_FLIGHT // 2)
    machine.send(size=LARGE)
    assert machine.pump() == [1]  # the second one has been taken, and has no room
    machine.send(3, LARGE)
    machine.arrive()
    assert machine.pump() == [4]


def test_kept_messages_that_waited_are_not_dropped() -> None:
    machine = Machine(1, priority="normal")
    machine.send(size=MIN_IN_FLIGHT // 2)
    machine.pump()
    machine.send(size=LARGE, kept=True)
    machine.pump()
    machine.send(3)
    machine.arrive()
    assert machine.pump() == [2]
    machine.arrive()
    assert machine.pump() == [5]


def test_without_a_road_everything_stays_in_the_queue() -> None:
    machine = Machine(3)
    machine.stream.stop()
    machine.send(10)
    assert machine.pump() == []
    assert [entry.sequence for entry in machine.queue] == [8, 9, 10]


def test_after_a_cut_only_the_newest_messages_are_sent() -> None:
    machine = Machine(3)
    machine.send(2)
    machine.pump()
    machine.cut()
    machine.send(10)
    machine.stream.resume(0)
    assert machine.pump() == [10, 11, 12]


def test_after_a_cut_back_pressure_has_lost_nothing_and_nothing_comes_twice() -> None:
    machine = Machine(100, loses_nothing=True)
    machine.send(10)
    machine.pump()
    machine.received = list(range(1, 5))  # and the rest was lost
    machine.cut()
    machine.send(3)
    machine.stream.resume(4)
    machine.pump()
    machine.arrive()
    assert machine.received == list(range(1, 14))


def test_messages_of_the_latch_go_first_and_once() -> None:
    machine = Machine(3)
    machine.send(6)
    latched = [OutgoingMessage(number, 1, 0, True, False, None) for number in (4, 5, 6)]
    machine.stream.resume(0, latched)
    assert machine.pump() == [4, 5, 6]
    machine.send()
    assert machine.pump() == [7]


def test_messages_that_wait_before_those_of_the_latch_go_before_them() -> None:
    machine = Machine(10)
    machine.stream.stop()
    machine.send(6)
    latched = [OutgoingMessage(number, 1, 0, True, False, None) for number in (5, 6)]
    machine.stream.resume(2, latched)
    machine.send()
    assert machine.pump() == [3, 4, 5, 6, 7]


def test_a_short_queue_drops_what_waits_before_the_messages_of_the_latch() -> None:
    machine = Machine(3)
    machine.stream.stop()
    machine.send(6)
    latched = [OutgoingMessage(number, 1, 0, True, False, None) for number in (5, 6)]
    machine.stream.resume(0, latched)
    machine.send()
    assert machine.pump() == [5, 6, 7]


def test_a_short_queue_keeps_all_messages_of_the_latch() -> None:
    machine = Machine(1)
    machine.stream.stop()
    machine.send(6)
    latched = [OutgoingMessage(number, 1, 0, True, False, None) for number in (4, 5, 6)]
    machine.stream.resume(0, latched)
    assert machine.pump() == [4, 5, 6]


def test_an_old_message_is_dropped_unless_it_is_the_newest() -> None:
    machine = Machine(10, age=100 * MS, priority="normal")
    machine.send(size=MIN_IN_FLIGHT // 2)
    machine.send(size=LARGE)
    machine.pump()
    machine.now = 200 * MS
    machine.send(size=LARGE)
    machine.arrive()
    assert machine.pump() == [3]
    machine.now = 400 * MS
    machine.arrive()
    assert machine.received[-1] == 3


def test_old_messages_in_the_queue_are_dropped_unless_they_are_kept_or_the_newest() -> None:
    machine = Machine(10, age=100 * MS)
    machine.send(2)
    machine.send(kept=True)
    machine.send()
    machine.now = 200 * MS
    machine.send()
    machine.now = 301 * MS
    assert machine.pump() == [3, 5]


def test_a_message_that_is_young_enough_is_not_dropped() -> None:
    machine = Machine(10, age=100 * MS)
    machine.send(3)
    machine.now = 100 * MS
    assert machine.pump() == [1, 2, 3]


def test_small_messages_have_a_connection_of_their_own_and_keep_their_order() -> None:
    machine = Machine(100)
    machine.send()
    machine.send(size=LARGE)
    machine.send()
    assert machine.pump() == [1]  # the large one would overtake it, or be overtaken
    machine.arrive()
    assert machine.pump() == [2]
    machine.arrive()
    machine.pump()
    machine.arrive()
    assert machine.received == [1, 2, 3]


def test_a_larger_message_waits_for_the_smaller_ones_and_a_smaller_one_goes_behind_the_larger() -> None:
    machine = Machine(100)
    machine.send()
    machine.pump()
    machine.send(size=SMALL + 1)
    assert machine.pump() == [], "it would be in the way of small messages of others"
    machine.arrive()
    machine.pump()
    machine.send()
    machine.pump()
    assert machine.on_network[0][0] == machine.on_network[1][0] == NORMAL
    machine.arrive()
    machine.send()
    machine.pump()
    assert machine.on_network[0][0] == CONTROL


@pytest.mark.parametrize(
    ("priority", "size", "connection"),
    [
        (None, 1, CONTROL),
        (None, LARGE, NORMAL),
        ("control", LARGE, CONTROL),
        ("normal", 1, NORMAL),
        ("bulk", 1, BULK),
    ],
)
def test_the_priority_of_the_output_names_the_connection(
    priority: Priority | None, size: int, connection: int
) -> None:
    machine = Machine(10, priority=priority)
    machine.send(size=size)
    machine.pump()
    assert [number for number, _ in machine.on_network] == [connection]


def test_what_nobody_wants_is_discarded_and_counts_as_arrived() -> None:
    machine = Machine(10)
    machine.send(5)
    machine.stream.skip()
    assert machine.stream.arrived == 5
    machine.send()
    assert machine.pump() == [6]


def test_the_gateway_sleeps_on_an_empty_queue_only() -> None:
    machine = Machine(10)
    machine.pump()
    assert machine.stream.is_hungry
    machine.send(2, LARGE)
    machine.pump()
    assert not machine.stream.is_hungry


@pytest.mark.lengthy
@given(
    st.lists(st.sampled_from(["send", "large", "pump", "arrive", "cut", "skip"]), max_size=60),
    st.booleans(),
    st.integers(1, 20),
)
def test_numbers_grow_and_little_is_in_flight(
    steps: list[str], loses_nothing: bool, queue_size: int
) -> None:
    machine = Machine(queue_size, loses_nothing=loses_nothing)
    for step in steps:
        match step:
            case "send":
                machine.send()
            case "large":
                machine.send(size=LARGE)
            case "pump":
                machine.pump()
            case "arrive":
                machine.arrive()
            case "cut":
                machine.cut()
                machine.stream.resume(machine.received[-1] if machine.received else 0)
            case "skip" if not loses_nothing:
                machine.arrive()
                machine.stream.skip()
        sizes = [entry.size for _, entry in machine.on_network]
        assert len(sizes) <= MAX_MESSAGES
        assert len(sizes) <= 1 or sum(sizes) <= machine.stream.limit.bytes
    machine.arrive()
    while machine.pump():
        machine.arrive()
    assert machine.received == sorted(set(machine.received))
    if loses_nothing:
        assert machine.received == list(range(1, machine.newest + 1))
    elif machine.newest and "skip" not in steps:
        assert machine.received[-1] == machine.newest


def test_what_the_network_does_not_take_is_held_back() -> None:
    machine = Machine(10)
    machine.pump()
    assert not machine.stream.is_held_back
    machine.send(3, LARGE)
    assert machine.stream.waiting(machine.newest) == 3
    machine.pump()
    assert machine.stream.is_held_back
    assert machine.stream.waiting(machine.newest) == 2
    machine.stream.stop()
    assert not machine.stream.is_held_back


def test_no_more_waits_than_the_queue_holds() -> None:
    machine = Machine(10)
    machine.stream.stop()
    machine.newest = 1000
    assert machine.stream.waiting(machine.newest) == 10


def test_receivers_hold_few_messages_in_shared_memory() -> None:
    machine = Machine(100, priority="normal")
    machine.send(100, shared=True)
    assert machine.pump() == list(range(1, MAX_SHARED + 1))
    machine.arrive()
    assert len(machine.pump()) == MAX_SHARED, "those that have arrived are given back"
    machine.cut()
    machine.stream.resume(machine.received[-1])
    assert len(machine.pump()) == MAX_SHARED, "and those on a road that was cut are sent again"


def test_messages_in_shared_memory_on_a_bypass_count_with_the_others() -> None:
    machine = Machine(100, priority="control")
    machine.send(MAX_SHARED, shared=True)
    machine.stream.note_bypassed(MAX_SHARED)
    machine.stream.acknowledge(1, 0)
    machine.send(2, shared=True)
    assert machine.pump() == [], "the bypass has to be empty first"
    machine.stream.end_bypass()
    assert len(machine.pump()) == MAX_SHARED
    machine.arrive()
    assert machine.stream.in_flight_bytes == 0
    machine.send(2, shared=True)
    machine.stream.note_bypassed(machine.newest)
    machine.stream.acknowledge(machine.newest, 0)
    machine.send(2 * MAX_SHARED, shared=True)
    assert len(machine.pump()) == MAX_SHARED


def test_an_acknowledgement_is_asked_for_before_as_much_is_in_flight_as_may_be() -> None:
    for shared, most in ((True, MAX_SHARED), (False, MAX_MESSAGES)):
        machine = Machine(1000)
        machine.send(most, shared=shared)
        machine.pump()
        asked = [machine.stream.asks_for_ack(entry) for _, entry in machine.on_network]
        assert (len(asked), sum(asked)) == (most, 4)


def test_what_nobody_wants_any_more_does_not_count_as_arrived_while_messages_are_in_flight() -> None:
    machine = Machine(10)
    machine.send(2)
    machine.pump()
    machine.send(3)
    machine.stream.is_hungry = False  # as `Road.pump` has seen them
    machine.stream.skip()
    assert machine.stream.arrived == 0
    assert machine.stream.is_hungry, "a message to come wakes the gateway"
    machine.arrive()
    assert machine.stream.arrived == 2
    machine.stream.skip()
    assert machine.stream.arrived == 5


def test_an_output_goes_first_while_it_has_much_to_send() -> None:
    machine = Machine(1000)
    assert not machine.stream.goes_first
    machine.send()
    machine.pump()
    assert not machine.stream.goes_first, "a small message leaves room for others"
    machine.send()
    assert machine.stream.goes_first
    machine.pump()
    machine.arrive()
    machine.send(size=LARGE)
    machine.pump()
    assert machine.stream.goes_first
    machine.arrive()
    assert not machine.stream.goes_first


def test_what_a_machine_has_is_what_it_says_or_has_acknowledged_before() -> None:
    machine = Machine(10)
    machine.send(5)
    machine.pump()
    machine.cut()
    for said in (5, 3):
        machine.stream.resume(said)
        assert machine.stream.arrived == 5
        machine.cut()
    machine.stream.resume(5)
    machine.send()
    assert machine.pump() == [6]


def test_a_bypass_takes_no_later_message_from_a_queue_with_a_gap() -> None:
    machine = Machine(2)
    machine.send(4)
    assert machine.stream.note_bypassed(2) == 0
    assert machine.pump() == []
    machine.stream.acknowledge(2, machine.now)
    assert machine.pump() == [3, 4]
