"""What a player sends, and how long it waits for a recorder of its messages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_files import SECOND, T0, write_recording

from dora.recording.opening import open_recording
from dora.recording.replay import player
from dora.recording.replay.player import Player, window
from dora.recording.replay.replay import Replay, ReplayRequest
from dora.transport.board import RECORDED, SENT, WORDS


class Stage:
    """A player whose output has sent more than its recorder has room for; time passes while it waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.rate = 0.0  # messages a second that the recorder takes
        self.words = memoryview(bytearray(WORDS * 8)).cast("Q")
        self.words[SENT] = 1000
        session: Any = SimpleNamespace(board=SimpleNamespace(words=self.words))
        clock: Any = SimpleNamespace(recorded=True)
        unused: Any = None
        self.player = Player(session, unused, unused, clock)
        self.player._slots = {"a/x": 0}
        monkeypatch.setattr(player.time, "sleep", self.sleep)
        monkeypatch.setattr(player, "_monotonic", lambda: int(self.now * 1e9))

    def sleep(self, seconds: float) -> None:
        assert self.now < 1000
        self.now += seconds
        self.words[RECORDED] = int(self.rate * self.now)


@pytest.mark.parametrize(("size", "left"), [(1, 255), (1 << 20, 63), (1 << 30, 1)])
def test_a_player_waits_for_a_slow_recorder(size: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.rate = 10.0
    stage.player._wait_for_recorder("a/x", size)
    assert stage.words[SENT] - stage.words[RECORDED] == left
    assert stage.player._recorded


def test_a_player_waits_once_for_a_recorder_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.player._wait_for_recorder("a/x", 1)
    assert 10.0 <= stage.now < 10.1
    assert not stage.player._recorded


def test_a_replay_has_the_first_and_the_last_message(tmp_path: Path) -> None:
    sent = [("a/x", float(number), b"%d" % number) for number in range(5)]
    with open_recording(str(write_recording(tmp_path / "a.mcap", sent))) as recording:
        for begin, end, seconds in ((0.0, None, [0, 1, 2, 3, 4]), (1.0, 3.0, [1, 2])):
            found = recording.messages(["a/x"], *window(recording, begin, end))
            assert [(each.time_ns - T0) // SECOND for each in found] == seconds


def test_a_part_without_messages_is_not_played_again_and_again() -> None:
    recording: Any = SimpleNamespace(messages=lambda *_: iter(()))
    unused: Any = None
    empty = Player(unused, recording, unused, SimpleNamespace(recorded=False))  # type: ignore[arg-type]
    assert not empty._round({}, 0, 1, 0)


@pytest.mark.parametrize(
    ("lost", "begin", "numbers"), [(0, 0.0, [1, 2, 3]), (2, 0.0, [1, 2, 3]), (2, 1.0, [0, 1, 2])]
)
def test_messages_count_from_1_in_a_replay(
    lost: int, begin: float, numbers: list[int], tmp_path: Path
) -> None:
    nodes = [
        {"id": "a", "path": "a.py", "outputs": ["x"]},
        {"id": "b", "path": "b.py", "inputs": {"x": "a/x"}},
    ]
    sent = [("a/x", float(number), b"x") for number in range(3)]
    path = write_recording(tmp_path / "a.mcap", sent, dataflow={"nodes": nodes}, first=5, lost=lost)
    with open_recording(str(path)) as recording:
        translate = Replay(recording, ReplayRequest(begin=begin))._numbers()
        assert [translate("a/x", number) for number in (5, 6, 7)] == numbers
        if lost:
            assert translate("a/x", 8) == 0, "it will not be sent"
