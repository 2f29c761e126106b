"""What a look costs is told apart from what the machine does by itself."""

from __future__ import annotations

import pytest
from benchmarks.looking import LINKS, LOOKS, Round, Window, _cost, _enough


def a_round(before: float, looked: float, after: float) -> Round:
    return Round(*(Window(0, 1, rate) for rate in (before, looked, after)))


STEADY = a_round(100, 94, 98)
SLOWED = a_round(100, 60, 50)  # the machine became slow meanwhile


def test_rounds_in_which_the_machine_changed_its_speed_do_not_count() -> None:
    cost = _cost(LINKS[0], LOOKS[0], [SLOWED, STEADY, SLOWED, STEADY], 2, lambda window: window.rate)
    assert cost.cost == pytest.approx(5 / 99)
    assert (cost.alone, cost.looked) == (99, 94)
    assert (cost.rounds, cost.measured) == (2, 4)
    assert cost.allowed


def test_a_steady_round_counts_whatever_the_observer_cost() -> None:
    dear = a_round(100, 10, 100)
    cost = _cost(LINKS[0], LOOKS[0], [dear, SLOWED], 1, lambda window: window.rate)
    assert cost.cost == pytest.approx(0.9)
    assert not cost.allowed


def test_a_latency_that_grows_is_a_cost() -> None:
    link = next(link for link in LINKS if link.is_latency)
    cost = _cost(link, LOOKS[0], [a_round(100, 130, 100)], 1, lambda window: window.rate)
    assert cost.cost == pytest.approx(0.3)
    assert not cost.allowed


def test_rounds_are_repeated_until_enough_are_steady_or_the_limit_is_reached() -> None:
    assert not _enough([STEADY, SLOWED], 2)
    assert _enough([STEADY, SLOWED, STEADY], 2)
    assert not _enough([SLOWED] * 5, 2)
    assert _enough([SLOWED] * 6, 2)
