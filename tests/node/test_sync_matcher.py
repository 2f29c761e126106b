"""The matcher of synchronised inputs, against a model that looks at all messages at once."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.node.receive.sync_matcher import Matcher

PLENTY = 10_000
Message = tuple[int, int, int]  # input, number on the input, timestamp
Policy = Literal["nearest", "latest"]


def usable(times: list[int], index: int) -> list[Message]:
    """Return the messages of an input without those that are not newer than their predecessors."""
    newest = -(10**9)
    found = []
    for number, time in enumerate(times):
        if time > newest or (time == newest and not index):
            found.append((index, number, time))
            newest = time
    return found


def expected(
    streams: list[list[int]], tolerance: int | None, policy: Policy, histories: list[int | None]
) -> list[list[Any]]:
    """Return all complete sets, by trying every message as a partner of every leading one."""
    inputs = [usable(times, index) for index, times in enumerate(streams)]
    sets = []
    for lead in inputs[0]:
        chosen: list[Message] = [lead]
        for side in inputs[1:]:
            near = [item for item in side if tolerance is None or abs(item[2] - lead[2]) <= tolerance]
            if policy == "latest":
                near = [item for item in near if item[2] <= lead[2]]
            if near:
                chosen.append(min(near, key=lambda item: (abs(item[2] - lead[2]), item[2])))
        if len(chosen) == len(streams):
            sets.append(
                [
                    item if frames is None else inputs[index][max(at - frames, 0) : at + 1]
                    for index, (item, frames) in enumerate(zip(chosen, histories, strict=True))
                    for at in (inputs[index].index(item),)
                ]
            )
    return sets


def members_of(sets: list[list[Any]]) -> set[Message]:
    return {
        item
        for members in sets
        for member in members
        for item in (member if isinstance(member, list) else [member])
    }


STREAMS = st.lists(st.lists(st.integers(0, 40), max_size=14), min_size=2, max_size=4)
SORTED_MOSTLY = st.one_of(STREAMS, STREAMS.map(lambda streams: [sorted(times) for times in streams]))


@pytest.mark.lengthy
@given(
    SORTED_MOSTLY,
    st.sampled_from(["nearest", "latest"]),
    st.integers(0, 8),
    st.booleans(),
    st.data(),
    st.randoms(use_true_random=False),
)
def test_the_sets_are_those_of_the_model_in_every_order_of_arrival(
    streams: list[list[int]],
    policy: Policy,
    tolerance: int,
    ages: bool,
    data: st.DataObject,
    chance: random.Random,
) -> None:
    limit = None if ages and policy == "latest" else tolerance
    histories = [data.draw(st.sampled_from([None, 0, 1, 3])) for _ in streams]
    matcher: Matcher[Message] = Matcher(
        [PLENTY] * len(streams), tolerance=limit, policy=policy, histories=histories
    )
    pending = [index for index, times in enumerate(streams) for _ in (*times, "the end")]
    chance.shuffle(pending)
    next_number = [0] * len(streams)
    found = []
    for index in pending:
        number = next_number[index]
        next_number[index] += 1
        if number == len(streams[index]):
            matcher.end(index)
        else:
            time = streams[index][number]
            assert not matcher.add(index, time, (index, number, time), 0)
        while (match := matcher.next(0)) is not None:
            assert not match.missing
            found.append(match.members)
    model = expected(streams, limit, policy, histories)
    assert found == model
    assert matcher.complete == len(model)
    assert all(matcher.is_done(index) for index in range(len(streams)))
    matcher.clear()
    given_out = members_of(model)
    for index, times in enumerate(streams):
        assert matcher.sides[index].unmatched == len(times) - sum(item[0] == index for item in given_out)


@pytest.mark.lengthy
@given(SORTED_MOSTLY, st.integers(0, 8), st.randoms(use_true_random=False))
def test_with_a_timeout_each_leading_message_makes_a_set_and_the_complete_ones_are_the_same(
    streams: list[list[int]], tolerance: int, chance: random.Random
) -> None:
    matcher: Matcher[Message] = Matcher([PLENTY] * len(streams), tolerance=tolerance, timeout=10)
    pending = [index for index, times in enumerate(streams) for _ in (*times, "the end")]
    chance.shuffle(pending)
    next_number = [0] * len(streams)
    found = []
    for index in pending:  # all within the timeout
        number = next_number[index]
        next_number[index] += 1
        if number == len(streams[index]):
            matcher.end(index)
        else:
            time = streams[index][number]
            matcher.add(index, time, (index, number, time), 5)
        while (match := matcher.next(14)) is not None:
            found.append(match)
    assert [match.members[0] for match in found] == usable(streams[0], 0)
    complete = [match.members for match in found if not match.missing]
    assert complete == expected(streams, tolerance, "nearest", [None] * len(streams))
    assert all(
        [index for index, member in enumerate(match.members) if member is None] == match.missing
        for match in found
    )


def test_a_set_is_given_as_soon_as_a_message_proves_that_no_better_partner_comes() -> None:
    matcher: Matcher[str] = Matcher([10, 10], tolerance=5)
    matcher.add(0, 100, "lead", 0)
    matcher.add(1, 97, "near", 0)
    assert matcher.next(0) is None  # 98 to 102 would be nearer
    matcher.add(1, 104, "not so near", 0)
    match = matcher.next(0)
    assert match is not None
    assert match.members == ["lead", "near"]


def test_an_equal_timestamp_needs_no_further_proof() -> None:
    for policy in ("nearest", "latest"):
        matcher: Matcher[str] = Matcher([10, 10], tolerance=5, policy=policy)  # type: ignore[arg-type]
        matcher.add(1, 100, "same", 0)
        matcher.add(0, 100, "lead", 0)
        match = matcher.next(0)
        assert match is not None
        assert match.members == ["lead", "same"]


def test_a_partner_may_be_in_several_sets() -> None:
    matcher: Matcher[int] = Matcher([10, 10], tolerance=50)
    matcher.add(1, 40, 40, 0)
    for time in (0, 33, 66):
        matcher.add(0, time, time, 0)
    matcher.add(1, 140, 140, 0)
    found = [match.members for match in iter(lambda: matcher.next(0), None)]
    assert found == [[0, 40], [33, 40], [66, 40]]


def test_at_the_timeout_a_leading_message_makes_a_set_of_what_is_there() -> None:
    matcher: Matcher[str] = Matcher([10, 10, 10], tolerance=5, histories=[None, None, 2], timeout=30)
    matcher.add(0, 100, "lead", 1000)
    matcher.add(1, 98, "near", 1010)
    assert matcher.wake_at() == 1030
    assert matcher.next(1029) is None
    match = matcher.next(1030)
    assert match is not None
    assert match.members == ["lead", "near", []]
    assert match.missing == [2]
    assert matcher.incomplete == 1
    assert matcher.wake_at() is None


def test_a_partner_that_cannot_come_any_more_is_not_waited_for() -> None:
    matcher: Matcher[str] = Matcher([10, 10], tolerance=5, timeout=30)
    matcher.add(0, 100, "lead", 1000)
    matcher.add(1, 200, "much later", 1001)
    match = matcher.next(1001)
    assert match is not None
    assert match.members == ["lead", None]


def test_a_full_input_drops_its_oldest_message_and_one_that_was_given_is_no_loss() -> None:
    matcher: Matcher[int] = Matcher([2, 2], tolerance=100)
    assert not matcher.add(1, 1, 1, 0)
    assert not matcher.add(1, 2, 2, 0)
    assert matcher.is_full(1)
    assert matcher.add(1, 3, 3, 0)
    matcher.add(0, 3, 0, 0)
    match = matcher.next(0)
    assert match is not None
    assert match.members == [0, 3]
    matcher.add(1, 4, 4, 0)
    assert not matcher.add(1, 5, 5, 0)


def test_a_history_bounds_what_is_kept() -> None:
    matcher: Matcher[int] = Matcher([5, 5], tolerance=0, histories=[None, 3])
    for time in range(1000):
        matcher.add(1, time, time, 0)
        matcher.add(0, time, time, 0)
        match = matcher.next(0)
        assert match is not None
        assert match.members == [time, list(range(max(time - 3, 0), time + 1))]
        assert len(matcher.sides[1].behind) <= 3
        assert len(matcher.sides[1].waiting) == 1


def test_an_input_whose_clock_was_set_back_starts_anew_after_a_queue_of_messages() -> None:
    matcher: Matcher[int] = Matcher([3, 3], tolerance=0)
    for time in (1000, 1001, 500, 501, 502, 503):
        for index in (0, 1):
            matcher.add(index, time, time, 0)
    found = [match.members for match in iter(lambda: matcher.next(0), None)]
    assert found == [[502, 502], [503, 503]]
    assert matcher.sides[1].unmatched == 4


def test_late_messages_now_and_then_are_no_clock_that_was_set_back() -> None:
    matcher: Matcher[int] = Matcher([3, 3], tolerance=0)
    for time in (1000, 500, 1001, 501, 1002, 502):
        matcher.add(1, time, time, 0)
    for time in (1000, 1001, 1002):
        matcher.add(0, time, time, 0)
    assert [match.members for match in iter(lambda: matcher.next(0), None)] == [
        [1000, 1000],
        [1001, 1001],
        [1002, 1002],
    ]
    assert matcher.sides[1].unmatched == 3


def test_messages_without_a_leading_one_are_not_kept_once_it_has_ended() -> None:
    matcher: Matcher[int] = Matcher([3, 3], tolerance=0)
    matcher.end(0)
    for time in range(100):
        assert not matcher.add(1, time, time, 0)
    assert matcher.sides[1].unmatched == 99
    matcher.clear()
    assert matcher.sides[1].unmatched == 100


def test_an_input_that_was_full_has_room_once_the_leading_one_has_ended() -> None:
    matcher: Matcher[int] = Matcher([3, 3], tolerance=0)
    for time in range(3):
        matcher.add(1, time, time, 0)
    assert matcher.is_full(1)
    matcher.end(0)
    assert not matcher.is_full(1)
    assert not matcher.add(1, 3, 3, 0)
    assert matcher.sides[1].unmatched == 3


def test_by_arrival_the_newest_of_each_other_input_is_taken_at_once() -> None:
    matcher: Matcher[str] = Matcher([3, 3], tolerance=None, policy="latest", at_once=True)
    matcher.add(0, 1, "too early", 0)
    assert matcher.next(0) is None
    for number, (index, message) in enumerate([(1, "old"), (1, "new"), (0, "lead"), (0, "again")], 2):
        matcher.add(index, number, message, 0)
    found = [match.members for match in iter(lambda: matcher.next(0), None)]
    assert found == [["lead", "new"], ["again", "new"]]
    assert [side.unmatched for side in matcher.sides] == [1, 1]
