"""The directories of runs, and room in the shared memory."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from dora.daemon import rundir
from dora.daemon.rundir import RunDirectory, check_shared_memory, remove_stale, usable_root
from dora.errors import DoraError, SharedMemoryFull
from dora.transport.board import Board
from dora.wire.ids import uuid7


def test_the_root_is_private(runtime_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chmod(runtime_root, 0o755)
    assert usable_root() == runtime_root
    assert stat.S_IMODE(os.stat(runtime_root).st_mode) == 0o700
    monkeypatch.setenv("DORA_RUNTIME_DIR", f"{runtime_root}/new")
    assert stat.S_IMODE(os.stat(usable_root()).st_mode) == 0o700


def test_a_root_that_cannot_be_used(
    runtime_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    link = Path(runtime_root) / "link"
    link.symlink_to(tmp_path)
    for root in (str(file), str(link), f"{file}/below", "/tmp/" + "x" * 90):
        monkeypatch.setenv("DORA_RUNTIME_DIR", root)
        with pytest.raises(DoraError, match="DORA_RUNTIME_DIR"):
            usable_root()


def test_somebody_elses_root_is_not_used(runtime_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(DoraError, match="not a directory of this user"):
        usable_root()
    assert runtime_root


def test_a_run_has_its_own_directory_and_prefix_and_takes_all_of_it_along(runtime_root: str) -> None:
    one, two = RunDirectory.create(uuid7()), RunDirectory.create(uuid7())
    assert one.path != two.path
    assert one.path.startswith(runtime_root)
    Board.create(one.board, 4).close()
    Board.create(two.board, 4).close()
    os.mkfifo(f"{one.path}/bell-0")
    os.makedirs(f"{one.path}/iox/deep/er")
    Path(f"{one.path}/iox/deep/er/file").touch()
    one.remove()
    assert not os.path.exists(one.path)
    assert not os.path.exists(one.board)
    assert os.path.exists(two.board)
    two.remove()
    assert os.listdir(runtime_root) == ["lock"]


@pytest.mark.usefixtures("runtime_root")
def test_only_the_runs_whose_daemon_died_are_removed() -> None:
    living, dead = RunDirectory.create(uuid7()), RunDirectory.create(uuid7())
    for run in (living, dead):
        Board.create(run.board, 4).close()
    os.close(dead._locks.pop())  # what the kernel does at the end of a process
    remove_stale()
    assert not os.path.exists(dead.path)
    assert not os.path.exists(dead.board)
    assert os.path.exists(living.board)
    living.remove()


def test_a_run_may_end_while_another_one_looks_for_remains(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, open_lock = RunDirectory.create(uuid7()), rundir._open_lock

    def open_late(path: str) -> int:
        if path == f"{ending.path}/lock":
            ending.remove()
        return open_lock(path)

    monkeypatch.setattr(rundir, "_open_lock", open_late)
    RunDirectory.create(uuid7()).remove()
    assert os.listdir(runtime_root) == ["lock"]


def test_shared_memory_whose_directory_is_gone_is_found_by_its_board(runtime_root: str) -> None:
    living, dead, fresh = (RunDirectory.create(uuid7()) for _ in range(3))
    for run in (living, dead, fresh):
        Board.create(run.board, 4).close()
        run.lock_board()
        shutil.rmtree(run.path)
        if run is not fresh:
            os.utime(run.board, (0, 0))
    other = Path(f"/dev/shm/{dead.prefix}segment")
    other.touch()
    for run in (dead, fresh):
        os.close(run._locks.pop())
    remove_stale(runtime_root)
    assert not other.exists()
    assert not os.path.exists(dead.board)
    assert os.path.exists(living.board)
    assert os.path.exists(fresh.board)
    for run in (living, fresh):
        run.remove()


def test_too_little_shared_memory_is_said_with_the_figure_needed() -> None:
    check_shared_memory(1)
    with pytest.raises(SharedMemoryFull, match=r"[\d.]+ MiB left, .* at least 1099511627776 MiB"):
        check_shared_memory(1 << 60)


def test_shared_memory_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, _: path != "/dev/shm")
    with pytest.raises(DoraError, match=r"/dev/shm cannot be written to.*mount it writable"):
        check_shared_memory(1)
