"""The clocks of a replay: when something is due, and what time it is for a node."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from dora.node.replay.clock import WITHOUT_LIMIT, ReplayClock, ReplayedTime
from dora.node.send import output

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND


def clock(speed: float, released: int = WITHOUT_LIMIT) -> ReplayClock:
    return ReplayClock(memoryview(ReplayClock.make(start_ns=T0, speed=speed, released_ns=released)))


def test_a_recorded_event_is_due_at_its_time() -> None:
    assert clock(1.0).due(T0 + SECOND, 100) == 100 + SECOND
    assert clock(4.0).due(T0 + SECOND, 100) == 100 + SECOND // 4
    assert clock(0.0).due(T0 + SECOND, 100) == 100
    assert clock(1.0).due(T0 - SECOND, 100) == 100


def test_an_event_that_is_not_released_is_not_due(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    path.write_bytes(ReplayClock.make(start_ns=T0, speed=0.0, released_ns=0, ordered=True, patience_ns=7))
    reader, writer = ReplayClock.open(str(path)), ReplayClock.open(str(path), writable=True)
    assert reader.due(T0, 5) is None
    writer.release(T0)
    assert (reader.due(T0, 5), reader.due(T0 + 1, 5)) == (5, None)
    assert (reader.ordered, reader.patience_ns) == (True, 7)


def test_replayed_time_advances_only_by_reads_and_sleep() -> None:
    replayed = ReplayedTime(T0, speed=0.0)
    replayed.advance(T0 + SECOND)
    assert replayed.stamp() == T0 + SECOND
    assert [replayed.time_ns() - T0 - SECOND for _ in range(3)] == [1000, 2000, 3000]
    begun = time.monotonic()
    replayed.sleep(3600)
    assert time.monotonic() - begun < 60
    assert replayed.time_ns() == T0 + 3601 * SECOND + 4000
    replayed.advance(T0)  # time does not go back
    assert replayed.stamp() == T0 + 3601 * SECOND + 4000


def test_a_program_that_waits_for_long_sees_time_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    real = [0]
    monkeypatch.setattr("dora.node.replay.clock._real_monotonic_ns", lambda: real[0])
    replayed = ReplayedTime(T0, speed=1.0)
    replayed.advance(T0)
    real[0] = SECOND
    assert replayed.time_ns() == T0 + 1000
    real[0] = 3 * SECOND
    assert replayed.time_ns() == T0 + 2 * SECOND + 2000
    assert replayed.time_ns() == T0 + 2 * SECOND + 3000, "once"
    replayed.advance(T0 + 5 * SECOND)
    real[0] = 4 * SECOND
    assert replayed.time_ns() == T0 + 5 * SECOND + 1000, "it works on another event"


def test_a_program_cannot_sleep_the_time_back() -> None:
    replayed = ReplayedTime(T0, speed=0.0)
    with pytest.raises(ValueError, match="non-negative"):
        replayed.sleep(-1)
    assert replayed.stamp() == T0


@pytest.mark.parametrize(("speed", "slept"), [(0.0, 0.0), (0.5, 6.0), (4.0, 0.75)])
def test_a_program_sleeps_at_the_speed_of_the_replay(
    speed: float, slept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: list[float] = []
    monkeypatch.setattr("dora.node.replay.clock._real_sleep", real.append)
    replayed = ReplayedTime(T0, speed)
    replayed.sleep(3.0)
    assert real == [slept]
    assert replayed.stamp() == T0 + 3 * SECOND


def test_modules_of_the_program_have_the_replayed_time_and_installed_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    modules = []
    for name, folder in (
        ("own", tmp_path),
        ("installed", tmp_path / "site-packages"),
        ("other", Path("/")),
    ):
        module = ModuleType(name)
        module.__file__ = str(folder / f"{name}.py")
        module.now = time.time  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        modules.append(module)
    real = time.time
    replayed = ReplayedTime(T0, speed=0.0)
    replayed.install()
    try:
        own, *others = (vars(module)["now"] for module in modules)
        assert own() == pytest.approx(T0 / 1e9)
        assert others == [real, real]
    finally:
        replayed.remove()
    assert vars(modules[0])["now"] is real


def test_other_threads_do_not_move_the_clock() -> None:
    replayed = ReplayedTime(T0, speed=0.0)
    seen: list[int] = []

    def look() -> None:
        replayed.sleep(0)
        seen.append(replayed.time_ns())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [T0]
    assert replayed.time_ns() == T0 + 1000


def test_the_replay_clock_serves_the_program_and_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("time", "time_ns", "sleep"):
        monkeypatch.setattr(time, name, getattr(time, name))  # put back at the end
    monkeypatch.setattr(output, "_now", output._now)
    real = time.time, time.time_ns, time.sleep, output._now
    replayed = ReplayedTime(T0, speed=0.0)
    replayed.install()
    assert time.time() == pytest.approx(T0 / 1e9)
    assert time.time_ns() == T0 + 2000
    time.sleep(10)
    assert output._now() == T0 + 10 * SECOND + 2000
    replayed.remove()
    assert (time.time, time.time_ns, time.sleep, output._now) == real
