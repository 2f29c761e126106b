"""Chunks give one action for each moment: in their hull, without jumps, and known to the step."""

from __future__ import annotations

import itertools
import math
import weakref
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.control import BLENDS, ActionChunk, Blend, ChunkError, ChunkPlayer

MS = 1_000_000
TICK = 4 * MS
PERIOD = 20 * MS

values = st.floats(-100, 100, width=32)


@st.composite
def schedules(draw: st.DrawFn) -> list[tuple[int, ActionChunk]]:
    """Draw chunks with the moments at which they come, each later than its observation."""
    found = []
    observed = 0
    for number in range(draw(st.integers(1, 6))):
        observed += draw(st.integers(5, 400)) * MS
        steps = draw(st.integers(1, 15))
        actions = np.array(draw(st.lists(values, min_size=steps, max_size=steps)))[:, None]
        arrival = observed + draw(st.integers(0, 300)) * MS
        if found:
            arrival = max(arrival, found[-1][0])
        found.append((arrival, ActionChunk(actions, observed, PERIOD, number)))
    return found


def play(
    player: ChunkPlayer, schedule: list[tuple[int, ActionChunk]], ticks: int = 700
) -> list[tuple[int, float, bool]]:
    """Return the moments at which there is an action, the action, and whether it is late."""
    waiting = list(schedule)
    found = []
    for tick in range(ticks):
        now = tick * TICK
        while waiting and waiting[0][0] <= now:
            player.add(waiting.pop(0)[1], now)
        played = player.at(now)
        if played is not None:
            found.append((now, float(played.action[0]), played.is_late))
    return found


@pytest.mark.lengthy
@given(schedules(), st.sampled_from(BLENDS), st.booleans())
def test_each_action_lies_between_the_actions_of_the_chunks(
    schedule: list[tuple[int, ActionChunk]], blend: Blend, interpolate: bool
) -> None:
    played = play(ChunkPlayer(blend, interpolate=interpolate), schedule)
    actions = np.concatenate([chunk.actions for _, chunk in schedule])
    for _, action, _ in played:
        assert actions.min() - 1e-6 <= action <= actions.max() + 1e-6


@pytest.mark.lengthy
@given(schedules(), st.sampled_from(BLENDS))
def test_once_there_is_an_action_there_is_one_at_each_tick(
    schedule: list[tuple[int, ActionChunk]], blend: Blend
) -> None:
    moments = [now for now, _, _ in play(ChunkPlayer(blend), schedule)]
    assert all(after - before == TICK for before, after in itertools.pairwise(moments))


@pytest.mark.lengthy
@given(schedules(), st.sampled_from(BLENDS))
def test_an_action_is_late_where_no_used_chunk_covers_its_moment(
    schedule: list[tuple[int, ActionChunk]], blend: Blend
) -> None:
    for now, _, is_late in play(ChunkPlayer(blend), schedule):
        arrived = [chunk for at, chunk in schedule if at <= now and chunk.start_ns <= now < chunk.end_ns]
        assert is_late == (not arrived)


@pytest.mark.lengthy
@given(schedules())
def test_a_fade_never_jumps(schedule: list[tuple[int, ActionChunk]]) -> None:
    fade = 0.1
    played = play(ChunkPlayer("fade", fade=fade), schedule)
    span = max(float(np.ptp(np.concatenate([chunk.actions for _, chunk in schedule]))), 1e-9)
    steepest = max(
        (
            float(np.abs(np.diff(chunk.actions, axis=0)).max())
            for _, chunk in schedule
            if len(chunk.actions) > 1
        ),
        default=0.0,
    )
    # All chunks that fade at the same time, and the chunks themselves, move by no more in a tick.
    most = len(schedule) * span * TICK / 1e9 / fade + steepest * TICK / PERIOD
    for (_, before, _), (_, after, _) in itertools.pairwise(played):
        assert abs(after - before) <= most + 1e-5


@given(st.integers(0, 60), st.floats(-3, 3))
def test_an_ensemble_weighs_by_age_as_act_does(tick: int, decay: float) -> None:
    chunks = [ActionChunk(np.full((50, 1), float(10**number)), number * MS, PERIOD) for number in range(4)]
    player = ChunkPlayer("ensemble", decay=decay)
    for chunk in chunks:
        player.add(chunk, chunk.start_ns)
    played = player.at(3 * MS + tick * TICK)
    assert played is not None
    weights = [math.exp(-decay * number) for number in range(4)]
    expected = sum(weight * 10**number for number, weight in enumerate(weights)) / sum(weights)
    assert played.action[0] == pytest.approx(expected)
    assert played.chunk is chunks[-1]


@pytest.mark.parametrize(("decay", "counts"), [(-1000.0, 2.0), (1000.0, 1.0)])
def test_in_an_ensemble_with_a_steep_decay_one_chunk_counts(decay: float, counts: float) -> None:
    player = ChunkPlayer("ensemble", decay=decay)
    player.add(ActionChunk(np.full((5, 1), 1.0), 0, PERIOD), 0)
    player.add(ActionChunk(np.full((5, 1), 2.0), 0, PERIOD), 0)
    played = player.at(0)
    assert played is not None
    assert played.action[0] == counts


def test_the_newest_chunk_counts_and_late_chunks_begin_in_their_middle() -> None:
    player = ChunkPlayer(interpolate=False)
    first = ActionChunk(np.arange(50.0)[:, None], 0, PERIOD, 1)
    second = ActionChunk(100 + np.arange(50.0)[:, None], 10 * PERIOD, PERIOD, 2)
    player.add(first, PERIOD)
    played = player.at(14 * PERIOD)
    assert played is not None
    assert (played.action[0], played.chunk.number, played.step) == (14, 1, 14)
    player.add(second, 15 * PERIOD)
    played = player.at(15 * PERIOD)
    assert played is not None
    assert (played.action[0], played.chunk.number, played.step) == (105, 2, 5)


def test_an_older_observation_that_comes_later_is_not_used() -> None:
    player = ChunkPlayer()
    assert player.add(ActionChunk(np.ones((50, 1)), 10 * MS, PERIOD), 20 * MS)
    assert not player.add(ActionChunk(np.zeros((50, 1)), 5 * MS, PERIOD), 30 * MS)
    played = player.at(40 * MS)
    assert played is not None
    assert played.action[0] == 1


def test_a_chunk_is_used_after_one_whose_observation_is_of_the_future() -> None:
    """The clock was set back."""
    player = ChunkPlayer()
    assert player.add(ActionChunk(np.ones((50, 1)), 0, PERIOD, observed_ns=90 * MS), 20 * MS)
    assert player.add(ActionChunk(np.zeros((50, 1)), 0, PERIOD, observed_ns=10 * MS), 30 * MS)
    played = player.at(40 * MS)
    assert played is not None
    assert played.action[0] == 0


def test_a_chunk_that_is_over_is_not_used() -> None:
    player = ChunkPlayer()
    assert not player.add(ActionChunk(np.ones((5, 1)), 0, PERIOD), 5 * PERIOD)
    assert player.at(5 * PERIOD) is None


def test_a_chunk_of_the_future_waits_for_its_start() -> None:
    player = ChunkPlayer()
    player.add(ActionChunk(np.ones((5, 1)), 10 * MS, PERIOD), 0)
    assert player.at(9 * MS) is None
    assert player.at(10 * MS) is not None


def test_the_fade_to_a_chunk_of_the_future_begins_at_its_start() -> None:
    player = ChunkPlayer("fade", fade=0.02)
    player.add(ActionChunk(np.zeros((50, 1)), 0, PERIOD), 0)
    player.add(ActionChunk(np.full((50, 1), 8.0), 100 * MS, PERIOD), 0)
    found = [player.at(moment * MS) for moment in (90, 100, 110, 120)]
    assert [played.action[0] for played in found if played is not None] == [0, 0, 4, 8]


def test_after_the_end_the_last_action_is_repeated_as_late() -> None:
    player = ChunkPlayer()
    player.add(ActionChunk(np.array([[1.0], [2.0]]), 0, PERIOD), 0)
    played = player.at(10 * PERIOD)
    assert played is not None
    assert (played.action[0], played.is_late, played.step) == (2.0, True, 1)


def test_a_fade_has_an_action_also_right_after_the_clock_was_set_back() -> None:
    player = ChunkPlayer("fade")
    player.add(ActionChunk(np.ones((50, 1)), 0, PERIOD), 10 * PERIOD)
    played = player.at(5 * PERIOD)
    assert played is not None
    assert played.action[0] == 1


def test_after_the_end_of_an_ensemble_its_last_mean_is_repeated() -> None:
    player = ChunkPlayer("ensemble", decay=0.0)
    player.add(ActionChunk(np.zeros((5, 1)), 0, PERIOD), 0)
    player.add(ActionChunk(np.full((5, 1), 4.0), 0, PERIOD), 0)
    found = [player.at(moment * MS) for moment in (90, 100, 200)]
    assert [(*played.action, played.is_late) for played in found if played is not None] == [
        (2, False),
        (2, True),
        (2, True),
    ]


def test_a_fade_goes_on_after_the_end_of_the_chunks() -> None:
    player = ChunkPlayer("fade", fade=0.04)
    player.add(ActionChunk(np.zeros((5, 1)), 0, PERIOD), 0)
    player.add(ActionChunk(np.full((1, 1), 8.0), 90 * MS, PERIOD), 90 * MS)
    found = [player.at(moment * MS) for moment in (100, 120, 130, 140)]
    assert [(*played.action, played.is_late) for played in found if played is not None] == [
        (2, False),
        (6, True),
        (8, True),
        (8, True),
    ]


def test_the_last_action_of_a_chunk_that_ended_between_two_moments_is_repeated() -> None:
    player = ChunkPlayer()
    player.add(ActionChunk(np.ones((5, 1)), 0, PERIOD), 0)
    player.add(ActionChunk(np.full((1, 1), 2.0), 100 * MS, PERIOD), 0)
    found = [player.at(moment * MS) for moment in (90, 130)]
    assert [(*played.action, played.is_late) for played in found if played is not None] == [
        (1, False),
        (2, True),
    ]


def test_after_a_clear_there_is_nothing_and_the_size_of_an_action_stays() -> None:
    player = ChunkPlayer()
    player.add(ActionChunk(np.ones((5, 2)), 0, PERIOD), 0)
    assert player.at(0) is not None
    player.clear()
    assert player.at(0) is None
    with pytest.raises(ChunkError, match="3 numbers for each action; the ones before had 2"):
        player.add(ActionChunk(np.ones((5, 3)), 0, PERIOD), 0)


@given(st.integers(-100, 1100), st.booleans())
def test_an_action_between_two_steps_lies_on_the_line_between_them(moment: int, interpolate: bool) -> None:
    chunk = ActionChunk(np.array([[0.0], [10.0], [40.0]]), 0, 100)
    expected = (
        np.interp(moment, [0, 100, 200], [0, 10, 40])
        if interpolate
        else [0, 10, 40][min(max(moment // 100, 0), 2)]
    )
    assert chunk.at(moment, interpolate=interpolate)[0] == pytest.approx(expected)


@pytest.mark.parametrize("blend", BLENDS)
def test_of_a_burst_of_chunks_the_newest_are_kept(blend: Blend) -> None:
    """Each may keep a message in shared memory."""
    player = ChunkPlayer(blend, fade=10.0)
    chunks = [ActionChunk(np.zeros((10, 1)), 0, PERIOD, number) for number in range(100)]
    assert all(player.add(chunk, 0) for chunk in chunks)
    known = [weakref.ref(chunk) for chunk in chunks]
    del chunks
    kept = [number for number, reference in enumerate(known) if reference() is not None]
    assert kept == list(range(100))[-len(kept) :]
    assert len(kept) <= 25


@pytest.mark.parametrize("blend", BLENDS)
def test_a_chunk_that_no_later_moment_needs_is_not_kept(blend: Blend) -> None:
    """It may keep a message in shared memory."""
    player = ChunkPlayer(blend, fade=0.1)
    first = ActionChunk(np.zeros((5, 1)), 0, PERIOD)
    known = weakref.ref(first)
    assert player.add(first, 0)
    del first
    assert player.add(ActionChunk(np.zeros((50, 1)), 0, PERIOD), 0)
    assert known() is not None
    assert player.add(ActionChunk(np.zeros((50, 1)), 5 * PERIOD, PERIOD), 5 * PERIOD)
    assert known() is None


def test_the_type_of_the_actions_stays() -> None:
    for blend in BLENDS:
        player = ChunkPlayer(blend)
        player.add(ActionChunk(np.zeros((50, 2), np.float32), 0, PERIOD), 0)
        player.add(ActionChunk(np.ones((50, 2), np.float32), PERIOD, PERIOD), PERIOD)
        played = player.at(PERIOD + TICK)
        assert played is not None
        assert played.action.dtype == np.float32


def test_left_over_actions_begin_at_the_step_of_the_moment() -> None:
    chunk = ActionChunk(np.arange(4.0)[:, None], 1000, 100)
    assert chunk.left_over(900).ravel().tolist() == [0, 1, 2, 3]
    assert chunk.left_over(1250).ravel().tolist() == [2, 3]
    assert chunk.left_over(1400).size == 0


def test_a_moved_chunk_was_observed_as_much_later_as_it_starts() -> None:
    moved = ActionChunk(np.ones((3, 1)), 1000, 100, observed_ns=900).moved(-50)
    assert (moved.start_ns, moved.observed_ns, moved.end_ns) == (950, 850, 1250)


def test_a_message_brings_the_same_chunk() -> None:
    observed = 1_767_225_600_123_456_000
    chunk = ActionChunk(np.ones((3, 2), np.float32), observed, PERIOD, 7)
    metadata = chunk.metadata()
    assert metadata == {
        "timestamp": datetime(2026, 1, 1, 0, 0, 0, 123456, UTC),
        "step_period": 0.02,
        "chunk": 7,
    }
    found = ActionChunk.from_message(chunk.actions, metadata)
    assert (found.start_ns, found.period_ns, found.number, found.observed_ns) == (
        observed,
        PERIOD,
        7,
        observed,
    )
    later = ActionChunk(chunk.actions, observed + MS, PERIOD, 7, observed)
    again = ActionChunk.from_message(later.actions, later.metadata())
    assert (again.start_ns, again.observed_ns) == (observed + MS, observed)


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((0, 3)), r"shape \(0, 3\)"),
        (np.ones((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.array([[1.0], [math.nan]]), "NaN or infinite number, first in step 1"),
        (np.array([[math.inf], [1.0]]), "NaN or infinite number, first in step 0"),
        (np.array([["a"]]), "they have to be numbers"),
    ],
)
def test_wrong_actions_are_refused(actions: np.ndarray, text: str) -> None:
    with pytest.raises(ChunkError, match=text):
        ActionChunk(actions, 0, PERIOD)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({}, "step period None"),
        ({"step_period": "fast"}, "step period 'fast'"),
        ({"step_period": 0}, "step period 0"),
        ({"step_period": math.nan}, "step period nan"),
        ({"step_period": 0.1}, "no `timestamp`"),
        ({"step_period": 0.1, "timestamp": datetime.now(UTC), "start": 5}, "no `timestamp`"),
    ],
)
def test_messages_that_bring_no_chunk_are_refused(metadata: dict[str, object], text: str) -> None:
    with pytest.raises(ChunkError, match=text):
        ActionChunk.from_message(np.ones((2, 2)), metadata)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="newest, ensemble, fade"):
        ChunkPlayer("mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fade has to be 0 or more"):
        ChunkPlayer(fade=-1)
