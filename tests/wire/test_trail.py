"""The origins of a message: what is passed on, joined, shortened, and moved to another clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.wire.message import Encoding, Message, pack_head
from dora.wire.trail import (
    ENTRY_SIZE,
    MAX_HOPS,
    MAX_ORIGINS,
    DataOrigin,
    Hop,
    Trailed,
    fit,
    hops_of,
    join,
    origins_of,
    pack_entry,
    passes_of,
    shift,
    synthetic,
)

OUTPUTS = st.integers(1, 6)
TIMES = st.integers(1, 1000)


def single(output: int, time_ns: int, passes: int = 0) -> Trailed:
    return synthetic(time_ns, output, passes, 0, 0), b""


def sent(trailed: Trailed) -> Trailed:
    """Return what a receiver gets of it."""
    header, trail = trailed
    head = pack_head(Encoding.PLAIN, b"C", b"", 0, 1, 5, b"", header[-2], header[-1], trail)
    message = Message(head)
    message.validate(len(head))
    return message.header, message.trail


@pytest.mark.lengthy
@given(st.lists(st.lists(st.tuples(OUTPUTS, TIMES), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(derandomize=True, deadline=None)
def test_a_join_has_the_oldest_and_the_newest_time_of_every_output(
    groups: list[list[tuple[int, int]]],
) -> None:
    joined = sent(join(sent(join(single(*one) for one in group)) for group in groups))
    everything = [one for group in groups for one in group]
    expected = {
        output: DataOrigin(
            output,
            min(time for other, time in everything if other == output),
            max(time for other, time in everything if other == output),
        )
        for output, _ in everything
    }
    found = origins_of(*joined)
    assert {origin.output: origin for origin in found} == expected
    assert found[0].oldest_ns == min(time for _, time in everything)


@given(st.lists(st.tuples(st.integers(1, 100), TIMES), min_size=1, max_size=60))
@settings(derandomize=True, deadline=None)
def test_a_join_of_many_keeps_the_oldest_and_the_newest(many: list[tuple[int, int]]) -> None:
    found = origins_of(*sent(join(single(*one) for one in many)))
    assert len(found) <= MAX_ORIGINS + 1
    assert min(origin.oldest_ns for origin in found) == min(time for _, time in many)
    assert max(origin.newest_ns for origin in found) == max(time for _, time in many)


def test_a_join_keeps_the_hops_of_all_once() -> None:
    header = synthetic(5, 1, 1, 0, ENTRY_SIZE)
    left = header, pack_entry(7, 10, 20)
    right = header, pack_entry(8, 11, 21)
    joined = join([left, right, left, single(2, 4, passes=3)])
    assert hops_of(*joined) == [Hop(7, 10, 20), Hop(8, 11, 21)]
    assert passes_of(joined[0]) == 3


def test_a_join_of_more_outputs_than_there_is_room_for_keeps_the_oldest_ones_and_the_newest() -> None:
    found = origins_of(*sent(join(single(output, 1000 + output) for output in range(1, 61))))
    assert [origin.output for origin in found] == [*range(1, MAX_ORIGINS + 1), 60]


def test_a_join_of_many_hops_keeps_the_last_ones() -> None:
    hops = [Hop(number, number, number) for number in range(1, MAX_HOPS + 31)]
    header = synthetic(5, 1, 1, 0, ENTRY_SIZE)
    joined = sent(join((header, pack_entry(*hop)) for hop in hops))
    assert hops_of(*joined) == hops[-MAX_HOPS:]


def test_a_join_was_passed_on_as_often_as_the_message_that_was_passed_on_most() -> None:
    """Else data that goes in a circle grows old."""
    for passes in ([3, 1], [1, 3], [0, 3, 2]):
        joined = join(single(1, 5, count) for count in passes)
        assert passes_of(joined[0]) == 3


@given(st.integers(-10, 100))
def test_what_does_not_fit_is_left_out_in_whole_entries(room: int) -> None:
    header, trail = join([single(1, 1), single(2, 2), single(3, 3)])
    origin, left = fit(header[-1], trail, room)
    assert len(left) <= max(room, 0)
    found = origins_of(*sent(((*synthetic(1, 1, 0, 0, 0)[:-1], origin), left)))
    assert [one.output for one in found] == [1, 2, 3][: 1 + max(room, 0) // ENTRY_SIZE]


def test_another_clock_moves_all_times() -> None:
    header, trail = join([single(1, 100), single(2, 200)])
    assert origins_of(*shift(header, trail, 50)) == [DataOrigin(1, 150, 150), DataOrigin(2, 250, 250)]
    assert origins_of(*shift(header, trail, -150)) == [DataOrigin(1, 0, 0), DataOrigin(2, 50, 50)]


def test_a_time_that_another_clock_moves_out_of_range_is_the_last_one() -> None:
    """A message from another machine may claim any time."""
    last = 2**64 - 1
    header = synthetic(last, 1, 0, 1, ENTRY_SIZE)
    moved = sent(shift(header, pack_entry(2, last - 5, last), 10))
    assert origins_of(*moved) == [DataOrigin(1, last, last), DataOrigin(2, last, last)]
