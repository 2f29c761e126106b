"""Rows at a fixed rate get the samples that were captured nearest before them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from dora.nodes.lerobot.sampling import SECOND, Pick, Sample, Sampler, rows_between

START = 1_700_000_000 * SECOND
PATIENCE = SECOND // 2


def sampler(fps: int = 30, rate: float = 30) -> Sampler[int]:
    return Sampler(fps, rate, PATIENCE)


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def record(times: list[float], seconds: float, fps: int = 30, rate: float = 30) -> list[Pick[int]]:
    """Return the rows of an episode; the values of the samples are their numbers."""
    made = sampler(fps, rate)
    made.push(at(times[0]), 0)
    made.begin(START)
    rows: list[Pick[int]] = []
    for number, time in enumerate([time for time in times[1:] if time <= seconds], 1):
        made.push(at(time), number)
        rows += made.rows(at(time))
    rows += made.end(at(seconds))
    assert len(rows) == rows_between(START, at(seconds), fps)
    record.counts = made.counts  # type: ignore[attr-defined]
    return rows


def values(rows: list[Pick[int]]) -> list[int]:
    return [row.sample.value for row in rows]


@pytest.mark.parametrize("phase", [-0.033, -0.02, -0.001, 0.0])
def test_a_camera_at_the_rate_of_the_rows_loses_nothing(phase: float) -> None:
    """Each frame is late or early by up to 4 ms, in every phase to the rows."""
    noise = random.Random(1)
    times = [phase + number / 30 + noise.uniform(-0.004, 0.004) for number in range(300)]
    times[0] = phase
    chosen = values(record(times, 9.9))
    assert len(chosen) == 298
    steps = [after - before for before, after in pairwise(chosen)]
    assert steps.count(1) >= len(steps) - 2  # at most one slip, where the phase crosses a row
    assert max(chosen) >= 296


def test_a_camera_that_drifts_slips_once_a_period() -> None:
    times = [number / 29.9 for number in range(1000)]
    chosen = values(record(times, 30.0))
    steps = [after - before for before, after in pairwise(chosen)]
    assert set(steps) == {0, 1}
    assert steps.count(0) == 3  # 0.1 frames a second for 30 s


def test_a_fast_source_gives_its_newest_sample() -> None:
    times = [number / 200 for number in range(300)]
    rows = record(times, 1.0, rate=200)
    assert len(rows) == 31
    for index, row in enumerate(rows):
        assert 0 <= at(index / 30) - row.sample.time < SECOND / 200 + 1
    assert record.counts.gaps == 0 and record.counts.missing == 0  # type: ignore[attr-defined]


def test_a_slow_source_is_repeated_and_has_gaps() -> None:
    times = [number / 7 for number in range(15)]
    rows = record(times, 2.0)
    assert len(rows) == 61
    counts = record.counts  # type: ignore[attr-defined]
    assert counts.repeated == sum(row.repeated for row in rows) == 61 - len(set(values(rows)))
    assert counts.gaps == sum(row.gap for row in rows) > 30
    assert counts.missing == 14 * 3
    assert counts.rate == pytest.approx(7)
    for index, row in enumerate(rows):
        age = at(index / 30) - row.sample.time
        assert row.gap == (age > 1.5 * SECOND / 30)


def test_a_slow_source_of_the_rate_that_is_expected_has_no_gap() -> None:
    times = [number / 7 for number in range(15)]
    rows = record(times, 2.0, rate=7)
    assert not any(row.gap for row in rows)
    assert record.counts.missing == 0  # type: ignore[attr-defined]


def test_a_row_waits_for_samples_under_way_and_not_forever() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    made.push(at(0.001), 1)
    assert list(made.rows(at(0.3))) == []
    after = at(1 / 60) + PATIENCE
    assert values(list(made.rows(after))) == [0]


def test_a_sample_that_comes_after_its_row_is_late() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    rows = list(made.rows(at(1.0)))
    assert len(rows) == 15  # half a second of patience
    made.push(at(0.2), 1)
    made.push(at(0.1), 2)  # and this one is older than the sample before it
    assert made.counts.late == 2
    made.push(at(0.48), 3)  # after the last of the rows
    assert made.counts.late == 2


def test_a_row_does_not_go_back_to_a_sample_that_comes_out_of_order() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    made.push(at(0.2), 1)
    assert len(list(made.rows(at(0.69)))) == 6
    assert values(list(made.rows(at(0.72)))) == [1]  # at 0.2 s
    made.push(at(0.1), 2)
    assert values(list(made.end(at(0.3)))) == [1, 1, 1]
    assert (made.counts.received, made.counts.late) == (1, 1)


def test_a_sample_that_cannot_be_used_leaves_the_one_before_and_its_gap_is_counted_once() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    rows = list(made.rows(at(1.0)))
    made.push(at(0.2), 1)  # late, and too old for the row that gets it
    (pick,) = made.rows(at(1.02))
    assert (pick.sample.value, pick.repeated, pick.gap) == (1, False, True)
    repeated = made.counts.repeated
    rows.append(made.refuse(pick, Sample(at(0), 0)))
    assert rows[-1] == Pick(Sample(at(0), 0), True, True)
    assert made.counts.gaps == sum(row.gap for row in rows)
    assert (made.counts.refused, made.counts.repeated) == (1, repeated + 1)


def test_samples_after_the_end_of_an_episode_count_for_the_next_one() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    made.limit(at(0.1))
    for number, time in enumerate((0.05, 0.1, 0.2, 0.25), 1):
        made.push(at(time), number)
    assert len(list(made.rows(at(0.25))) + list(made.end(at(0.1)))) == 4
    assert made.counts.received == 2
    made.begin(at(0.2))
    assert (made.counts.received, made.counts.last) == (1, at(0.25))
    assert values(list(made.end(at(0.2)))) == [3]


def test_a_source_that_stops_is_missing_until_the_end() -> None:
    rows = record([number / 30 for number in range(31)], 2.0)
    counts = record.counts  # type: ignore[attr-defined]
    assert counts.missing == 29
    assert [row.gap for row in rows].count(True) == counts.gaps == 29


def test_the_next_episode_begins_with_the_newest_sample() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    for number in range(1, 10):
        made.push(at(number / 30), number)
    list(made.end(at(0.1)))
    assert not made.recording
    made.begin(at(0.3))
    assert values(list(made.end(at(0.3)))) == [9]


def test_nothing_is_kept_of_an_episode_that_is_discarded() -> None:
    made = sampler()
    made.push(at(0), 0)
    made.begin(START)
    made.push(at(1), 1)
    made.discard()
    made.begin(at(1))
    assert values(list(made.end(at(1)))) == [1]
