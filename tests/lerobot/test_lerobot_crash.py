"""A crash or a full disk at any step leaves a data set whole, and the next recorder goes on."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from made_recording import Recording, check_whole, command
from waiting import wait_until

from dora.nodes.lerobot import dataset, layout
from dora.nodes.lerobot.dataset import SCRATCH, Dataset, DatasetError, read_info

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


@pytest.mark.lengthy
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


@pytest.mark.lengthy
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


@pytest.mark.lengthy
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_full_disk_while_the_only_episode_is_saved_leaves_nothing(
    step: int, tmp_path: Path, moves: Moves
) -> None:
    moves.error = OSError(errno.ENOSPC, "No space left on device")
    moves.fail_at = step
    with Recording(tmp_path) as recording:
        add(recording, 0)
    check_whole(recording.root, 0)
    with Recording(tmp_path) as again:
        add(again, 0)
    check_whole(recording.root, 1)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_what_a_crash_leaves_of_the_only_episode_goes_with_the_next_recorder(
    step: int, tmp_path: Path, moves: Moves
) -> None:
    recording = Recording(tmp_path)
    moves.fail_at = step
    with pytest.raises(Crash):
        add(recording, 0)
    crash(recording)
    Recording(tmp_path).close()
    check_whole(recording.root, 0)


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> list[int]:
    """Make the next call of a method of `Dataset` fail; return a list that each call makes longer."""
    calls: list[int] = []
    method = getattr(Dataset, name)

    def failing(*args: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 1:
            raise error
        return method(*args)

    monkeypatch.setattr(Dataset, name, failing)
    return calls


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.lengthy
def test_an_episode_that_cannot_be_saved_leaves_the_video_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recording(tmp_path) as recording:
        saver = recording.recorder._saver
        saved: list[Any] = []
        with monkeypatch.context() as patched:
            patched.setattr(saver, "save", saved.append)
            recording.episode(0)
        recording.run(1.9, 0.1)
        recording.take(command(2, "start"))
        recording.run(2, 0.5)
        videos = recording.root / SCRATCH
        wait_until(lambda: len(list(videos.glob("1-*.mp4"))) == 1, "the next video")
        fail_once(monkeypatch, "_write_table", FULL)
        saver._save(saved[0])
        assert [video.name[0] for video in videos.glob("*.mp4")] == ["1"]
        recording.run(2.5, 0.5)
        recording.take(command(3, "end"))
    assert [report["saved"] for report in recording.reports] == [False, True]
    check_whole(recording.root, 1)


@pytest.mark.lengthy
def test_a_disk_that_stays_full_costs_only_the_episodes_for_which_it_has_no_room(
    tmp_path: Path, moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves.error = FULL
    with Recording(tmp_path) as recording:
        add(recording, 0)
        for begin in (2, 4):
            fail_once(monkeypatch, "_clean_places", FULL)  # no room to remove what is there either
            moves.fail_at = moves.count + STEPS
            add(recording, begin)
        assert recording.recorder.lost == 2
        moves.fail_at = -1
    check_whole(recording.root, 1)


def test_a_disk_that_fails_after_an_episode_is_in_the_data_set_does_not_remove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = dataset._flush

    def failing(path: Path) -> None:
        if path.name == "meta" and (path.parent / layout.INFO).exists():
            raise OSError(errno.EIO, "Input/output error")
        flush(path)

    monkeypatch.setattr(dataset, "_flush", failing)
    with Recording(tmp_path) as recording:
        add(recording, 0)
    assert [report["saved"] for report in recording.reports] == [True]
    check_whole(recording.root, 1)


@pytest.mark.lengthy
@pytest.mark.parametrize(("module", "step"), [(dataset, "make_folder"), (fcntl, "flock")])
def test_a_recorder_that_ends_while_the_next_one_begins_keeps_its_episodes_and_the_lock_is_for_one(
    module: Any, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(tmp_path)
    add(recording, 0)
    with monkeypatch.context() as patched:

        def ending(*args: Any, **options: Any) -> None:
            patched.undo()
            add(recording, 2)
            recording.close()
            getattr(module, step)(*args, **options)

        patched.setattr(module, step, ending)
        again = Recording(tmp_path, resume=True)
    with pytest.raises(DatasetError, match="another recorder writes to"):
        Recording(tmp_path, resume=True)
    assert read_info(recording.root).total_episodes == 2
    again.episode(10)
    again.close()
    check_whole(recording.root, 3)


@pytest.mark.lengthy
def test_an_error_that_nobody_expects_costs_one_episode_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, "_add", ValueError("odd"))
    with Recording(tmp_path) as recording:
        recording.episode(0)
        recording.episode(2)
    assert [report["saved"] for report in recording.reports] == [False, True]
    assert recording.reports[0]["reason"] == "ValueError: odd"
    assert recording.recorder.lost == 1
    check_whole(recording.root, 1)


def test_all_steps_are_tested(tmp_path: Path, moves: Moves) -> None:
    with Recording(tmp_path) as recording:
        recording.episode()
    assert moves.count == STEPS


@pytest.mark.lengthy
def test_a_crash_while_an_episode_is_recorded(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    add(recording, 0)
    recording.episode(2, end="start")  # it goes on
    crash(recording)
    assert (recording.root / SCRATCH).is_dir()
    with Recording(tmp_path, resume=True) as again:
        again.episode(10)
    check_whole(recording.root, 2)


@pytest.mark.lengthy
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
