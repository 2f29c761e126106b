"""A crash or a full disk at any step leaves a data set whole, and the next recorder goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from made_recording import Recording, check_whole

from dora.nodes.lerobot.dataset import SCRATCH, Dataset

STEPS = 6  # files that are moved to their places for an episode with one camera


class Crash(BaseException):
    """Ends a program where it stands: nothing handles it."""


class Moves:
    """Counts the files that are moved to their places, and raises an error instead of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fail_at = -1
        self.error: BaseException = Crash()
        move = Dataset._move

        def moved(dataset: Dataset, made: Path, path: str) -> None:
            self.count += 1
            if self.count == self.fail_at:
                raise self.error
            move(dataset, made, path)

        monkeypatch.setattr(Dataset, "_move", moved)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Moves:
    return Moves(monkeypatch)


def crash(recording: Recording) -> None:
    """End the recorder as a crash does: threads are gone, the lock is free, the files stay."""
    recorder = recording.recorder
    for source in recorder._sources.values():
        if source.track is not None:
            source.track.close = lambda: None  # type: ignore[method-assign]
    os.close(recorder._dataset._lock)


def add(recording: Recording, begin: float) -> None:
    """Record an episode and save it in this thread."""
    saved: list[Any] = []
    saver = recording.recorder._saver
    saver.save = saved.append  # type: ignore[method-assign]
    recording.episode(begin)
    saver._save(saved[0])


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_crash_while_an_episode_is_saved(step: int, before: int, tmp_path: Path, moves: Moves) -> None:
    recording = Recording(tmp_path)
    for number in range(before):
        add(recording, 2 * number)
    moves.fail_at = moves.count + step
    with pytest.raises(Crash):
        add(recording, 10)
    crash(recording)
    moves.fail_at = -1

    with Recording(tmp_path, resume=True) as again:
        assert "of an episode that was interrupted" in again.recorder._dataset.removed
        again.episode(20)
    check_whole(recording.root, before + 1)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_full_disk_while_an_episode_is_saved(step: int, tmp_path: Path, moves: Moves) -> None:
    moves.error = OSError(errno.ENOSPC, "No space left on device")
    with Recording(tmp_path) as recording:
        add(recording, 0)
        moves.fail_at = moves.count + step
        add(recording, 2)
        add(recording, 4)
        reason = recording.reports[1].pop("reason")
        assert "No space left on device" in reason
        assert [report["saved"] for report in recording.reports] == [True, False, True]
        assert recording.recorder.lost == 1
    check_whole(recording.root, 2)


def test_all_steps_are_tested(tmp_path: Path, moves: Moves) -> None:
    with Recording(tmp_path) as recording:
        recording.episode()
    assert moves.count == STEPS


def test_a_crash_while_an_episode_is_recorded(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    add(recording, 0)
    recording.episode(2, end="start")  # it goes on
    crash(recording)
    assert (recording.root / SCRATCH).is_dir()
    with Recording(tmp_path, resume=True) as again:
        again.episode(10)
    check_whole(recording.root, 2)


def test_many_episodes_fill_several_files_of_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.nodes.lerobot.dataset._ROWS", 2)
    for begin, resume in ((0, False), (10, True)):
        with Recording(tmp_path, "state episode", resume=resume) as recording:
            for number in range(3):
                recording.episode(begin + 2 * number, seconds=0.1)
    check_whole(recording.root, 6)
    assert len(list(recording.root.glob("meta/episodes/*/*"))) == 4
