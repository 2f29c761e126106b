"""The offset of two clocks is found from round trips, within its error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.wire.clock import ClockFilter, ClockOffset, between, round_trip

HOUR = 3_600_000_000_000
OFFSETS = st.integers(-2 * HOUR, 2 * HOUR)
DELAYS = st.integers(0, 100_000_000)


def trip(offset: int, there: int, work: int, back: int, at: int = 10 * HOUR) -> ClockOffset:
    received = at + there + offset
    return round_trip(at, received, received + work, at + there + work + back)


@given(OFFSETS, DELAYS, DELAYS, DELAYS)
@settings(derandomize=True, deadline=None)
def test_the_true_offset_is_within_the_error(offset: int, there: int, work: int, back: int) -> None:
    found = trip(offset, there, work, back)
    assert abs(found.offset_ns - offset) <= found.error_ns + 1
    assert found.error_ns <= (there + back) // 2


@pytest.mark.lengthy
@given(OFFSETS, st.lists(st.tuples(DELAYS, DELAYS), min_size=1, max_size=20))
@settings(derandomize=True, deadline=None)
def test_the_shortest_way_of_the_last_round_trips_counts(offset: int, ways: list[tuple[int, int]]) -> None:
    kept = ClockFilter()
    for there, back in ways:
        best = kept.add(trip(offset, there, 0, back))
    assert abs(best.offset_ns - offset) <= best.error_ns + 1
    assert best.error_ns == min((there + back) // 2 for there, back in ways[-8:])


def test_a_clock_that_is_set_during_a_round_trip_gives_no_negative_error() -> None:
    """It would be the least error of all, and this round trip the best one."""
    found = trip(0, 1000, 500, -2000)
    assert found.error_ns == 0


def test_a_clock_that_is_set_is_followed_at_once() -> None:
    kept = ClockFilter()
    for _ in range(8):
        kept.add(trip(0, 1000, 0, 1000))
    found = kept.add(trip(HOUR, 40_000_000, 0, 60_000_000))
    assert abs(found.offset_ns - HOUR) <= found.error_ns


def test_two_machines_are_compared_by_a_third_clock() -> None:
    ahead = ClockOffset(HOUR, 1000)  # the third clock is an hour ahead of the source, and as far of none
    assert between(ahead, ClockOffset(0, 500)) == ClockOffset(HOUR, 1500)
    assert between(ClockOffset(0, 500), ahead) == ClockOffset(-HOUR, 1500)
    assert between(ClockOffset(300, 200), ClockOffset(0, 200)) == ClockOffset(0, 400)
