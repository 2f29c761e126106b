"""How much may be in flight, on networks of different rates."""

from __future__ import annotations

from collections import deque

import pytest

from dora.gateway.in_flight import MAX_IN_FLIGHT, MIN_IN_FLIGHT, InFlightLimit


class Network:
    """Carries messages of one link, one after the other; acknowledgements take half of the round trip."""

    def __init__(self, rate: float, round_trip: float, *, asks_always: bool = False) -> None:
        self.asks_always = asks_always  # for an acknowledgement, as it is for messages from 16 KiB on
        self.limit = InFlightLimit()
        self.rate, self.round_trip = rate, round_trip
        self.now = self.free_at = 0.0
        self.sent: deque[tuple[int, int, float]] = (
            deque()
        )  # number, size, when its acknowledgement is there
        self.number = self.in_flight = 0
        self.delivered = 0

    def run(self, size: int, seconds: float, *, is_full: bool = True) -> float:
        """Send as much as may be in flight; return the rate at which it arrived."""
        began, before = self.now, self.delivered
        while self.now < began + seconds:
            while not self.sent or self.in_flight + size <= self.limit.bytes:
                self.send(size)
            number, size, self.now = self.sent.popleft()
            self.in_flight -= size
            self.delivered += size
            self.limit.on_ack(number, size, self.now, is_full=is_full)
        return (self.delivered - before) / (self.now - began)

    def send(self, size: int) -> None:
        self.number += 1
        self.in_flight += size
        if self.in_flight == size:
            self.limit.begin(self.now)
        if self.asks_always or self.in_flight > self.limit.bytes // 2:
            self.limit.measure(self.number, is_alone=self.in_flight == size)
        self.free_at = max(self.free_at, self.now) + size / self.rate
        self.sent.append((self.number, size, self.free_at + self.round_trip))


@pytest.mark.parametrize("round_trip", [0.0002, 0.02, 0.1])
@pytest.mark.parametrize(
    ("rate", "size"),
    [(125e3, 1_000), *((rate, size) for rate in (1.25e6, 12.5e6, 1.25e9) for size in (20_000, 1 << 20))],
)
def test_a_network_is_kept_busy_with_no_more_than_it_carries_in_two_round_trips(
    rate: float, round_trip: float, size: int
) -> None:
    network = Network(rate, round_trip)
    network.limit.on_round_trip(round_trip)
    seconds = min(5.0, 10_000 * size / rate)
    network.run(size, seconds)
    found = network.run(size, seconds)
    if network.limit.bytes not in (MIN_IN_FLIGHT, MAX_IN_FLIGHT):
        assert network.limit.bytes <= 1.05 * rate * max(2 * round_trip, 0.02)
        # Waiting for the acknowledgement of one large message takes a round trip.
        assert found >= 0.95 * rate / (1 + round_trip * rate / size) or found >= 0.95 * rate
    assert network.limit.bytes <= MAX_IN_FLIGHT


def test_a_network_that_becomes_slower_or_faster_is_followed() -> None:
    network = Network(12.5e6, 0.005)
    network.limit.on_round_trip(0.005)
    network.run(10_000, 2.0)
    assert 230_000 < network.limit.bytes < 260_000
    network.rate = 50e6
    network.run(10_000, 1.0)
    assert 900_000 < network.limit.bytes < 1_050_000
    network.rate = 12.5e6
    network.run(10_000, 6.0)
    assert 230_000 < network.limit.bytes < 260_000


def test_a_pause_of_the_receiver_does_not_make_a_network_slow() -> None:
    network = Network(50e6, 0.001)
    network.run(10_000, 1.0)
    before = network.limit.bytes
    network.free_at += 0.3  # the receiving program computes
    network.run(10_000, 0.5)
    assert network.limit.bytes == before


def test_a_program_that_sends_little_does_not_make_a_network_slow() -> None:
    network = Network(50e6, 0.001)
    network.run(10_000, 1.0)
    before = network.limit.bytes
    network.limit.on_ack(network.number, 0, network.now, is_full=False)
    for _ in range(100):
        network.now += 0.1
        network.limit.begin(network.now)
        assert network.limit.measure(network.number + 1)
        network.number += 1
        network.limit.on_ack(network.number, 100, network.now + 0.001, is_full=False)
    assert network.limit.bytes == before


def test_late_acknowledgements_of_earlier_messages_do_not_make_a_network_fast() -> None:
    limit = InFlightLimit()
    limit.begin(1.0)
    # 60,000 bytes arrive in 0.2 s without an acknowledgement; that of the next message covers them.
    assert limit.measure(61)
    limit.on_ack(61, 60_100, 1.201, is_full=False)
    assert limit.rate == pytest.approx(300_000, rel=0.01)


def test_one_message_at_a_time_ends_a_sample() -> None:
    limit = InFlightLimit()
    limit.begin(1.0)
    assert limit.measure(1)
    assert not limit.measure(2)
    limit.on_ack(1, 100, 1.1, is_full=False)
    assert limit.measure(3)


def test_the_shortest_round_trip_counts() -> None:
    network = Network(12.5e6, 0.02)
    for seconds in (0.3, 0.02, 0.5):
        network.limit.on_round_trip(seconds)
    network.run(10_000, 1.0)
    assert network.limit.bytes == pytest.approx(12.5e6 * 0.04, rel=0.05)


@pytest.mark.parametrize(("rate", "round_trip", "size"), [(12.5e6, 0.02, 64_000), (12.5e6, 0.05, 200_000)])
def test_messages_that_begin_alone_fill_a_distant_network(
    rate: float, round_trip: float, size: int
) -> None:
    network = Network(rate, round_trip, asks_always=True)
    network.limit.on_round_trip(round_trip)
    network.run(size, 5.0)
    assert network.run(size, 5.0) > 0.9 * rate
    assert network.limit.bytes < 2.5 * rate * round_trip


def test_a_message_among_others_shows_what_the_network_carries_if_it_is_full() -> None:
    limit = InFlightLimit()
    limit.begin(1.0)
    for number, is_full, capacity in ((1, False, 0.0), (2, True, 500_000)):
        limit.measure(number)
        limit.on_ack(number, 50_000, 1.0 + number / 10, is_full=is_full)
        assert limit.capacity == pytest.approx(capacity)
