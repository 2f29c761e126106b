"""A take-over follows the source with the highest priority, and never jumps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.control import Takeover
from dora.errors import DoraError

MS = 1_000_000
TICK = 4 * MS
SECOND = 1_000_000_000
SOURCES = ("human", "planner", "policy")

# For each source whether it sends in each period of 40 ms, and the constant that it sends.
sending = st.lists(st.tuples(*[st.booleans()] * 3), min_size=5, max_size=40)
constants = st.tuples(*[st.floats(-10, 10, width=32)] * 3)


@pytest.mark.lengthy
@given(sending, constants, st.sampled_from([0.05, 0.1, 0.4]))
def test_the_output_never_jumps_and_stays_between_the_sources(
    periods: list[tuple[bool, ...]], values: tuple[float, ...], ramp: float
) -> None:
    takeover = Takeover(SOURCES, ramp=ramp, timeout=0.1)
    last_sent: dict[str, int] = {}
    output: list[float | None] = []
    for tick in range(10 * len(periods)):
        now = tick * TICK
        for source, sends, value in zip(SOURCES, periods[tick // 10], values, strict=True):
            if sends:
                takeover.update(source, [value], now)
                last_sent[source] = now
        found = takeover.at(now)
        live = [name for name in SOURCES if name in last_sent and now - last_sent[name] <= 0.1 * SECOND]
        if found is None:
            assert not live
            output.append(None)
            continue
        assert found.source == live[0] == takeover.active
        assert min(values) - 1e-6 <= found.action[0] <= max(values) + 1e-6
        assert 0 <= found.part <= 1
        if found.part == 1:
            assert found.action[0] == values[SOURCES.index(found.source)]
        output.append(float(found.action[0]))
    most = (max(values) - min(values)) * TICK / SECOND / ramp
    given_out = [value for value in output if value is not None]
    for before, after in itertools.pairwise(given_out):
        assert abs(after - before) <= most + 1e-5


def test_a_large_distance_takes_longer_than_the_ramp() -> None:
    takeover = Takeover(["human", "policy"], ramp=0.1, timeout=10, max_speed=2.0)
    takeover.update("policy", np.array([0.0, 0.0]), 0)
    takeover.at(0)
    takeover.update("human", np.array([4.0, 1.0]), 0)
    parts = []
    for tenth in range(22):
        found = takeover.at(tenth * SECOND // 10)
        assert found is not None
        parts.append(found.part)
    assert parts[10] == pytest.approx(0.5)
    assert parts[19] < 1
    assert parts[20] == 1


def test_a_distance_may_take_any_time_and_a_source_any_time_to_send() -> None:
    takeover = Takeover(["human", "policy"], ramp=0.1, timeout=math.inf, max_speed=1e-300)
    takeover.update("policy", [0.0], 0)
    takeover.at(0)
    takeover.update("human", [1e300], 0)
    found = takeover.at(SECOND)
    assert found is not None
    assert (found.source, found.part) == ("human", 0.0)
    found = takeover.at(2 * SECOND)
    assert found is not None
    assert 0 < found.part < 1e-6


def test_after_a_reset_no_source_is_active_until_it_sends_again() -> None:
    takeover = Takeover(["policy"], timeout=10)
    takeover.update("policy", [1.0], 0)
    takeover.reset()
    assert takeover.at(0) is None


def test_a_released_source_gives_back_at_once() -> None:
    takeover = Takeover(["human", "policy"], ramp=0.0, timeout=10)
    takeover.update("policy", [1.0], 0)
    takeover.update("human", [2.0], 0)
    assert takeover.at(0).source == "human"  # type: ignore[union-attr]
    takeover.release("human")
    assert takeover.at(1).source == "policy"  # type: ignore[union-attr]


def test_after_a_silence_the_ramp_begins_at_the_last_action_and_after_a_reset_there_is_none() -> None:
    takeover = Takeover(["policy"], ramp=1.0, timeout=0.1)
    takeover.update("policy", [1.0], 0)
    takeover.at(0)
    assert takeover.at(SECOND) is None
    assert takeover.active is None
    takeover.update("policy", [3.0], 2 * SECOND)
    assert takeover.at(2 * SECOND).action[0] == 1.0  # type: ignore[union-attr]
    takeover.reset()
    takeover.update("policy", [3.0], 3 * SECOND)
    assert takeover.at(3 * SECOND).action[0] == 3.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "action", "text"),
    [
        ("cat", [1.0], "no source `cat`; there are human, policy"),
        ("human", [1.0], r"source `human`: an action has the shape \(1,\); it has to be \(2,\)"),
        ("human", [[1.0, 2.0]], r"shape \(1, 2\)"),
        ("human", [1.0, math.nan], "NaN or infinite"),
    ],
)
def test_wrong_actions_are_refused_and_change_nothing(source: str, action: list[float], text: str) -> None:
    takeover = Takeover(["human", "policy"])
    takeover.update("policy", [5.0, 5.0], 0)
    with pytest.raises(DoraError, match=text):
        takeover.update(source, action, 0)
    assert takeover.at(0).source == "policy"  # type: ignore[union-attr]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        Takeover(["a", "a"])
    with pytest.raises(ValueError, match="different names"):
        Takeover([])
    for wrong in ({"ramp": -1}, {"timeout": 0}, {"max_speed": 0}, {"ramp": math.nan}):
        with pytest.raises(ValueError, match="the others above 0"):
            Takeover(["a"], **wrong)  # type: ignore[arg-type]
