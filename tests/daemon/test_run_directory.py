"""The directories of runs, and room in the shared memory."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dora import _paths
from dora._paths import ROOT_LOCK, ROOT_MARK, choose_root
from dora.daemon import guardian
from dora.daemon import run_directory as rundir
from dora.daemon.run_directory import RunDirectory, check_shared_memory, remove_stale, usable_root
from dora.errors import DoraError, SharedMemoryFull
from dora.transport.board import Board
from dora.wire.correlation import uuid7


def test_the_root_is_private(runtime_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_root() == runtime_root
    monkeypatch.setenv("DORA_RUNTIME_DIR", f"{runtime_root}/new/root")
    assert usable_root() == f"{runtime_root}/new/root"
    assert stat.S_IMODE(os.stat(usable_root()).st_mode) == 0o700


def test_a_root_open_to_other_users_is_refused_and_left_unchanged(runtime_root: str) -> None:
    usable_root()
    os.chmod(runtime_root, 0o750)
    for use in (usable_root, _paths.runtime_root):
        with pytest.raises(DoraError, match=rf"access \(mode 750\).*Run `chmod 700 {runtime_root}`"):
            use()
    assert stat.S_IMODE(os.stat(runtime_root).st_mode) == 0o750


def test_a_foreign_folder_is_left_unchanged_and_gets_a_subfolder(runtime_root: str) -> None:
    """With everything that looks like runs of dora: they are somebody's files."""
    os.chmod(runtime_root, 0o755)
    kept = {}
    for name, lock in (("documents", None), ("0123456789ab", None), ("ba9876543210", b""), ("link", None)):
        folder = Path(runtime_root, name)
        if name == "link":
            folder.symlink_to(f"{runtime_root}/documents")
        else:
            folder.mkdir()
            (folder / "letter").write_text("dear")
        if lock is not None:
            (folder / "lock").write_bytes(lock)
        kept[folder] = sorted(os.listdir(folder))
    root = usable_root()
    assert root == f"{runtime_root}/dora-{os.getuid()}"
    assert choose_root().path == root and "DORA_RUNTIME_DIR" in choose_root().reason
    RunDirectory.create(uuid7()).remove()
    remove_stale()
    assert {folder: sorted(os.listdir(folder)) for folder in kept} == kept
    assert stat.S_IMODE(os.stat(runtime_root).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o700
    assert usable_root() == root  # which dora made


def _run_folder(root: str, run_id: str, content: str | None) -> Path:
    folder = Path(root, run_id.replace("-", "")[-12:])
    folder.mkdir(mode=0o700)
    (folder / "letter").write_text("dear")
    if content is not None:
        (folder / "lock").write_text(content)
        (folder / "lock").chmod(0o600)
    return folder


def test_a_folder_that_another_process_makes_at_the_same_time_is_dora_s(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder = os.listdir

    def list_after_the_other_process(folder: str) -> list[str]:
        lock = Path(folder, ROOT_LOCK)
        lock.touch(mode=0o600)
        lock.write_bytes(ROOT_MARK)
        return list_folder(folder)

    monkeypatch.setattr(os, "listdir", list_after_the_other_process)
    assert choose_root().path == runtime_root


def test_only_a_folder_with_the_lock_of_its_run_is_removed(runtime_root: str, tmp_path: Path) -> None:
    """Not one with another name, without a lock, with another's or a linked one, or open to others."""
    root = usable_root()
    dead = _run_folder(root, run_id := uuid7(), run_id)
    kept = [
        _run_folder(root, uuid7(), None),
        _run_folder(root, uuid7(), ""),
        _run_folder(root, uuid7(), uuid7()),
        _run_folder(root, uuid7(), "text\n"),
        _run_folder(root, "my-documents", "my-documents"),
    ]
    linked = _run_folder(root, run_id := uuid7(), None)
    (tmp_path / "lock").write_text(run_id)
    (tmp_path / "lock").chmod(0o600)
    (linked / "lock").symlink_to(tmp_path / "lock")
    pipe = _run_folder(root, uuid7(), None)
    os.mkfifo(pipe / "lock", 0o600)
    wide = _run_folder(root, run_id := uuid7(), run_id)
    wide.chmod(0o755)
    elsewhere = _run_folder(str(tmp_path), run_id := uuid7(), run_id)
    Path(root, elsewhere.name).symlink_to(elsewhere)
    kept += [linked, pipe, wide, elsewhere]
    before = {folder: sorted(os.listdir(folder)) for folder in kept}
    remove_stale()
    assert {folder: sorted(os.listdir(folder)) for folder in kept} == before
    assert Path(root, elsewhere.name).is_symlink()
    assert not dead.exists()
    assert runtime_root == root


def test_the_guardian_removes_only_what_belongs_to_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(guardian, "remove_shared_memory", removed.append)
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    for prefix in ("", "dora_", "dora_0123456789ac_"):
        guardian.remove_run_files(str(folder), prefix)
    assert folder.exists() and not removed
    guardian.remove_run_files(str(folder), "dora_0123456789ab_")
    assert not folder.exists()
    assert removed == ["dora_0123456789ab_"]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has no files")
def test_what_shows_that_a_run_is_dead_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean-up that is broken off is finished by the next start, which finds the lock or the board."""
    gone: list[str] = []

    def note(function: Callable[[str], None], path: str) -> None:
        if os.path.lexists(path):
            function(path)
            gone.append(os.path.basename(path))

    name = uuid7().replace("-", "")[-12:]
    folder = tmp_path / name
    (folder / "folder").mkdir(parents=True)
    for path in (folder / "lock", folder / "socket", folder / "folder" / "file"):
        path.touch()
    objects = [Path(f"/dev/shm/dora_{name}_{end}") for end in ("board", "channel", "foreign")]
    for path in objects:
        path.touch()
    monkeypatch.setattr(guardian, "_try", note)
    monkeypatch.setattr(guardian, "_is_own", lambda path: not path.endswith("foreign"))
    try:
        guardian.remove_run_files(str(folder), f"dora_{name}_")
        assert gone[:2] == [f"dora_{name}_channel", f"dora_{name}_board"]
        assert gone[-2:] == ["lock", name]
        assert [path.exists() for path in objects] == [False, False, True]
    finally:
        for path in objects:
            path.unlink(missing_ok=True)


def test_targets_of_links_in_a_dead_run_stay(runtime_root: str, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    dead = RunDirectory.create(uuid7())
    os.symlink(tmp_path, f"{dead.path}/folder")
    os.symlink(tmp_path / "letter", f"{dead.path}/file")
    os.close(dead._locks.pop())
    remove_stale(runtime_root)
    assert not os.path.exists(dead.path)
    assert (tmp_path / "letter").read_text() == "dear"


def test_a_session_folder_that_others_may_enter_is_not_used(
    monkeypatch: pytest.MonkeyPatch, runtime_root: str
) -> None:
    """The specification of XDG_RUNTIME_DIR demands mode 0700: anything else is some other folder."""
    monkeypatch.delenv("DORA_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_root)
    assert choose_root().path == f"{runtime_root}/dora"
    os.mkdir(f"{runtime_root}/dora", 0o755)
    Path(runtime_root, "dora", "README.md").touch()
    assert choose_root().path == f"{runtime_root}/dora/dora-{os.getuid()}"
    os.chmod(runtime_root, 0o755)
    chosen = choose_root()
    assert chosen.path.startswith("/tmp/dora-")
    assert f"XDG_RUNTIME_DIR ({runtime_root}) is not a folder of this user alone" in chosen.reason


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_in_which_all_users_can_exchange_files_is_refused(runtime_root: str, mode: int) -> None:
    os.chmod(runtime_root, mode)
    if mode & stat.S_ISVTX:
        assert usable_root() == f"{runtime_root}/dora-{os.getuid()}"
    else:
        with pytest.raises(DoraError, match="all users can exchange what is in it"):
            usable_root()


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_the_root_of_another_user_is_not_used(runtime_root: str) -> None:
    os.chown(runtime_root, 54321, 54321)
    for use in (usable_root, _paths.runtime_root):
        with pytest.raises(DoraError, match=r"belongs to another user.*DORA_RUNTIME_DIR"):
            use()


def test_a_run_removes_its_directory_and_shared_memory(runtime_root: str) -> None:
    one, two = RunDirectory.create(uuid7()), RunDirectory.create(uuid7())
    assert one.path != two.path
    assert one.path.startswith(runtime_root)
    Board.create(one.board, 4).close()
    Board.create(two.board, 4).close()
    os.mkfifo(f"{one.path}/bell-0")
    os.makedirs(f"{one.path}/iox/deep/er")
    Path(f"{one.path}/iox/deep/er/file").touch()
    folder = os.path.realpath(f"{one.path}/iox")
    one.remove()
    assert not os.path.exists(one.path)
    assert not os.path.exists(folder)
    assert not os.path.exists(one.board)
    assert os.path.exists(two.board)
    two.remove()
    assert os.listdir(runtime_root) == ["lock"]


@pytest.mark.skipif(not os.path.isdir(_paths.SHARED_MEMORY), reason="this system has no /dev/shm")
@pytest.mark.usefixtures("runtime_root")
def test_no_node_waits_for_a_disk_that_iceoryx2_writes_to() -> None:
    run = RunDirectory.create(uuid7())
    folder = os.stat(f"{run.path}/iox")
    assert folder.st_dev == os.stat(_paths.SHARED_MEMORY).st_dev
    assert stat.S_IMODE(folder.st_mode) == 0o700
    run.remove()


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


def test_a_run_may_end_while_another_one_removes_dead_runs(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, open_lock = RunDirectory.create(uuid7()), rundir._open_existing_lock

    def open_late(path: str) -> int:
        if path == f"{ending.path}/lock":
            ending.remove()
        return open_lock(path)

    monkeypatch.setattr(rundir, "_open_existing_lock", open_late)
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


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has no files")
@pytest.mark.parametrize("found_by", ["lock", "board"])
def test_of_a_dead_run_the_processes_end_and_the_black_box_is_saved_before_its_files_go(
    found_by: str, runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = RunDirectory.create(uuid7())
    Board.create(dead.board, 4).close()
    dead.lock_board()
    os.utime(dead.board, (0, 0))
    calls: list[str] = []

    def note(name: str, argument: str) -> None:
        if argument in dead.run_id or os.path.basename(dead.path) in argument:  # of this test
            calls.append(name)

    steps = ("kill_run", "rescue_black_box", "remove_run_files", "remove_shared_memory")
    with monkeypatch.context() as patch:
        for step in steps:
            patch.setattr(rundir, step, lambda argument, *_, step=step: note(step, argument))
        if found_by == "board":
            shutil.rmtree(dead.path)
            os.close(dead._locks.pop())
        else:
            os.close(dead._locks.pop(0))
        remove_stale(runtime_root)
    files = "remove_shared_memory" if found_by == "board" else "remove_run_files"
    assert calls == ["kill_run", "rescue_black_box", files]
    dead.remove()


def test_a_start_waits_for_the_end_of_a_former_run_of_its_id(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = RunDirectory.create(uuid7())
    with monkeypatch.context() as patch:
        patch.setattr("dora.daemon.run_directory.time.sleep", lambda _: former.remove())
        RunDirectory.create(former.run_id).remove()
    living = RunDirectory.create(uuid7())
    monkeypatch.setattr(rundir, "_PATIENCE", 0.0)
    with pytest.raises(DoraError, match=r"cannot make a directory for this run.*File exists"):
        RunDirectory.create(living.run_id)
    assert sorted(os.listdir(runtime_root)) == [os.path.basename(living.path), "lock"]
    living.remove()


def test_a_run_that_cannot_be_made_leaves_nothing(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rundir, "make_shared_folders", fail)
    with pytest.raises(DoraError, match=r"cannot make a directory for this run.*No space left"):
        RunDirectory.create(uuid7())
    assert os.listdir(runtime_root) == ["lock"]


def test_too_little_shared_memory_is_reported_with_the_required_size() -> None:
    check_shared_memory(1)
    with pytest.raises(SharedMemoryFull, match=r"[\d.]+ MiB left, .* at least 1099511627776 MiB"):
        check_shared_memory(1 << 60)


def test_shared_memory_without_write_permission_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, _: path != "/dev/shm")
    with pytest.raises(DoraError, match=r"/dev/shm cannot be written to.*mount it writable"):
        check_shared_memory(1)
