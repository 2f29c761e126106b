"""The search for a small part of a list, and for simple values."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from recorded_files import message_of

from dora.recording.alone.minimize import Enough, simpler, smallest_part
from dora.wire.decode import decode_numpy
from dora.wire.metadata import decode_metadata


@given(some.sets(some.integers(0, 199), max_size=6))
def test_just_what_is_needed_is_left(needed: set[int]) -> None:
    assert smallest_part(range(200), lambda part: needed <= set(part)) == sorted(needed)


def test_no_single_item_can_be_removed_from_the_rest() -> None:
    def happens(part: list[int]) -> bool:
        return sum(part) % 7 == 3 and len(part) > 2

    items = [*range(40), 3 - sum(range(40)) % 7]
    left = smallest_part(items, happens)
    assert happens(left)
    assert not any(happens(left[:place] + left[place + 1 :]) for place in range(len(left)))


def test_what_is_at_the_end_of_a_long_list_is_found_in_few_tries() -> None:
    tries = []

    def happens(part: list[int]) -> bool:
        tries.append(part)
        return {9_997, 9_999} <= set(part)

    assert smallest_part(range(10_000), happens) == [9_997, 9_999]
    assert len(tries) < 15


def test_a_search_without_time_left_keeps_the_smallest_part_so_far() -> None:
    tries = []

    def happens(part: list[int]) -> bool:
        tries.append(part)
        if len(tries) > 6:
            raise Enough
        return {30, 99} <= set(part)

    left = smallest_part(range(100), happens)
    assert {30, 99} <= set(left)
    assert len(left) <= 100


def test_values_that_do_not_matter_become_zero_and_the_others_whole_numbers() -> None:
    message = message_of(np.array([[1.5, 2.25], [3.75, 9.5]], np.float32), {"k": 1}, 7, 5)
    other = simpler(message, lambda changed: decode_numpy(changed)[1, 1] > 9)
    assert decode_numpy(other).tolist() == [[0.0, 0.0], [0.0, 10.0]]
    assert decode_numpy(other).dtype == np.float32
    assert decode_metadata(other.metadata)["k"] == 1
    assert (other.sequence, other.time_ns) == (7, 5)


def test_blocks_of_a_large_array_become_zero_together() -> None:
    message = message_of(np.ones(100_000, np.uint8), {}, 1, 1)
    other = simpler(message, lambda changed: bool(decode_numpy(changed)[70_000]))
    assert 0 < int(decode_numpy(other).sum()) <= 100


def test_there_are_no_more_blocks_than_values_of_an_array_that_is_not_large() -> None:
    message = message_of(np.ones(1025, np.uint8), {}, 1, 1)
    other = simpler(message, lambda changed: bool(decode_numpy(changed)[700]))
    assert np.flatnonzero(decode_numpy(other)).tolist() == [700, 701]


@pytest.mark.parametrize(
    ("needed", "left"),
    [
        (0, [math.inf, 0.0, 0.0, 0.0]),
        (1, [0.0, -math.inf, 0.0, 0.0]),
        (2, [0.0, 0.0, math.nan, 0.0]),
        (3, [0.0, 0.0, 0.0, -2.0]),
    ],
)
def test_infinities_and_nan_become_zero_or_stay_what_they_are(needed: int, left: list[float]) -> None:
    message = message_of(np.array([math.inf, -math.inf, math.nan, -1.75]), {}, 1, 1)
    other = simpler(message, lambda changed: bool(decode_numpy(changed)[needed]))
    assert str(decode_numpy(other).tolist()) == str(left)  # NaN is not equal to itself, and -0.0 to 0.0


@pytest.mark.lengthy
@pytest.mark.parametrize(("count", "left"), [(1024, 2.0), (1025, 1.5)])
def test_only_values_of_a_small_array_become_whole_numbers(count: int, left: float) -> None:
    message = message_of(np.full(count, 1.5), {}, 1, 1)
    other = simpler(message, lambda changed: bool(decode_numpy(changed).all()))
    assert decode_numpy(other).tolist() == [left] * count


@pytest.mark.parametrize("data", [["text"], [None, 1], [True], [timedelta(1)]])
def test_other_arrays_stay_as_they_are(data: list[object]) -> None:
    import pyarrow as pa

    message = message_of(pa.array(data), {}, 1, 1)
    assert simpler(message, lambda _: True) is message


@pytest.mark.parametrize("data", [np.array([1j]), np.array([], np.float32)])
def test_complex_numbers_and_empty_arrays_stay_as_they_are(data: object) -> None:
    message = message_of(data, {}, 1, 1)
    assert simpler(message, lambda _: True) is message
