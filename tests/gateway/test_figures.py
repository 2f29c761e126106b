"""What the gateway says about a network: what is available, who takes it, how old messages arrive."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from dora.gateway.ages import REPORT_EVERY, AgeReports, Ages
from dora.gateway.figures import NetworkFigures, Shares
from dora.gateway.in_flight import InFlightLimit
from dora.gateway.tcp_info import packets_of
from dora.transport.board import CLOSED, CONNECTED, LINE_BYTES, UNCONNECTED, WORDS
from dora.wire.counters import (
    ARRIVED_BYTES,
    AVAILABLE,
    CROWDED,
    CUTS,
    HIGHEST_SHARE,
    MEDIAN_AGES,
    NETWORK_STATE,
    P99_AGES,
    PACKETS,
    RESENT_PACKETS,
    ROUND_TRIP,
    SENT_BYTES,
    SHARE,
    WAITING,
)

RATE = 1_250_000.0  # bytes a second: 10 Mbit/s


def look(
    shares: Shares, seconds: float, used: dict[str, float], *, waits: bool, capacity: float = 0
) -> None:
    """Let a network run for so long; ``used``: bytes a second of each output."""
    began = shares.seconds
    for step in range(round(began * 10), round((began + seconds) * 10) + 1):
        now = step / 10
        arrived = {output: round(rate * now) for output, rate in used.items()}
        shares.add(now, sum(arrived.values()), waits, arrived, capacity)


def test_a_full_network_has_no_more_than_it_carries() -> None:
    shares = Shares()
    look(shares, 4, {"camera/image": 0.94 * RATE, "arm/state": 0.06 * RATE}, waits=True, capacity=2 * RATE)
    assert shares.available == pytest.approx(RATE)
    assert shares.share("camera/image") == pytest.approx(0.94)
    assert shares.share("arm/state") == pytest.approx(0.06)


def test_a_network_that_is_not_full_has_what_single_messages_have_shown() -> None:
    shares = Shares()
    look(shares, 4, {"camera/image": RATE / 4}, waits=False, capacity=RATE)
    assert (shares.available, shares.share("camera/image")) == (RATE, pytest.approx(0.25))


def test_small_messages_do_not_show_what_a_network_carries() -> None:
    shares = Shares()
    look(shares, 4, {"arm/state": 6400}, waits=False)
    assert (shares.available, shares.share("arm/state")) == (0, 0)


def test_a_share_needs_some_seconds() -> None:
    shares = Shares()
    look(shares, 2.5, {"camera/image": RATE}, waits=True, capacity=RATE)
    assert shares.share("camera/image") == 0
    look(shares, 1, {"camera/image": RATE}, waits=True, capacity=RATE)
    assert shares.share("camera/image") == pytest.approx(1)
    shares.forget()
    assert (shares.seconds, shares.share("camera/image")) == (0, 0)


def test_an_output_that_came_later_takes_nothing_yet() -> None:
    shares = Shares()
    look(shares, 4, {"camera/image": RATE}, waits=True)
    shares.add(4.1, 1, True, {"lidar/points": 10_000_000}, 0)
    assert shares.share("lidar/points") == 0


@pytest.mark.parametrize("size", [20_000, 64_000, 1 << 20])
def test_a_message_alone_shows_what_the_network_carries(size: int) -> None:
    limit, round_trip = InFlightLimit(), 0.02
    limit.on_round_trip(round_trip)
    for number in range(1, 4):
        now = number * 10.0
        limit.begin(now)
        limit.measure(number, is_alone=True)
        limit.on_ack(number, size, now + size / RATE + round_trip, is_full=False)
    longest = size / RATE + round_trip  # a short message on a long way counts as a quarter of it
    assert limit.capacity == pytest.approx(min(RATE, size / (longest / 4)), rel=0.01)


def test_a_slower_network_is_noticed_after_some_seconds() -> None:
    limit = InFlightLimit()
    for number in range(1, 80):
        now, rate = number / 10, RATE if number < 20 else RATE / 5
        limit.begin(now)
        limit.measure(number, is_alone=True)
        limit.on_ack(number, 50_000, now + 50_000 / rate, is_full=False)
    assert limit.capacity == pytest.approx(RATE / 5)


def test_a_stream_of_small_messages_says_nothing_about_the_network() -> None:
    limit = InFlightLimit()
    for number in range(1, 1000):
        limit.begin(number / 100)
        limit.measure(number, is_alone=True)
        limit.on_ack(number, 64, number / 100 + 0.001, is_full=False)
    assert limit.capacity == 0


def test_ages_are_a_sample_and_never_negative() -> None:
    ages = Ages()
    count = 0
    for tick in range(20):
        ages.allow()
        while ages.wanted:
            ages.add(tick / 10, -1 if tick < 10 else 5_000_000)
            count += 1
    assert count == 20 * 64
    assert ages.quantiles(2.0) == (5_000_000, 5_000_000)
    assert len(ages._ages) == 512


def test_the_system_counts_packets() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(server.getsockname())
    with server, near, server.accept()[0] as far:
        near.sendall(bytes(1000))
        assert far.recv(1000)
        assert packets_of(near) == ((1, 0) if hasattr(socket, "TCP_INFO") else (0, 0))
    assert packets_of(near) == (0, 0)


class Stream:
    """What the figures need of a stream."""

    number = 1
    figures = 1 * WORDS
    config = SimpleNamespace(name="camera/image")
    is_wanted = True

    def __init__(self) -> None:
        self.waiting = 0
        limit = SimpleNamespace(capacity=RATE)
        self.outgoing = SimpleNamespace(priority=1, arrived_bytes=0, is_held_back=False, limit=limit)


def road() -> Any:
    connections = [SimpleNamespace(written=0, socket=socket.socket()) for _ in range(3)]
    return SimpleNamespace(connections=connections, last_round_trip=0.02, ages_there=[], closed_there=False)


def test_the_board_has_the_figures_of_a_network_and_its_outputs() -> None:
    words = memoryview(bytearray(2 * LINE_BYTES)).cast("Q")
    figures, stream, first = NetworkFigures(words, 0), Stream(), road()
    figures.write(0.0, None, [stream])  # type: ignore[list-item]
    assert words[NETWORK_STATE] == UNCONNECTED
    for tick in range(60):
        size = round(RATE * tick / 10 * 0.9)
        first.connections[1].written = stream.outgoing.arrived_bytes = size
        stream.waiting, stream.outgoing.is_held_back = 2, True
        figures.write(tick / 10, first, [stream])  # type: ignore[list-item]
    assert words[NETWORK_STATE] == CONNECTED
    assert words[SENT_BYTES[1].word] == words[stream.figures + ARRIVED_BYTES.word] == size
    assert words[ROUND_TRIP.word] == 20_000_000
    assert words[WAITING[1].word] == 2
    assert words[AVAILABLE.word] == pytest.approx(0.9 * RATE, rel=0.01)
    assert words[stream.figures + SHARE.word] == words[stream.figures + HIGHEST_SHARE.word] == 1000
    assert 2000 < words[stream.figures + CROWDED.word] < 3500
    for connection in first.connections:
        connection.socket.close()


def test_a_cut_is_counted_when_it_is_over_and_totals_go_on() -> None:
    words = memoryview(bytearray(2 * LINE_BYTES)).cast("Q")
    figures, stream = NetworkFigures(words, 0), Stream()
    now = 0.0
    for connected in (True, False, True, False):
        there = road() if connected else None
        for written in (100, 200):
            now += 0.1
            if there is not None:
                there.connections[0].written = written
            figures.write(now, there, [stream])  # type: ignore[list-item]
    assert (words[CUTS.word], words[NETWORK_STATE]) == (1, CLOSED)
    assert words[SENT_BYTES[0].word] == 400


def test_a_connection_that_the_other_side_replaces_is_no_cut() -> None:
    words = memoryview(bytearray(2 * LINE_BYTES)).cast("Q")
    figures, replaced = NetworkFigures(words, 0), road()
    figures.write(0.0, replaced, [])
    replaced.closed_there = True
    figures.write(0.1, None, [])
    assert words[NETWORK_STATE] == CLOSED
    figures.write(0.2, road(), [])
    assert (words[CUTS.word], words[NETWORK_STATE]) == (0, CONNECTED)


def test_figures_of_a_former_gateway_go_on() -> None:
    words = memoryview(bytearray(2 * LINE_BYTES)).cast("Q")
    for _ in range(2):
        figures, there = NetworkFigures(words, 0), road()
        there.connections[2].written = 50
        figures.write(0.0, there, [])
    assert words[SENT_BYTES[2].word] == 100


def board() -> memoryview:
    return memoryview(bytearray(2 * LINE_BYTES)).cast("Q")


def test_a_cut_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.gateway.figures.packets_of", lambda _: (0, 0))
    words = board()
    figures = NetworkFigures(words, 0)
    for now, there in enumerate((road(), None, road(), road())):
        figures.write(float(now), there, [])
    assert words[CUTS.word] == 1


def test_packets_are_counted_once_and_those_of_a_former_connection_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("dora.gateway.figures.packets_of", lambda _: found[-1])
    words = board()
    figures, there = NetworkFigures(words, 0), road()
    for packets in ((10, 1), (10, 1), (15, 3)):
        found.append(packets)
        figures.write(float(len(found)), there, [])
    assert (words[PACKETS.word], words[RESENT_PACKETS.word]) == (3 * 15, 3 * 3)
    found.append((2, 0))
    figures.write(9.0, road(), [])
    assert (words[PACKETS.word], words[RESENT_PACKETS.word]) == (3 * 17, 3 * 3)


def test_packets_go_on_after_the_system_begins_to_count_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts them in 32 bits."""
    found = [(1, 0), ((1 << 32) - 1, 0)]
    monkeypatch.setattr("dora.gateway.figures.packets_of", lambda _: found[-1])
    words = board()
    figures, there = NetworkFigures(words, 0), road()
    figures.write(0.0, there, [])
    found.pop()
    figures.write(1.0, there, [])
    assert words[PACKETS.word] == 3 * ((1 << 32) + 1)


def test_what_waits_for_nobody_fills_no_network() -> None:
    words, stream = board(), Stream()
    figures = NetworkFigures(words, 0)
    stream.waiting, stream.is_wanted = 5, False
    figures.write(0.0, None, [stream])  # type: ignore[list-item]
    assert words[WAITING[1].word] == 0


def test_an_output_takes_no_share_of_a_network_that_is_cut() -> None:
    words, stream = board(), Stream()
    figures, there = NetworkFigures(words, 0), road()

    def run(first: int, last: int, rate: float) -> None:
        for tick in range(first, last):
            stream.outgoing.arrived_bytes += round(rate / 10)
            figures.write(tick / 10, there, [stream])  # type: ignore[list-item]

    run(0, 50, RATE / 2)
    assert words[stream.figures + SHARE.word] == pytest.approx(500, abs=20)
    run(50, 120, RATE / 4)
    assert words[stream.figures + SHARE.word] == pytest.approx(250, abs=20)
    figures.write(12.1, None, [stream])  # type: ignore[list-item]
    assert words[stream.figures + SHARE.word] == 0
    there = road()
    run(122, 125, RATE / 4)
    assert words[stream.figures + SHARE.word] == 0, "the seconds before the cut do not count"
    assert words[stream.figures + HIGHEST_SHARE.word] == pytest.approx(500, abs=20)


def test_the_board_has_the_last_ages_that_the_other_machine_has_reported() -> None:
    words = board()
    figures, there = NetworkFigures(words, 0), road()
    for now, ages in enumerate(([(5, 9), (0, 0), (0, 3)], [(0, 0), (7, 8), (0, 0)])):
        there.ages_there = ages
        figures.write(float(now), there, [])
    assert [words[figure.word] for figure in MEDIAN_AGES] == [5, 7, 0]
    assert [words[figure.word] for figure in P99_AGES] == [9, 8, 3]


def test_ages_are_reported_once_a_second_while_messages_come_and_they_change() -> None:
    said: list[list[tuple[int, int]]] = []
    reports = AgeReports(said.append)
    ages = reports.of_connection[1]
    began = reports._due - REPORT_EVERY
    for tick in range(100):
        now = began + tick / 10
        reports.tick(now)
        assert ages.wanted == 64
        if tick < 25:
            while ages.wanted:
                ages.add(now, 5 if tick < 15 else 1000)
    assert said == [[(0, 0), age, (0, 0)] for age in ((5, 5), (1000, 1000))]
