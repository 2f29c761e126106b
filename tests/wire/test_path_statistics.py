"""The histogram of path latencies: what is read from it is near to what was counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from dora.wire.path_statistics import (
    BUCKETS,
    RECORD_WORDS,
    Record,
    bucket_of,
    path_number,
    quantile,
    records,
)

TIMES = st.integers(1024, 200_000_000_000)


def record(times: list[int]) -> Record:
    buckets = [0] * BUCKETS
    for time in times:
        buckets[bucket_of(time)] += 1
    return Record(1, 2, len(times), max(times), sum(times), tuple(buckets))


@given(st.lists(TIMES, min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99]))
@settings(derandomize=True, deadline=None)
def test_a_quantile_is_right_to_six_percent(times: list[int], part: float) -> None:
    exact = sorted(times)[max(int(len(times) * part), 1) - 1]
    assert abs(quantile(record(times).buckets, part) - exact) <= 0.0626 * exact


@given(st.integers(0, 2**63), st.integers(0, 2**63))
@settings(derandomize=True, deadline=None)
def test_a_longer_time_is_never_in_an_earlier_bucket(one: int, other: int) -> None:
    first, second = sorted((one, other))
    assert 0 <= bucket_of(first) <= bucket_of(second) < BUCKETS


@pytest.mark.lengthy
@given(st.lists(TIMES, min_size=1), st.lists(TIMES, min_size=1))
@settings(derandomize=True, deadline=None)
def test_what_was_counted_since_has_only_the_later_messages(early: list[int], late: list[int]) -> None:
    since = record(early + late).since(record(early))
    assert (since.messages, since.sum_ns) == (len(late), sum(late))
    assert since.buckets == record(late).buckets


def test_what_a_new_process_of_the_node_has_counted_is_all_that_was_counted_since() -> None:
    assert record([2000]).since(record([3000, 4000])) == record([2000])


def test_without_new_messages_the_times_are_0() -> None:
    found = record([2000]).since(record([2000])).latency("a/b", "c/d")
    assert (found.messages, found.mean_ms, found.median_ms, found.p99_ms) == (0, 0, 0, 0)


def test_budget_and_misses_stay_those_since_the_start() -> None:
    def late(times: list[int], missed: int) -> Record:
        return structs.replace(record(times), budget_ns=1500, missed=missed, slowest_hop=missed)

    since = late([2000, 3000, 1200], 2).since(late([2000], 1))
    assert (since.worst_ns, since.budget_ns, since.missed, since.slowest_hop) == (3000, 1500, 2, 2)
    assert since.latency("a/b", "c/d").missed == 2


def test_the_worst_time_is_exact_and_no_quantile_exceeds_it() -> None:
    found = record([1_000_001] * 3).latency("a/b", "c/d")
    assert found.worst_ms == 1.000001
    assert found.p99_ms <= found.worst_ms


def test_a_file_without_messages_has_no_record() -> None:
    words = [0] * 2000
    words[0] = path_number(7, 3)
    assert list(records(words)) == []


def test_a_file_has_all_its_records_and_no_part_of_one() -> None:
    def words(origin: int) -> list[int]:
        buckets = [0] * (BUCKETS - 1) + [1]
        return [path_number(origin, 3), 1, 900, 900, *buckets, 500, 1, 8]

    expected = [
        Record(origin, 3, 1, 900, 900, (*[0] * (BUCKETS - 1), 1), 500, 1, 8) for origin in (7, 0xFFFF_FFFF)
    ]
    assert len(words(7)) == RECORD_WORDS
    assert list(records(words(7) + words(0xFFFF_FFFF))) == expected
    assert list(records(words(7) + words(0xFFFF_FFFF) + words(9)[:-1])) == expected
