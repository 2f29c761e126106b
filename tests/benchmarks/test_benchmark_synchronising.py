"""The measured matchers find the sets that they are measured by."""

from __future__ import annotations

from benchmarks.synchronising import NAMES, OFFSETS_US, ApproximateTime, rows


def test_every_matcher_finds_all_sets() -> None:
    found = list(rows(40, 1, None))
    assert [share for _, _, share in found] == ["97.5%", "100.0%", "97.5%", "100.0%"]


def test_the_algorithm_of_ros_gives_a_set_as_soon_as_it_fits() -> None:
    matcher = ApproximateTime(len(NAMES), 10, 600)
    assert matcher.add(0, OFFSETS_US[0], "left") is None
    assert matcher.add(1, OFFSETS_US[1], "right") is None
    assert matcher.add(2, -900, "too early") is None
    assert matcher.add(2, OFFSETS_US[2], "arm") == ["left", "right", "arm"]
    assert matcher.add(2, 0, "nearer") is None
