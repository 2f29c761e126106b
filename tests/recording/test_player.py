"""What a player sends, and how long it waits for a recorder of its messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from recorded_files import SECOND, T0, message_of, write_recording

from dora.node.host import EVENT_LOG_SUFFIX
from dora.recording.mcap.recording import Recording
from dora.recording.opening import open_recording
from dora.recording.replay import player
from dora.recording.replay.player import Player, window
from dora.recording.replay.replay import Replay, ReplayRequest
from dora.recording.replay.replay_dataflow import PlayerSettings
from dora.transport.board import RECORDED, SENT, WORDS
from dora.wire.event_log import EntryKind, entries, pack_entry


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


def test_each_round_of_a_loop_begins_after_the_end_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs: list[int] = []

    def play_round(_: Player, outputs: Any, begin_ns: int, end_ns: int, epoch_ns: int) -> bool:
        assert (outputs, begin_ns, end_ns) == ({}, T0, T0 + 4 * SECOND + 1)
        epochs.append(epoch_ns)
        return len(epochs) < 3

    monkeypatch.setattr(Player, "_round", play_round)
    monkeypatch.setattr(player, "cut", lambda _: "")
    session: Any = SimpleNamespace(
        inbox=SimpleNamespace(epoch_ns=7), outputs={}, config=SimpleNamespace(outputs=[])
    )
    recording: Any = SimpleNamespace(first_ns=T0, last_ns=T0 + 4 * SECOND, topic_of=str, damage="")
    settings = PlayerSettings(file="a.mcap", node_id="a", loop=True)
    clock: Any = SimpleNamespace(recorded=False, speed=2.0)
    Player(session, recording, settings, clock).play()
    between = (4 * SECOND + 1_000_000) // 2
    assert epochs == [7, 7 + between, 7 + 2 * between], "a millisecond of the recording is between them"


def test_a_player_that_is_stopped_at_a_full_queue_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    port: Any = SimpleNamespace(unsent=0)

    def send(_: Player, port: Any, recorded: Any) -> None:
        sent.append(recorded.time_ns)
        port.unsent = int(recorded.time_ns == 2)

    monkeypatch.setattr(Player, "_send", send)
    monkeypatch.setattr(Player, "_wait", lambda *_: True)
    messages = [SimpleNamespace(topic="a/x", time_ns=number) for number in (1, 2, 3)]
    recording: Any = SimpleNamespace(messages=lambda *_: iter(messages))
    unused: Any = None
    stopped = Player(unused, recording, unused, SimpleNamespace(recorded=False))  # type: ignore[arg-type]
    assert not stopped._round({"a/x": port}, 0, 4, 0)
    assert sent == [1, 2]


@pytest.mark.parametrize(("ordered", "time_ns"), [(True, 5), (False, 99)])
def test_messages_have_their_recorded_times_only_in_recorded_order(
    ordered: bool, time_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, bool]] = []

    def resend(_: Any, __: Any, time_ns: int, *, exactly: bool) -> None:
        sent.append((time_ns, exactly))

    monkeypatch.setattr(player.time, "time_ns", lambda: 99)
    clock: Any = SimpleNamespace(recorded=False, ordered=ordered)
    port: Any = SimpleNamespace(resend=resend)
    recorded: Any = SimpleNamespace(message=message_of(b"x", {}, 1, 5), topic="a/x", sequence=1)
    unused: Any = None
    Player(unused, unused, unused, clock)._send(port, recorded)
    assert sent == [(time_ns, ordered)]


BEGIN = pack_entry(EntryKind.BEGIN, 0, T0, 0, msgspec.msgpack.encode({"x": "a/x"}))
NODES = [
    {"id": "a", "path": "a.py", "outputs": ["x"]},
    {"id": "b", "path": "b.py", "inputs": {"x": "a/x"}},
]


@pytest.fixture
def ordered(tmp_path: Path) -> Iterator[Recording]:
    """A recording with messages at 1, 2 and 3 seconds, and events of their receiver before and after."""
    for name in ("a.py", "b.py"):
        (tmp_path / name).touch()
    order = [pack_entry(EntryKind.EVENT, 0, T0, 0)]
    order += [pack_entry(EntryKind.MESSAGE, 0, T0 + number * SECOND, number) for number in (1, 2, 3)]
    order += [pack_entry(EntryKind.EVENT, 0, T0 + 5 * SECOND, 0)]
    sent = [("a/x", float(number), b"x") for number in (1, 2, 3)]
    path = write_recording(
        tmp_path / "a.mcap", sent, dataflow={"nodes": NODES}, orders={"b": BEGIN + b"".join(order)}
    )
    with open_recording(str(path)) as recording:
        yield recording


@pytest.mark.parametrize(
    ("request_", "order"),
    [
        (ReplayRequest(), ["event", 1, 2, 3, "event"]),
        (ReplayRequest(begin=1.0), [1, 2, "event"]),
        (ReplayRequest(end=1.5), ["event", 1, 2]),
        (ReplayRequest(free=True), None),
        (ReplayRequest(loop=True), None),
    ],
    ids=["all", "begin", "end", "free", "loop"],
)
def test_the_order_of_a_whole_replay_has_the_events_before_and_after_all_messages(
    request_: ReplayRequest, order: list[int | str] | None, ordered: Recording, tmp_path: Path
) -> None:
    replay = Replay(ordered, request_)
    (tmp_path / "replay").mkdir()
    replay.prepare(str(tmp_path / "replay"))
    path = tmp_path / "replay" / f"b{EVENT_LOG_SUFFIX}"
    assert (replay.ordered, path.exists()) == (order is not None,) * 2
    assert replay.unordered(str(tmp_path / "replay")) == ([] if order else ["b"])
    if order:
        _, *found = entries(path.read_bytes())
        assert [each.number or "event" for each in found] == order


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (ReplayRequest(), 3),
        (ReplayRequest(begin=1.0), 0),
        (ReplayRequest(end=1.5), 0),
        (ReplayRequest(loop=True), 0),
    ],
    ids=["all", "begin", "end", "loop"],
)
def test_a_replay_of_a_part_does_not_know_its_number_of_messages(
    request_: ReplayRequest, count: int, ordered: Recording
) -> None:
    assert Replay(ordered, request_).message_count() == count


@pytest.mark.parametrize(
    ("lost", "begin", "numbers"), [(0, 0.0, [1, 2, 3]), (2, 0.0, [1, 2, 3]), (2, 1.0, [0, 1, 2])]
)
def test_messages_count_from_1_in_a_replay(
    lost: int, begin: float, numbers: list[int], tmp_path: Path
) -> None:
    sent = [("a/x", float(number), b"x") for number in range(3)]
    path = write_recording(tmp_path / "a.mcap", sent, dataflow={"nodes": NODES}, first=5, lost=lost)
    with open_recording(str(path)) as recording:
        translate = Replay(recording, ReplayRequest(begin=begin))._numbers()
        assert [translate("a/x", number) for number in (5, 6, 7)] == numbers
        if lost:
            assert translate("a/x", 8) == 0, "it will not be sent"
