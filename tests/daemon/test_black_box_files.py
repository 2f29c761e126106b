"""When a black box becomes a file, and what stays if that fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from recorded_files import bytes_of, message_of
from waiting import TIMEOUT

from dora.daemon import black_box
from dora.daemon.black_box import BlackBox
from dora.daemon.event_loop import Loop
from dora.daemon.journal import Journal
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.plan import plan
from dora.recording import save_black_box
from dora.recording.mcap.channels import PARAMETERS_CHANNEL
from dora.recording.mcap.writer import RecordingFailed, RecordingWriter
from dora.recording.opening import open_recording
from dora.recording.save_black_box import KeptBox, carry_out
from dora.transport.board import SENT, WORDS, Board
from dora.transport.shm import overwriting_ring
from dora.wire.black_box import LARGE, RUN, START, SavedBlackBox, SaveOrder
from dora.wire.daemon_protocol import Inspection
from dora.wire.event_log import EntryKind, entries, pack_entry
from dora.wire.journal import Mark
from dora.wire.node_protocol import WriteEventLog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a black box is for Linux")


class Rig:
    """The black box of a run whose daemon does nothing else."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out" / "run"
        self.files = self.out / "black-box"
        prefix = f"dora_{uuid.uuid4().hex[:12]}_"
        dataflow = Dataflow((NodeSpec("a", path="a.py", outputs=("x",)),), str(folder))
        context = RunContext("id", str(folder), prefix, str(folder / "board"))
        self.layout = layout = plan(dataflow, context)
        self.board = Board.create(context.board, layout.lines)
        self.loop = Loop()
        self.supervisor = Supervisor(dataflow)
        self.journal = Journal(self.supervisor.state)
        self.said: list[tuple[str, str]] = []
        self.resumed: list[WriteEventLog] = []
        self.box = BlackBox(
            dataflow,
            layout,
            context,
            60.0,
            str(self.out),
            "",
            words=self.board.words,
            loop=self.loop,
            journal=self.journal,
            inspect=lambda: Inspection("id", None, "shm", str(folder), prefix, context.board, [], []),
            is_open=lambda: True,
            resume=self.resumed.append,
            log=lambda level, _, text: self.said.append((level, text)),
        )

    def fail(self, node_id: str) -> None:
        self.journal.mark("failed", node_id, "exited with status 1")

    def close(self) -> None:
        self.box.close()
        self.board.close()
        self.loop.close()
        shutil.rmtree(self.box.folder, ignore_errors=True)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    assert rig.box.folder, rig.said
    yield rig
    rig.close()


# ----------------------------------------------------------------------------- the daemon


def test_the_rings_together_take_no_more_than_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(black_box, "MEMORY", 2 << 20)
    rig = Rig(tmp_path)
    rings = sorted(rig.box._rings.values(), key=lambda ring: not ring.large)
    for ring in rings:
        for _ in range(8):
            rig.box._grow(ring, 2 << 20)
    assert sum(ring.ring.room for ring in rings) <= 2 << 20
    first = os.sysconf("SC_PAGE_SIZE")  # which the ring for large messages has from the start
    assert sum(ring.ring.room for ring in rings if ring.large) <= (3 << 19) + first
    rig.close()


def test_a_file_that_is_asked_for_has_the_present_state(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(rig.box, "_write_state", lambda: done.append("state"))
    monkeypatch.setattr(rig.box, "_start_saver", lambda *_: done.append("saver"))
    rig.box.save("", "", lambda _: None)
    assert done == ["state", "saver"]


def test_each_new_message_of_an_output_that_saves_is_noted_once(rig: Rig) -> None:
    slot = rig.layout.configs["a"].outputs[0].slot
    rig.box._saving = [("a/x", slot)]
    for sent, notes in ((0, 0), (1, 1), (1, 1), (3, 2), (3, 2)):
        rig.board.set(slot, SENT, sent)
        rig.box._tick()
        entries = rig.journal.entries(1).entries
        assert sum(isinstance(entry.content, Mark) for entry in entries) == notes


def test_a_failure_before_all_nodes_were_ready_makes_no_file(rig: Rig) -> None:
    rig.box._is_open = lambda: False
    rig.fail("a")
    assert rig.box._due is None


def test_a_file_at_a_path_of_the_user_is_none_of_the_run(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "mine.mcap"
    saved.write_bytes(b"")
    monkeypatch.setattr(rig.box, "_start_saver", lambda _, answer: answer(SavedBlackBox(path=str(saved))))
    rig.box.save(str(saved), "", lambda _: None)
    assert rig.box.saved == []
    rig.box.save("", "", lambda _: None)
    assert rig.box.saved == [str(saved)]


def test_of_a_run_only_the_files_of_its_black_box_are_read(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"secret")
    assert rig.box.read_saved(str(path), 0) is None


def test_a_failure_soon_after_a_file_is_saved_at_the_end_of_the_pause_or_of_the_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    due: list[tuple[float, Callable[[], None]]] = []
    orders: list[SaveOrder] = []
    monkeypatch.setattr(black_box.time, "monotonic", lambda: now)
    monkeypatch.setattr(rig.loop, "call_at", lambda *call: due.append(call))
    monkeypatch.setattr(rig.box, "_start_saver", lambda order, _: orders.append(order))
    rig.fail("a")
    ((when, save_it),) = due
    assert when == now + black_box._AFTER
    now = when
    save_it()
    now += 5
    rig.fail("a")
    assert due[1][0] == when + black_box._PAUSE
    assert len(orders) == 1
    rig.box.finish()
    assert [order.reason for order in orders] == ["failed", "failed"]


@pytest.mark.processes
def test_a_file_that_takes_too_long_is_named_at_the_end(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "saver"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setattr(black_box.sys, "executable", str(program))
    monkeypatch.setattr(black_box, "_PATIENCE", 0.0)
    answers: list[SavedBlackBox] = []
    rig.box.save("", "", answers.append)
    rig.fail("a")
    rig.box.finish()
    assert [answer.problem for answer in answers] == ["it took more than 0 s"]
    assert rig.said == [("warn", "the last seconds could not be saved: it took more than 0 s")]


def test_many_nodes_at_the_start_make_no_node_resume(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overwriting_ring, "_SHORTEST_NS", 10**12)
    for number in range(300):
        rig.journal.parameters(f"node{number}", {})
    assert rig.box._rings[RUN].ring.is_paused
    rig.box._tick()
    assert not rig.resumed
    writer = overwriting_ring.OverwritingWriter(f"{rig.box.folder}/order/a")
    for _ in range(300):
        writer.write(b"entry")
    rig.box._tick()
    assert rig.resumed == [rig.box.frame]


# ----------------------------------------------------------------------------- the files


def write_old(path: Path, content: bytes = b"old") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1, 1))
    return path


def test_a_save_that_fails_takes_no_old_file_along(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [write_old(rig.files / f"{number}.mcap") for number in range(5)]

    def fail(*_: object) -> None:
        raise RecordingFailed("there is no room left on its disk")

    with monkeypatch.context() as patch:
        patch.setattr(RecordingWriter, "finish", fail)
        assert carry_out(SaveOrder(rig.box.folder, asked=True)).problem
    assert sorted(rig.files.iterdir()) == old
    saved = carry_out(SaveOrder(rig.box.folder, asked=True))
    assert not saved.problem
    left = sorted(rig.files.iterdir())
    assert len(left) == 5 and Path(saved.path) in left


@pytest.mark.parametrize("error", [RecordingFailed("no room"), MemoryError(), OSError(5, "I/O error")])
def test_a_save_that_fails_leaves_no_part_of_a_file(
    rig: Rig, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(save_black_box.os, "rename", fail)
    assert carry_out(SaveOrder(rig.box.folder, asked=True)).problem
    assert list(rig.files.iterdir()) == []


def test_the_next_save_removes_what_a_killed_one_has_left(rig: Rig) -> None:
    write_old(rig.files / "killed.mcap.part")
    (rig.files / "written-now.mcap.part").touch()
    saved = carry_out(SaveOrder(rig.box.folder, asked=True))
    assert {path.name for path in rig.files.iterdir()} == {
        os.path.basename(saved.path),
        "written-now.mcap.part",
    }


def slot_of(rig: Rig) -> int:
    (output,) = KeptBox(rig.box.folder).start.outputs
    return output.slot


def keep(rig: Rig, sequence: int, seconds_ago: float = 0.0, *, large: bool = False) -> None:
    """Put a message of the only output into its ring, and count it, as the node does."""
    slot = slot_of(rig)
    message = message_of(b"x", {}, sequence, time.time_ns() - int(seconds_ago * 1e9))
    writer = overwriting_ring.OverwritingWriter(f"{rig.box.folder}/{slot}{LARGE if large else ''}")
    writer.write(bytes_of(message))
    rig.board.words[slot * WORDS + SENT] = sequence


def kept_numbers(saved: SavedBlackBox) -> list[int]:
    with open_recording(saved.path) as recording:
        return [each.sequence for each in recording.messages()]


def test_small_and_large_messages_of_the_last_seconds_are_saved(rig: Rig) -> None:
    for number, seconds_ago in ((1, 100), (2, 61), (3, 40), (5, 20)):
        keep(rig, number, seconds_ago)
    keep(rig, 4, 30, large=True)
    saved = carry_out(SaveOrder(rig.box.folder))
    assert (kept_numbers(saved), saved.messages, saved.lost) == ([3, 4, 5], 3, 0)


def test_the_last_seconds_begin_with_what_was_sent_at_their_first_moment(rig: Rig) -> None:
    keep(rig, 1)
    sent_ns = KeptBox(rig.box.folder).end_ns
    for later, kept in ((0, 1), (1, 0)):
        box = KeptBox(rig.box.folder, sent_ns + 60 * 10**9 + later)
        assert len(box.messages) == kept


def test_messages_are_missing_up_to_the_last_one_even_if_its_node_has_not_counted_it_yet(rig: Rig) -> None:
    keep(rig, 1)
    keep(rig, 3)
    rig.board.words[slot_of(rig) * WORDS + SENT] = 2
    saved = carry_out(SaveOrder(rig.box.folder))
    with open_recording(saved.path) as recording:
        assert recording.end is not None
        (end,) = recording.end.topics.values()
    assert (end.messages, end.lost, end.last) == (2, 1, 3)


def test_a_run_that_sent_nothing_is_saved_for_a_user_only(rig: Rig) -> None:
    assert carry_out(SaveOrder(rig.box.folder)) == SavedBlackBox()
    assert not rig.files.exists()
    assert carry_out(SaveOrder(rig.box.folder, asked=True)).path


@pytest.mark.parametrize("board", [True, False])
def test_messages_that_were_overwritten_are_counted_as_lost(rig: Rig, board: bool) -> None:
    keep(rig, 3)
    rig.board.words[slot_of(rig) * WORDS + SENT] = 5
    rig.box._write_state()
    if not board:  # it went with the daemon, and the last state has its words
        os.unlink(KeptBox(rig.box.folder).start.board)
    saved = carry_out(SaveOrder(rig.box.folder))
    assert (saved.messages, saved.lost) == (1, 2)


def test_parameters_at_the_begin_are_those_that_were_set_last_before(rig: Rig) -> None:
    for gain in (1, 2, 3, 3, 4):
        rig.journal.parameters("a", {"gain": gain})
    _, second, third, *_ = [entry.time_ns for entry in KeptBox(rig.box.folder).journal][-5:]
    box = KeptBox(rig.box.folder, second + 1 + 60 * 10**9)
    found = [(time_ns, data) for item, time_ns, data in box.context() if item is PARAMETERS_CHANNEL]
    assert [msgspec.json.decode(data)["values"]["gain"] for _, data in found] == [2, 3, 4]
    assert [time_ns for time_ns, _ in found[:2]] == [second + 1, third]


def test_the_order_of_events_begins_with_the_inputs_and_is_saved_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save_black_box, "_ORDER_PIECE", 1000)
    writer = overwriting_ring.OverwritingWriter(f"{rig.box.folder}/order/a")
    now = time.time_ns()
    times = [now - 10**11, *range(now, now + 20)]
    for number, time_ns in enumerate(times):
        writer.write(pack_entry(EntryKind.MESSAGE, 0, time_ns, number, bytes(100)))
    pieces = list(KeptBox(rig.box.folder, now + 100).orders())
    found = [entry for _, _, data in pieces for entry in entries(data)]
    assert [(entry.kind, entry.number) for entry in found] == [
        (EntryKind.BEGIN, 0),
        *((EntryKind.MESSAGE, number) for number in range(1, 21)),
    ]
    assert len(pieces) > 1
    assert [time_ns for _, time_ns, _ in pieces] == sorted(time_ns for _, time_ns, _ in pieces)


def test_a_process_that_began_within_the_last_seconds_begins_once(rig: Rig) -> None:
    writer = overwriting_ring.OverwritingWriter(f"{rig.box.folder}/order/a")
    now = time.time_ns()
    inputs = msgspec.msgpack.encode({"x": "b/x"})
    for kind, number, content in ((EntryKind.BEGIN, 2, inputs), (EntryKind.MESSAGE, 1, b"")):
        writer.write(pack_entry(kind, 0, now, number, content))
    found = [entry for _, _, data in KeptBox(rig.box.folder, now).orders() for entry in entries(data)]
    assert [(entry.kind, entry.number) for entry in found] == [(EntryKind.BEGIN, 2), (EntryKind.MESSAGE, 1)]


@pytest.mark.processes
def test_a_killed_run_that_another_process_saves_is_left_to_it(rig: Rig) -> None:
    keep(rig, 1)
    order = msgspec.json.encode(SaveOrder(rig.box.folder, reason="killed", dead=True)).decode()
    with open(f"{rig.box.folder}/{START}", "rb") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "dora.recording.save_black_box", order]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT)
    assert done.stdout == b""
    assert not rig.files.exists() and os.path.isdir(rig.box.folder)


@pytest.mark.processes
def test_a_killed_run_that_cannot_be_saved_says_so_in_its_log_and_is_kept(rig: Rig) -> None:
    rig.out.mkdir(parents=True)
    rig.files.write_text("in the way")
    order = msgspec.json.encode(SaveOrder(rig.box.folder, reason="killed", asked=True, dead=True)).decode()

    def run() -> None:
        command = [sys.executable, "-m", "dora.recording.save_black_box", order]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT)

    run()
    log = (rig.out / "log_dora.jsonl").read_text()
    assert "the last seconds before the run was killed could not be saved" in log
    assert os.path.isdir(rig.box.folder)
    rig.files.unlink()
    run()
    assert len(list(rig.files.glob("*-killed.mcap"))) == 1
    assert not os.path.isdir(rig.box.folder)
