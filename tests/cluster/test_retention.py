"""How long a copy of a folder stays on a machine, and what of it goes."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from dora._paths import state_folder
from dora.cluster.ssh import retention
from dora.cluster.ssh.folder import LOCK, Entry, copy_of, copy_path, locked
from dora.cluster.ssh.receive import ExpectedFiles, receive
from dora.cluster.ssh.retention import (
    EXPECTED,
    RetainedCopies,
    coordinators_of,
    copies,
    release,
    remove_if_unused,
    remove_unused,
    retain,
    retained_for,
    running_in,
)
from dora.errors import DoraError

HERE = "10.0.0.1:6013"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def sent(**files: str) -> bytes:
    """Return what a sender writes for a copy that has nothing yet."""
    stream = io.BytesIO()
    entries: dict[str, Entry] = {}
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for key, text in files.items():
            name = key.replace("__", "/")
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(text), {"DORA.time": "1"}
            archive.addfile(member, io.BytesIO(text.encode()))
            entries[name] = (len(text), 1, 0o644)
    return msgspec.json.encode(ExpectedFiles(entries, [])) + b"\n" + stream.getvalue()


def copied(name: str = "flow", **files: str) -> Path:
    receive(name, io.BytesIO(sent(**(files or {"a.py": "text"}))), io.BytesIO())
    return Path(copy_path(name))


def cut_off(name: str, **files: str) -> Path:
    """Send a copy of which the last file arrives by half; its text has to be long."""
    with pytest.raises(DoraError, match="not complete"):
        receive(name, io.BytesIO(sent(**files)[:-20_000]), io.BytesIO())
    return Path(copy_path(name))


def age(copy: Path) -> None:
    """Let a copy be as old as it may be without a dataflow."""
    long_ago = time.time() - EXPECTED - 1
    os.utime(copy / ".dora-copy.new", (long_ago, long_ago))


def test_a_copy_stays_as_long_as_a_dataflow_has_a_record() -> None:
    copy = copied()
    retain("one", "left", HERE, [str(copy)])
    retain("two", "left", HERE, [str(copy / "nodes"), "/tmp"])
    assert [item.dataflows for item in copies()] == [["one", "two"]]
    assert retained_for("left", HERE) == ("one", "two") and not retained_for("left", "10.0.0.2:6013")
    release(["one"], "left")
    assert (copy / "a.py").read_text() == "text" and retained_for("left", HERE) == ("two",)
    release(["two", "of nobody"], "left")
    assert not copy.exists() and not retained_for("left", HERE)


def test_a_copy_is_of_all_machines_of_a_host() -> None:
    copy = copied()
    retain("one", "left", HERE, [str(copy)])
    retain("one", "right", HERE, [str(copy)])
    release(["one"], "left")
    assert copy.exists() and retained_for("right", HERE) == ("one",)
    release(["one"], "right")
    assert not copy.exists()


def test_a_copy_that_another_machine_of_the_host_removes_meanwhile_is_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = copied("flow")
    copied("other")
    size = retention._size

    def while_it_is_removed(folder: str) -> int:
        found = size(folder)
        if folder == str(copy):
            shutil.rmtree(copy)
        return found

    monkeypatch.setattr(retention, "_size", while_it_is_removed)
    assert [found.folder for found in copies()] == [copy_path("other")]


def test_log_files_and_states_of_nodes_are_removed_with_the_record(data: Path) -> None:
    logs = data / "out" / "one"
    logs.mkdir(parents=True)
    (logs / "log_a.jsonl").touch()
    states = [Path(state_folder("one", machine)) for machine in ("left", "right")]
    for state in states:
        state.mkdir(parents=True)
    retain("one", "left", HERE, [])
    release(["one"], "left")
    assert not logs.exists()
    assert [state.exists() for state in states] == [False, True], "the other one is of another machine"


def test_files_that_nodes_wrote_are_kept(tmp_path: Path) -> None:
    copy = copied(**{"a.py": "", "nodes__b.py": "", "away__c": ""})
    (copy / "nodes" / "result").write_text("found")
    (copy / "nodes" / "__pycache__").mkdir()
    (copy / "nodes" / "__pycache__" / "b.pyc").touch()
    (copy / "away").rename(tmp_path / "elsewhere")
    (copy / "away").symlink_to(tmp_path / "elsewhere")
    retain("one", "left", HERE, [str(copy)])
    release(["one"], "left")
    assert sorted(path.name for path in copy.rglob("*")) == [LOCK, "away", "nodes", "result"]
    assert (tmp_path / "elsewhere" / "c").exists()
    [left] = copies()
    assert left.left_over and left.size >= len("found")
    remove_unused()
    assert copy.exists()
    assert remove_if_unused(str(copy), wholly=True) and not copy.exists()


def test_the_coordinators_of_a_machine_are_known() -> None:
    retain("one", "robot", "127.0.0.1:40000", [])
    retain("two", "robot", "127.0.0.1:50000", [])
    retain("three", "desk", HERE, [])
    assert coordinators_of("robot") == {"127.0.0.1:40000", "127.0.0.1:50000"}
    release(retained_for("robot", "127.0.0.1:40000"), "robot")
    assert coordinators_of("robot") == {"127.0.0.1:50000"} and coordinators_of("nowhere") == set()


def test_a_copy_stays_while_dora_run_uses_it_and_some_time_longer() -> None:
    copy = copied()
    with running_in(str(copy)), running_in(str(copy)):
        os.utime(copy / ".dora-copy.new", (0, 0))
        remove_unused()
        assert not remove_if_unused(str(copy), wholly=True)
        assert [(found.running, found.expected) for found in copies()] == [(True, False)]
    remove_unused()
    assert [(found.running, found.expected) for found in copies()] == [(False, True)]
    os.utime(copy / ".dora-copy.new", (0, 0))
    remove_unused()
    assert not copy.exists()


def test_a_copy_stays_for_some_time_after_a_dora_run_that_was_interrupted() -> None:
    copy = copied()
    with pytest.raises(KeyboardInterrupt), running_in(str(copy)):
        age(copy)
        raise KeyboardInterrupt
    assert [found.expected for found in copies()] == [True]


def test_a_copy_without_a_dataflow_is_removed_with_the_next() -> None:
    first = copied("first")
    copied("second")
    assert first.exists(), "it is about to start"
    assert [item.expected for item in copies()] == [True, True]
    age(first)
    third = copied("third")
    assert not first.exists()
    age(third)
    retain("one", "left", HERE, [str(third)])
    copied("fourth")
    assert third.exists(), "a dataflow has it"


def test_an_interrupted_copy_is_removed_with_the_next() -> None:
    half = cut_off("half", a="1", b="2" * 50_000)
    assert (half / "a").exists() and sorted(path.name for path in half.glob("[!.]*")) == ["a"]
    assert not (half / ".dora-copy.part").exists()
    copied("other")
    assert not half.exists()
    nothing = Path(copy_path("nothing"))
    with pytest.raises(DoraError, match="not complete"):
        receive("nothing", io.BytesIO(), io.BytesIO())
    copied("other")
    assert not nothing.exists()


def test_an_interrupted_copy_resumes() -> None:
    half = cut_off("half", a="1", b="2" * 50_000)
    answers = io.BytesIO()
    receive("half", io.BytesIO(sent(b="2")), answers)
    present = msgspec.json.decode(answers.getvalue().splitlines()[0])
    assert present["files"] == {"a": [1, 1, 0o644]}, "so it is not sent again, or is removed"
    assert half.exists() and present["free"] > 0


def test_a_dataflow_may_start_in_a_copy_as_soon_as_its_sender_is_told() -> None:
    class Answers(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if data == b"{}\n":
                retain("one", "left", HERE, [copy_path("flow")])
            return super().write(data)

    receive("flow", io.BytesIO(sent(a="1")), Answers())
    assert [item.dataflows for item in copies()] == [["one"]]


def test_a_copy_of_a_dataflow_stays_when_its_update_is_cut_off() -> None:
    copy = copied(a="1")
    retain("one", "left", HERE, [str(copy)])
    cut_off("flow", a="1", b="2" * 50_000)
    copied("other")
    assert (copy / "a").exists()


def test_nothing_starts_in_a_copy_whose_update_was_cut_off() -> None:
    copy = copied(a="1")
    cut_off("flow", a="1", b="2" * 50_000)
    with pytest.raises(DoraError, match="is not complete; start the dataflow again"):
        retain("one", "left", HERE, [str(copy)])
    assert retained_for("left", HERE) == () and [item.dataflows for item in copies()] == [[]]
    copied(a="1")
    retain("one", "left", HERE, [str(copy)])


def test_a_copy_that_is_being_made_stays() -> None:
    copy = copied()
    age(copy)
    with locked(str(copy)):
        remove_unused()
        assert (copy / "a.py").exists()
    remove_unused()
    assert not copy.exists()


def test_a_copy_that_comes_into_use_just_before_its_removal_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copied()
    age(copy)

    @contextmanager
    def locked_after_a_start(folder: str, *, wait: bool) -> Iterator[None]:
        retain("one", "left", HERE, [folder])
        with locked(folder, wait=wait):
            yield

    monkeypatch.setattr(retention, "locked", locked_after_a_start)
    assert not remove_if_unused(str(copy))
    assert (copy / "a.py").exists()


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_lock_that_went_with_its_copy_keeps_nobody_out(
    is_made_anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied()
    flock = fcntl.flock

    def flock_after_a_removal(lock: IO[bytes], operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(copy)
        if is_made_anew:
            copied()
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_a_removal)
    with locked(str(copy)), pytest.raises(BlockingIOError), locked(str(copy), wait=False):
        pass


def test_a_folder_that_dora_did_not_make_is_no_copy(data: Path) -> None:
    """It gets no files of a dataflow, and `dora cluster copies --remove` does not delete it."""
    mine = data / "dataflows" / "thesis"
    mine.mkdir(parents=True)
    (mine / "chapter.txt").write_text("text")
    copied("other")
    assert [Path(item.folder).name for item in copies()] == ["other"]
    assert not remove_if_unused(str(mine), wholly=True)
    with pytest.raises(DoraError, match="is no copy that dora made, and stays as it is"):
        copied("thesis")
    assert [path.name for path in mine.iterdir()] == ["chapter.txt"]


def test_a_folder_with_the_files_of_a_copy_that_lies_elsewhere_is_no_copy(tmp_path: Path) -> None:
    """A repository may contain them. Its files stay when the record of a dataflow in it goes."""
    copy = copied()
    clone = tmp_path / "clone"
    shutil.copytree(copy, clone)
    assert copy_of(str(clone)) is None
    retain("one", "left", HERE, [str(clone)])
    release(["one"], "left")
    assert not remove_if_unused(str(clone), wholly=True)
    assert (clone / "a.py").exists()


def test_a_copy_removes_only_files_that_were_sent() -> None:
    copy = copied()
    (copy / "result").write_text("found")
    wanted = msgspec.json.encode(ExpectedFiles({}, ["a.py", "result"]))
    receive("flow", io.BytesIO(wanted + b"\n" + sent().partition(b"\n")[2]), io.BytesIO())
    assert not (copy / "a.py").exists()
    assert (copy / "result").read_text() == "found"


def test_what_a_node_writes_in_the_place_of_a_file_that_was_removed_is_kept() -> None:
    copy = copied(**{"a.py": "text", "result": "old"})
    wanted = msgspec.json.encode(ExpectedFiles({"a.py": (4, 1, 0o644)}, ["result"]))
    receive("flow", io.BytesIO(wanted + b"\n" + sent().partition(b"\n")[2]), io.BytesIO())
    (copy / "result").write_text("found")
    age(copy)
    remove_unused()
    assert not (copy / "a.py").exists()
    assert (copy / "result").read_text() == "found"


def test_files_of_a_copy_are_not_written_through_links(tmp_path: Path) -> None:
    (letter := tmp_path / "letter").write_text("dear")
    copy = copied()
    (copy / ".dora-copy.part").symlink_to(letter)
    copied(**{"a.py": "new"})
    assert (copy / "a.py").read_text() == "new"
    (copy / LOCK).unlink()
    (copy / LOCK).symlink_to(letter)
    with pytest.raises(DoraError):
        copied(**{"a.py": "newer"})
    assert letter.read_text() == "dear"


@pytest.mark.parametrize("name", ["../../logs", "/tmp/x", "..", "a/b"])
def test_a_coordinator_cannot_have_files_removed_elsewhere(data: Path, name: str) -> None:
    note = data / "retained" / "left" / "note"
    note.parent.mkdir(parents=True)
    note.write_bytes(msgspec.json.encode(RetainedCopies(HERE, [])))
    (data / "logs").mkdir()
    (log := data / "logs" / "log_a.jsonl").write_bytes(note.read_bytes())
    release([name, "../left/note"], "left")
    assert note.exists() and log.exists()


def test_only_copies_are_copies(tmp_path: Path) -> None:
    copy = copied()
    assert copy_of(f"{copy}/nodes/deep") == str(copy)
    assert copy_of(str(tmp_path)) is None and copy_of("/") is None
    retain("one", "left", HERE, ["/", str(tmp_path), str(tmp_path / "gone")])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.processes
def test_a_sender_that_falls_silent_is_given_up() -> None:
    script = (
        "import sys; from dora.cluster.ssh import receive; receive.READ_TIMEOUT = 1\n"
        "receive.receive('flow', receive.StreamWithTimeout(sys.stdin.buffer), sys.stdout.buffer)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.wait(60) == -signal.SIGALRM


@pytest.mark.processes
def test_a_copy_that_has_arrived_may_take_its_time() -> None:
    script = (
        "import io, signal; from dora.cluster.ssh.receive import StreamWithTimeout\n"
        "stream = StreamWithTimeout(io.BytesIO(b'line\\nrest'))\n"
        "for read in (stream.readline, lambda: stream.read(4)):\n"
        "    print(read(), signal.alarm(0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "b'line\\n' 0\nb'rest' 0\n"
