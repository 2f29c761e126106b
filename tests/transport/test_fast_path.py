"""Which messages take the fast path to another machine."""

from __future__ import annotations

import pytest

from dora.transport.network.fast_path import FAST_PATH_BYTES, MAX_MESSAGE, OVERHEAD, FastPath


class Receiver:
    """Gets the pings of a fast path; the clock shows one microsecond more each time."""

    def __init__(self) -> None:
        self.pings: list[int] = []
        self.now = 0
        self.path = FastPath(lambda data: self.pings.append(int.from_bytes(data, "little")), self.clock)

    def clock(self) -> int:
        self.now += 1_000
        return self.now

    def acknowledge(self, arrived: int) -> float | None:
        return self.path.on_ack(arrived, self.pings[-1] if self.pings else 0)


def opened() -> Receiver:
    receiver = Receiver()
    receiver.acknowledge(0)
    receiver.acknowledge(0)
    return receiver


def test_the_fast_path_is_closed_until_a_ping_has_arrived() -> None:
    receiver = Receiver()
    assert not receiver.path.accepts(1, 8, 0)
    receiver.acknowledge(1)
    assert not receiver.path.accepts(2, 8, 0)
    receiver.acknowledge(2)
    assert receiver.path.accepts(3, 8, 0)
    assert len(receiver.pings) == 1


def test_a_ping_measures_the_round_trip_once() -> None:
    receiver = Receiver()
    assert receiver.acknowledge(0) is None
    receiver.now += 20_000_000
    assert receiver.acknowledge(0) == pytest.approx(0.02, abs=0.001)
    assert receiver.acknowledge(0) is None
    receiver.path.ping()
    receiver.now += 30_000_000
    assert receiver.acknowledge(0) == pytest.approx(0.03, abs=0.001)


def test_a_ping_from_another_clock_opens_nothing() -> None:
    receiver = Receiver()
    assert receiver.path.on_ack(0, 895 * 10**9) is None
    assert not receiver.path.accepts(1, 8, 0)
    assert receiver.acknowledge(0) == pytest.approx(0, abs=0.001)
    assert receiver.path.accepts(2, 8, 0)


def test_the_fast_path_is_for_messages_of_moderate_size() -> None:
    assert opened().path.accepts(1, MAX_MESSAGE, 0)
    assert not opened().path.accepts(1, MAX_MESSAGE + 1, 0)


def test_no_message_overtakes_one_on_the_regular_path() -> None:
    receiver = opened()
    receiver.path.on_regular(1)
    assert not receiver.path.accepts(2, 8, 0)
    receiver.path.on_regular(2)
    receiver.acknowledge(1)
    assert not receiver.path.accepts(3, 8, 0)
    receiver.acknowledge(2)
    assert receiver.path.accepts(3, 8, 0)


def test_no_more_bytes_are_in_flight_than_the_system_buffers() -> None:
    path = opened().path
    assert path.accepts(1, MAX_MESSAGE, FAST_PATH_BYTES - MAX_MESSAGE - OVERHEAD)
    assert not path.accepts(2, MAX_MESSAGE, FAST_PATH_BYTES - MAX_MESSAGE)


def test_a_message_counts_with_what_the_system_adds_until_it_has_arrived() -> None:
    receiver, number = opened(), 0
    while receiver.path.accepts(number + 1, 8, receiver.path.bytes):
        number += 1
    assert number == FAST_PATH_BYTES // (OVERHEAD + 8)
    receiver.acknowledge(1)
    assert receiver.path.bytes == (number - 1) * (OVERHEAD + 8)
    assert receiver.path.accepts(number + 1, 8, receiver.path.bytes)


def test_a_piggyback_acknowledgement_counts_and_is_never_taken_back() -> None:
    receiver = opened()
    receiver.path.on_regular(1)
    receiver.path.on_arrived(1)
    receiver.acknowledge(0)
    assert receiver.path.accepts(2, 8, 0)


def test_a_ping_from_before_a_loss_does_not_open_the_fast_path() -> None:
    receiver = opened()
    receiver.path.close()
    former = receiver.pings[-1]
    receiver.path.on_ack(0, former)
    assert not receiver.path.accepts(1, 8, 0)
    assert receiver.pings[-1] != former
    receiver.acknowledge(1)
    assert receiver.path.accepts(2, 8, 0)
