"""A history gives what was there at a moment, and nothing from its future."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.control import InputHistory

SECOND = 1_000_000_000
times = st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=30, unique=True)


def filled(captured: list[int], keep: float = 10.0) -> InputHistory[str]:
    """Return a history whose values are their own times."""
    history: InputHistory[str] = InputHistory(keep)
    for time in captured:
        history.add("x", time, time)
    return history


@pytest.mark.lengthy
@given(times, st.integers(0, 3 * SECOND), st.integers(1, 5))
def test_the_last_values_are_those_a_sorted_list_has(captured: list[int], now: int, count: int) -> None:
    before = [time for time in sorted(captured) if time <= now]
    found = filled(captured).at(now, {"x": count})
    if not before:
        assert found is None
        return
    assert found is not None
    window = found["x"]
    real = before[-count:]
    assert list(window.values) == [before[0]] * (count - len(real)) + real
    assert list(window.padded) == [True] * (count - len(real)) + [False] * len(real)
    assert window.times_ns == window.values
    assert window.newest == before[-1]


@pytest.mark.lengthy
@given(times, st.integers(0, 3 * SECOND), st.lists(st.floats(-3, 0), min_size=1, max_size=4))
def test_offsets_give_the_latest_value_that_is_not_after_each(
    captured: list[int], now: int, offsets: list[float]
) -> None:
    found = filled(captured).at(now, {"x": offsets})
    if min(captured) > now:
        assert found is None
        return
    assert found is not None
    for offset, value, padded in zip(offsets, found["x"].values, found["x"].padded, strict=True):
        moment = now + round(offset * SECOND)
        before = [time for time in captured if time <= moment]
        assert padded == (not before)
        assert value == max(before, default=min(captured))


@given(times)
def test_the_order_of_arrival_changes_nothing(captured: list[int]) -> None:
    wanted = {"x": 30}
    in_order = filled(sorted(captured)).at(3 * SECOND, wanted)
    assert filled(captured).at(3 * SECOND, wanted) == in_order


def test_a_value_that_is_too_old_for_its_offset_is_marked() -> None:
    found = filled([0, SECOND]).at(SECOND, {"x": [-0.5, 0.0]}, tolerance=0.1)
    assert found is not None
    assert found["x"].values == (0, SECOND)
    assert found["x"].padded == (True, False)
    found = filled([0, SECOND]).at(SECOND, {"x": [-0.5, 0.0]}, tolerance=0.5)
    assert found is not None
    assert found["x"].padded == (False, False)


def test_the_latest_value_before_the_limit_is_kept_and_earlier_ones_are_dropped() -> None:
    history = filled([0, SECOND, 2 * SECOND, 4 * SECOND], keep=1.5)
    found = history.at(4 * SECOND, {"x": 5})
    assert found is not None
    assert found["x"].values == (2 * SECOND,) * 4 + (4 * SECOND,)
    assert found["x"].padded == (True, True, True, False, False)
    found = filled([0, SECOND, 2 * SECOND], keep=0.5).at(2 * SECOND, {"x": 3})
    assert found is not None
    assert found["x"].values == (SECOND, SECOND, 2 * SECOND)


def test_a_single_old_value_stays_for_ever_newer_moments() -> None:
    history = filled([0])
    history.add("fast", 1, 1000 * SECOND)
    found = history.at(1000 * SECOND, {"x": 1, "fast": 1})
    assert found is not None
    assert found["x"].newest == 0


def test_a_clock_that_was_set_back_starts_the_history_again() -> None:
    history = filled([100 * SECOND, 101 * SECOND])
    history.add("x", "new", SECOND)
    found = history.at(200 * SECOND, {"x": 2})
    assert found is not None
    assert found["x"].values == ("new", "new")


def test_the_values_from_before_a_clock_was_set_back_are_not_kept() -> None:
    """Each may keep a message in shared memory."""
    history: InputHistory[str] = InputHistory()
    value = np.zeros(3)
    known = weakref.ref(value)
    history.add("x", value, 100 * SECOND)
    del value
    history.add("x", "new", SECOND)
    assert known() is None


def test_a_late_value_that_is_as_old_as_values_are_kept_sets_nothing_back() -> None:
    found = filled([2 * SECOND, SECOND], keep=1.0).at(2 * SECOND, {"x": 2})
    assert found is not None
    assert found["x"].values == (SECOND, 2 * SECOND)


def test_a_value_of_the_same_time_takes_the_place_of_the_former() -> None:
    history = filled([5])
    history.add("x", "again", 5)
    found = history.at(5, {"x": 2})
    assert found is not None
    assert found["x"].values == ("again", "again")
    assert found["x"].padded == (True, False)


def test_there_is_nothing_until_all_wanted_inputs_have_a_value() -> None:
    history = filled([5])
    assert history.at(10, {"x": 1, "y": 1}) is None
    history.add("y", 1, 20)
    assert history.at(10, {"x": 1, "y": 1}) is None
    assert history.at(20, {"x": 1, "y": 1}) is not None
    history.clear()
    assert history.newest("x") is None


@pytest.mark.parametrize("wanted", [0, [], [0.1], [-1.0, 0.5]])
def test_what_cannot_be_given_is_refused(wanted: int | list[float]) -> None:
    with pytest.raises(ValueError, match=r"has to be 1 or more|0 or below"):
        filled([0]).at(0, {"x": wanted})


@pytest.mark.parametrize("keep", [0.0, -1.0, float("nan")])
def test_a_history_needs_a_time_to_keep(keep: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        InputHistory(keep)
