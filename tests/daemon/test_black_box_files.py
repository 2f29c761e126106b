"""When a black box becomes a file, and what stays if that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
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
from dora.recording.mcap.writer import RecordingFailed, RecordingWriter
from dora.recording.save_black_box import carry_out
from dora.transport.board import Board
from dora.transport.shm import overwriting_ring
from dora.wire.black_box import RUN, SavedBlackBox, SaveOrder
from dora.wire.daemon_protocol import Inspection
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
        layout = plan(dataflow, context)
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
