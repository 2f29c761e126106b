"""The rules of QoS without a clock: deadlines and rates, for any course of events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.node.receive.qos_input import Deadline, Thinning

PAUSE = 50


@given(st.lists(st.tuples(st.integers(0, 120), st.booleans()), max_size=40))
def test_a_deadline_is_missed_once_for_each_pause_that_is_too_long(steps: list[tuple[int, bool]]) -> None:
    """Each step: the time passes, then a message comes or the node only looks."""
    deadline = Deadline(PAUSE)
    deadline.arm(0)
    now = last = 0
    missed = False
    for passed, comes in steps:
        now += passed
        late = now - last - PAUSE
        if comes:
            # The node has not looked in between, so the message tells when it was sent.
            assert deadline.late(now, now, gapless=True) == (late if missed else _late(late, last))
            deadline.take(now, now)
            last, missed = now, False
        else:
            assert deadline.miss(now) == (late if late >= 0 and not missed else None)
            missed = missed or late >= 0


def _late(late: int, last: int) -> int | None:
    """Before the first message, the sender's clock is not known."""
    return late if late > 0 and last else None


def test_messages_that_wait_for_the_program_are_in_time() -> None:
    deadline = Deadline(PAUSE)
    deadline.take(now=1000, sent_at=70_000)
    assert deadline.late(1200, 70_040, gapless=True) is None
    deadline.take(1200, 70_040)
    assert deadline.late(1300, 70_100, gapless=True) == 10
    assert deadline.late(1300, 70_100, gapless=False) is None


def test_an_input_that_has_closed_misses_nothing() -> None:
    deadline = Deadline(PAUSE)
    deadline.arm(0)
    deadline.disarm()
    assert deadline.miss(1000) is None


@pytest.mark.lengthy
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3)), max_size=40), st.integers(1, 100))
def test_thinning_gives_the_newest_and_never_two_within_a_period(
    steps: list[tuple[int, int]], period: int
) -> None:
    thinning: Thinning[int] = Thinning(period)
    now = sent = left_out = 0
    given_at: list[int] = []
    for passed, count in steps:
        now += passed
        for _ in range(count):
            sent += 1
            left_out += thinning.hold(sent)
        if thinning.is_due(now):
            assert thinning.take(now) == sent
            given_at.append(now)
        assert (thinning.due_at() is None) == (thinning.held is None)
    assert all(later - earlier >= period for earlier, later in pairwise(given_at))
    assert sent == len(given_at) + left_out + (thinning.held is not None)
