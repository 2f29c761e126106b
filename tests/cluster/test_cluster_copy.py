"""Copies of a dataflow's folder: what is in them, what is sent again, what nobody can smuggle in."""

from __future__ import annotations

import errno
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dora.cluster.ssh import folder as folders
from dora.cluster.ssh.copy import copy_folder, copy_name
from dora.cluster.ssh.file import Machine
from dora.cluster.ssh.folder import difference, scan_folder
from dora.cluster.ssh.receive import ExpectedFiles, receive
from dora.cluster.ssh.ssh import MachineFault
from dora.daemon.work import Work
from dora.errors import DoraError

HERE = Machine(id="here", host="localhost")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def listing(folder: str | Path) -> dict[str, str]:
    """Return the files of a copy with their texts."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): path.read_text() for path in files}
    return {name: text for name, text in found.items() if not name.startswith(".dora-copy")}


def test_a_copy_contains_the_files_of_the_dataflow(tmp_path: Path) -> None:
    write(tmp_path, flow="a", nodes__camera="b", out__x__log="c", nodes__out="a file may be called so")
    write(tmp_path, venv__lib__x="e", venv__bin="f")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    (tmp_path / "nodes" / "__pycache__").mkdir()
    (tmp_path / "nodes" / "__pycache__" / "camera.pyc").touch()
    (tmp_path / "nodes" / "again").symlink_to("..")
    (tmp_path / "nothing").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    assert set(scan_folder(str(tmp_path))) == {"flow", "nodes/camera", "nodes/out"}


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_BYTES"])
def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    write(tmp_path, a="a", b="b")
    monkeypatch.setattr(folders, limit, 2)
    assert set(scan_folder(str(tmp_path))) == {"a", "b"}
    monkeypatch.setattr(folders, limit, 1)
    with pytest.raises(DoraError, match="give the dataflow a folder of its own"):
        scan_folder(str(tmp_path))


@pytest.mark.processes
@pytest.mark.usefixtures("local_ssh")
def test_a_copy_follows_its_folder(tmp_path: Path) -> None:
    source = tmp_path / "flow"
    write(source, dataflow="1", nodes__camera="2", nodes__old="3")
    (source / "nodes" / "camera").chmod(0o755)
    work = Work()
    first = copy_folder(HERE, str(source), scan_folder(str(source)), work)
    assert (work.done, work.total) == (3, 3)
    assert listing(first.folder) == {"dataflow": "1", "nodes/camera": "2", "nodes/old": "3"}
    assert os.access(Path(first.folder, "nodes", "camera"), os.X_OK)
    assert (first.sent, first.size) == (3, 3)

    Path(first.folder, "nodes", "result").write_text("of a node")
    Path(first.folder, "nodes", "camera").write_text("spoilt")
    write(source, dataflow="12")
    (source / "nodes" / "old").unlink()
    second = copy_folder(HERE, str(source), scan_folder(str(source)))
    assert (second.folder, second.sent) == (first.folder, 2)
    assert listing(second.folder) == {"dataflow": "12", "nodes/camera": "2", "nodes/result": "of a node"}

    assert copy_folder(HERE, str(source), scan_folder(str(source))).sent == 0


@pytest.mark.processes
@pytest.mark.usefixtures("local_ssh")
def test_a_file_removed_during_the_copy_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "flow", a="a")
    files = scan_folder(str(tmp_path / "flow"))
    (tmp_path / "flow" / "a").unlink()
    with pytest.raises(MachineFault, match=r"cannot copy .*flow/a"):
        copy_folder(HERE, str(tmp_path / "flow"), files)


@pytest.mark.processes
@pytest.mark.usefixtures("local_ssh")
def test_a_machine_without_disk_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, blocked="a file where the folder should be", flow__a="a")
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "blocked"))
    with pytest.raises(MachineFault, match="here: "):
        copy_folder(HERE, str(tmp_path / "flow"), scan_folder(str(tmp_path / "flow")))


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../outside", "link/outside", "beside/outside"]
)
def test_nothing_leaves_the_folder_of_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "data"))
    copy = tmp_path / "data" / "dataflows" / "flow"
    copy.mkdir(parents=True)
    (copy / "link").symlink_to(tmp_path)
    (tmp_path / "data" / "dataflows" / "flow-of-another").mkdir()
    (copy / "beside").symlink_to("../flow-of-another")
    with pytest.raises(DoraError):
        receive("flow", request(name), io.BytesIO())
    assert not list(tmp_path.rglob("outside"))


def test_a_copy_that_was_cut_off_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    whole = request("a").read()
    with pytest.raises(DoraError, match="not complete"):
        receive("flow", io.BytesIO(whole[:700]), io.BytesIO())
    answers = io.BytesIO()
    receive("flow", io.BytesIO(whole), answers)
    first, last = answers.getvalue().splitlines()
    assert msgspec.json.decode(first)["files"] == {} and last == b"{}"


def test_a_copy_that_was_cut_off_between_two_files_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    header, _, archive = request("a", "b").read().partition(b"\n")
    first_file = header + b"\n" + archive[: archive.index(b"abc") + tarfile.BLOCKSIZE]
    answers = io.BytesIO()
    with pytest.raises(DoraError, match="is not complete: 1 of 2 files did not arrive; try again"):
        receive("flow", io.BytesIO(first_file), answers)
    assert len(answers.getvalue().splitlines()) == 1, "the sender is not told that all is done"
    assert (tmp_path / "dataflows" / "flow" / "a").read_text() == "abc"


def test_a_list_of_files_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.write_manifest(str(tmp_path), {"a.py": (1, 1, 1)})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folders.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        folders.write_manifest(str(tmp_path), {"b.py": (1, 1, 1)})
    assert folders.known_files(str(tmp_path)) == {"a.py"}


def test_copies_of_different_folders_have_different_names() -> None:
    assert copy_name("/a/flow") != copy_name("/b/flow")
    assert copy_name("/a/my flow!").startswith("my-flow-")


def test_only_new_and_changed_files_are_sent() -> None:
    here: dict[str, Any] = {"same": (1, 2, 3), "longer": (2, 2, 3), "new": (1, 1, 1)}
    there: dict[str, Any] = {"same": (1, 2, 3), "longer": (1, 2, 3), "gone": (1, 1, 1)}
    assert difference(here, there) == (["longer", "new"], ["gone"])


class Interfering(Work):
    """Something long that changes a file when its first part is done."""

    def __init__(self, file: Path, size: int) -> None:
        super().__init__()
        self._file, self._size = file, size

    def advance(self, number: int) -> None:
        super().advance(number)
        os.truncate(self._file, self._size)


@pytest.mark.processes
@pytest.mark.usefixtures("local_ssh")
@pytest.mark.parametrize(
    ("size", "says"),
    [(1, "a file that has just changed; try again"), (2_000_000, "a: it has just changed; try again")],
    ids=["shrinks", "grows"],
)
def test_a_file_that_changes_during_the_copy_is_reported(tmp_path: Path, size: int, says: str) -> None:
    write(tmp_path / "flow", a="a" * 1_000_000)
    work = Interfering(tmp_path / "flow" / "a", size)
    with pytest.raises(MachineFault, match=says):
        copy_folder(HERE, str(tmp_path / "flow"), scan_folder(str(tmp_path / "flow")), work)


@pytest.mark.processes
@pytest.mark.usefixtures("local_ssh")
def test_a_file_that_has_grown_since_the_look_at_its_folder_is_copied_whole(tmp_path: Path) -> None:
    write(tmp_path / "flow", a="a")
    files = scan_folder(str(tmp_path / "flow"))
    write(tmp_path / "flow", a="a" * 1000)
    copied = copy_folder(HERE, str(tmp_path / "flow"), files)
    assert listing(copied.folder) == {"a": "a" * 1000}
    assert copy_folder(HERE, str(tmp_path / "flow"), scan_folder(str(tmp_path / "flow"))).sent == 0


def test_a_link_to_itself_is_left_out_like_a_link_to_nothing(tmp_path: Path) -> None:
    write(tmp_path, flow="a")
    (tmp_path / "itself").symlink_to("itself")
    assert set(scan_folder(str(tmp_path))) == {"flow"}


@pytest.mark.skipif(sys.platform == "darwin", reason="all names there are in UTF-8")
def test_a_name_that_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    with pytest.raises(DoraError, match=r"the name of .*caf\\xe9.txt is not in UTF-8"):
        scan_folder(str(tmp_path))


@pytest.mark.processes
@pytest.mark.usefixtures("local_ssh")
def test_a_machine_lost_during_the_copy_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "flow", a="a" * 3_000_000)
    (tmp_path / "present").write_text('{"folder": "/x", "files": {}}\n')
    script = f"#!/bin/sh\ncat {tmp_path}/present\nhead -c 1000 >/dev/null\necho 'error: gone' >&2\nexit 1\n"
    (tmp_path / "bin" / "dora").write_text(script)
    with pytest.raises(MachineFault, match="here: gone"):
        copy_folder(HERE, str(tmp_path / "flow"), scan_folder(str(tmp_path / "flow")))


def request(*names: str) -> io.BytesIO:
    """Return what a sender would write for files of these names."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            member.pax_headers = {"DORA.time": "1"}
            archive.addfile(member, io.BytesIO(b"abc"))
    wanted = ExpectedFiles(dict.fromkeys(names, (3, 1, 0o644)), [])
    return io.BytesIO(msgspec.json.encode(wanted) + b"\n" + stream.getvalue())
