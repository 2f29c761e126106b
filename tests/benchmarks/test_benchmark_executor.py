"""The benchmark of commands counts what it says, and the real thing loses no stop."""

from __future__ import annotations

import pytest
from benchmarks.bare_timer import outside
from benchmarks.executor import (
    Stream,
    Takeovers,
    kills,
    missed_ticks,
    rows,
    steps,
    stop_delays,
    takeovers,
)

MS = 1_000_000


def command(at: int, reason: str = "", value: float = 0.0) -> tuple[int, int, str, list[float]]:
    return at * MS, at * MS, reason, [value]


def test_jitter_and_gaps_are_those_of_the_intervals() -> None:
    found = Stream.of([(0, ""), (4 * MS, ""), (9 * MS, ""), (17 * MS, "")])
    assert found.commands == 4
    assert found.jitter_worst == 4.0
    assert found.gaps == [(9 * MS, 17 * MS)]


def test_a_safe_command_between_two_ticks_is_no_jitter() -> None:
    found = Stream.of([(0, ""), (4 * MS, ""), (5 * MS, "stopped"), (8 * MS, "stopped")])
    assert found.jitter_worst == 0.0


def test_a_stop_is_swallowed_if_no_safe_command_comes_or_another_follows_it() -> None:
    commands = [command(0), command(4), command(5, "stopped"), command(8, "stopped"), command(20)]
    assert list(stop_delays([3 * MS], [18 * MS], commands)) == [2.0]
    assert list(stop_delays([9 * MS], [18 * MS], commands)) == [None]
    assert list(stop_delays([3 * MS], [21 * MS], commands)) == [None]
    assert list(stop_delays([3 * MS], [], commands[:4])) == [2.0]


def test_steps_into_the_safe_state_do_not_count() -> None:
    commands = [command(0, value=1.0), command(4, "stopped"), command(8, value=0.25)]
    assert list(steps(commands)) == [0.25]


def test_gaps_that_overlap_with_a_pause_of_the_machine_are_not_outside() -> None:
    pauses = [(100 * MS, 200 * MS)]
    assert outside([(190 * MS, 210 * MS), (203 * MS, 207 * MS)], pauses) == []
    others = [(50 * MS, 60 * MS), (300 * MS, 310 * MS)]
    assert outside(others, pauses) == others


def test_missed_ticks_are_read_from_the_last_lines_of_the_nodes() -> None:
    assert missed_ticks(["x; 3 ticks missed, late", "nothing", "y; 12 ticks missed, late"]) == 15


@pytest.mark.slow
@pytest.mark.processes
def test_no_stop_is_swallowed_in_real_takeovers() -> None:
    found = takeovers(5, real_time=False)
    assert found.takeovers == 5
    assert found.swallowed == 0
    assert len(found.stop_ms) == 5
    assert found.executor.commands > 100
    assert found.largest_step < 1.0, "human and policy differ by one"


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_and_a_frozen_policy_leave_the_safe_state() -> None:
    found = kills(2, real_time=False)
    assert None not in found.killed_ms + found.frozen_ms
    assert (len(found.killed_ms), len(found.frozen_ms)) == (1, 1)
    stream = Stream.of([(0, ""), (4 * MS, "")])
    table = list(rows(Takeovers(1, 0, [1.0], stream, stream, 0.1, 0, 0, 0.0, []), found))
    assert ("policy killed: times, and safe commands", "1, 1") in table
