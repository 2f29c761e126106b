"""The arithmetic behind the published figures."""

import pytest
from benchmarks.statistics import Figure, Spread, median, percentile, skipped_ticks, timer_errors_ns

PERIOD = 10_000_000


def test_percentile_interpolates_between_neighbours() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile(range(101), 99) == 99
    assert percentile([7], 99) == 7
    assert median([3, 1, 2]) == 2


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 50)


def test_timer_error_ignores_constant_latency_and_a_late_first_tick() -> None:
    late = [PERIOD * tick + 300_000 for tick in range(100)]
    late[0] += 6_000_000
    errors = timer_errors_ns(late, PERIOD)
    assert median(errors) == 0
    assert sorted(errors)[-2] == 0
    assert max(errors) == PERIOD - 6_000_000  # nearest grid point, which is the next one


def test_timer_error_ignores_gaps_and_counts_them_as_skipped() -> None:
    arrivals = [PERIOD * tick for tick in range(50) if tick not in (20, 21)]
    assert max(timer_errors_ns(arrivals, PERIOD)) == 0
    assert skipped_ticks(arrivals, PERIOD) == 2


def test_timer_error_sees_jitter_and_drift() -> None:
    jittering = [PERIOD * tick + (1_000_000 if tick % 4 == 0 else 0) for tick in range(100)]
    assert percentile(timer_errors_ns(jittering, PERIOD), 99) == 1_000_000
    drifting = [(PERIOD + 10_000) * tick for tick in range(101)]
    assert max(timer_errors_ns(drifting, PERIOD)) == 500_000


def test_spread_takes_medians_and_sums_counts() -> None:
    figures = [Figure(3, 30, 100, 1), Figure(1, 10, 100, 0), Figure(2, 20, 100, 4)]
    assert Spread.over(figures) == Spread(2, 1, 3, 20, 300, 5, 3)
    assert Spread.over([Figure(1.5)]).tail is None
