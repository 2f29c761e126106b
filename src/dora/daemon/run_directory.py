"""Files of runs: one directory and one shared-memory prefix per run.

::

    $XDG_RUNTIME_DIR/dora/          the root: one per user, mode 0700; see `dora._paths`
        lock                        held while runs are made or removed; says that dora made the root
        8c3f0a6d91b2/               one run: the end of its dataflow id
            lock                    held for as long as the daemon lives; contains the dataflow id
            daemon.sock
            bell-0, credit-0, …     doorbells
            iox                     a link to the folder of iceoryx2's own files
    /dev/shm/dora_8c3f0a6d91b2_*    its shared memory: the board, the links of the engine shm
                                    (`dora.transport.shm.channel`), the folder of iceoryx2, …

iceoryx2 waits until the disk has each of its files: milliseconds for each node and link. Nobody needs them
after a crash of the machine, and in shared memory there is no disk to wait for.

A lock that nobody holds means that the daemon died: every new run first removes the files of such runs.
The kernel frees the lock (``flock``) however the daemon ended. Only directories are removed that have the
name of a run and contain a lock that names this run; everything else stays untouched. The board is locked
as well, so shared memory is found whose directory is gone: a session's ``$XDG_RUNTIME_DIR`` ends with it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time

from dora._ownership import UnsafeFile, check_folder, open_own
from dora._paths import (
    ROOT_LOCK,
    ROOT_MARK,
    SHARED_MEMORY,
    SOCKET_NAME,
    board_of,
    choose_root,
    has_mark,
    is_run_name,
    prefix_of,
    run_path,
)
from dora.daemon.guardian import (
    RESCUED,
    RETRIED,
    kill_run,
    remove_run_files,
    remove_shared_memory,
    rescue_black_box,
    save_black_box,
)
from dora.errors import DoraError, SharedMemoryFull
from dora.transport.shm.room import free_bytes

_RUN_ID = re.compile(r"[0-9a-f-]{12,64}")
_LONGEST_ID = 64
_FRESH = 60.0  # seconds in which a new board, or a rescued black box, may not be locked yet
# Seconds for the end of a former run of the same id: its guardian may take 5 to kill its processes.
_PATIENCE, _RETRY_AFTER = 10.0, 0.02
_MAX_SOCKET_PATH = 103  # bytes; macOS has the smaller limit (104 with the final zero)
_LONGEST_NAME = f"/0123456789ab/{SOCKET_NAME}"


def usable_root() -> str:
    """Return this user's root directory, made if necessary; raises `DoraError`.

    `dora._paths.choose_root` says which one. One that exists is never changed.
    """
    root = choose_root().path
    if len(os.fsencode(root + _LONGEST_NAME)) > _MAX_SOCKET_PATH:
        raise DoraError(
            f"the directory {root} is too long for sockets; set DORA_RUNTIME_DIR to a path of at most "
            f"{_MAX_SOCKET_PATH - len(_LONGEST_NAME)} bytes"
        )
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        check_folder(root)
        if not has_mark(root):
            _mark(root)
    except OSError as error:
        raise DoraError(
            f"cannot use {root} for sockets and locks: {error.strerror}; "
            "set DORA_RUNTIME_DIR to a directory that can be written"
        ) from error
    return root


def _mark(root: str) -> None:
    lock = open_own(f"{root}/{ROOT_LOCK}", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(lock, ROOT_MARK, 0)
    finally:
        os.close(lock)


class RunDirectory:
    """The directory of one run, made and locked; ``remove`` ends it."""

    def __init__(self, dataflow_id: str, path: str, lock: int, run_id: str = "") -> None:
        self.dataflow_id = dataflow_id
        self.run_id = run_id or dataflow_id  # marks its processes
        self.name = ""  # given at the start, for commands
        self.path = path
        self.prefix = prefix_of(path)
        self.socket = f"{path}/{SOCKET_NAME}"
        self.board = board_of(path)
        self._locks = [lock]

    @classmethod
    def create(cls, dataflow_id: str, run_id: str = "") -> RunDirectory:
        """Remove what dead runs left behind and make the directory of a new one; raises `DoraError`.

        ``run_id`` is another id than the dataflow's, where several daemons run parts of it.
        """
        root = usable_root()
        run_id = run_id or dataflow_id
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return cls._create(root, dataflow_id, run_id)
            except FileExistsError as error:
                # A run of this id is about to end: its daemon was killed, and another one starts it again.
                if time.monotonic() > deadline:
                    raise _cannot_make(root, error) from error
                time.sleep(_RETRY_AFTER)
            except OSError as error:
                raise _cannot_make(root, error) from error

    @classmethod
    def _create(cls, root: str, dataflow_id: str, run_id: str) -> RunDirectory:
        """Raises ``OSError``, ``FileExistsError`` if such a run lives."""
        root_lock = _open_lock(f"{root}/lock")
        try:
            # One start at a time: until its lock is held, the new folder looks like that of a dead run.
            fcntl.flock(root_lock, fcntl.LOCK_EX)
            _remove_stale(root)
            path = run_path(run_id, root)
            os.mkdir(path, 0o700)
            lock = _open_lock(f"{path}/lock")
            try:
                os.write(lock, run_id.encode())
                fcntl.flock(lock, fcntl.LOCK_EX)
                make_shared_folders(path)
            except BaseException:
                remove_run_files(path, prefix_of(path))
                os.close(lock)
                raise
        finally:
            os.close(root_lock)
        return cls(dataflow_id, path, lock, run_id)

    def lock_board(self) -> None:
        """Mark the board, which must exist, as the board of a living run."""
        lock = _open_existing_lock(self.board)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._locks.append(lock)

    def remove(self) -> None:
        """Remove the directory and the shared memory of this run, and free the lock."""
        remove_run_files(self.path, self.prefix)
        # Last: another start would take files without a lock for those of a dead run.
        while self._locks:
            os.close(self._locks.pop())


def _cannot_make(root: str, error: OSError) -> DoraError:
    return DoraError(f"cannot make a directory for this run in {root}: {error.strerror}")


def remove_stale(root: str | None = None) -> None:
    """Kill the processes and remove the files of all runs whose daemon died."""
    root = root or usable_root()
    lock = _open_lock(f"{root}/lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_stale(root)
    finally:
        os.close(lock)


def make_shared_folders(run_dir: str) -> None:
    """Make the folders in shared memory, and a link to iceoryx2's; without /dev/shm, that makes a folder.

    They are made before anything else there shows other users the name of this run.
    """
    if not os.path.isdir(SHARED_MEMORY):
        return
    for name in ("links", "iox"):
        folder = f"{SHARED_MEMORY}/{prefix_of(run_dir)}{name}"
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            check_folder(folder)  # names another user
            raise
    os.symlink(folder, f"{run_dir}/iox")


def _open_lock(path: str) -> int:
    return open_own(path, os.O_RDWR | os.O_CREAT)


def _open_existing_lock(path: str) -> int:
    return open_own(path, os.O_RDWR)


def _remove_stale(root: str) -> None:
    for name in os.listdir(root):
        if is_run_name(name):
            _remove_if_dead(f"{root}/{name}")
    if os.path.isdir(SHARED_MEMORY):
        _remove_stale_boards()
        _remove_stale_boxes()


def _remove_if_dead(path: str) -> None:
    """Remove the folder of a run whose daemon died; anything else stays as it is.

    It is one if it belongs to this user, and nobody holds the lock in it, which names the run.
    """
    try:
        check_folder(path)
        lock = _open_existing_lock(f"{path}/lock")
    except (OSError, UnsafeFile):
        return  # its run has just ended, or its guardian was faster; or it is not a run's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run_id = os.read(lock, _LONGEST_ID + 1).decode(errors="replace")
        if _RUN_ID.fullmatch(run_id) and run_path(run_id, os.path.dirname(path)) == path:
            kill_run(run_id)
            rescue_black_box(prefix_of(path))
            remove_run_files(path, prefix_of(path))
    except BlockingIOError:
        pass  # it lives
    finally:
        os.close(lock)


def _remove_stale_boards() -> None:
    for name in os.listdir(SHARED_MEMORY):
        short_id = name.removeprefix("dora_").removesuffix("_board")
        if name != f"dora_{short_id}_board" or not is_run_name(short_id):
            continue
        try:
            board = _open_existing_lock(f"{SHARED_MEMORY}/{name}")
        except (OSError, UnsafeFile):  # another user's, or gone
            continue
        try:
            status = os.fstat(board)
            # A fresh one may not be locked yet: the locks of other roots are not ours to wait for.
            if time.time() - status.st_mtime < _FRESH:
                continue
            fcntl.flock(board, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kill_run(short_id)
            rescue_black_box(f"dora_{short_id}_")
            remove_shared_memory(f"dora_{short_id}_")
        except BlockingIOError:
            pass  # it lives
        finally:
            os.close(board)


def _remove_stale_boxes() -> None:
    """Try once more to save black boxes of killed runs; those that were tried twice are removed."""
    for name in os.listdir(SHARED_MEMORY):
        if not name.startswith((RESCUED, RETRIED)):
            continue
        box = f"{SHARED_MEMORY}/{name}"
        try:
            check_folder(box)
            if time.time() - os.stat(box).st_ctime < _FRESH:
                continue
            lock = _open_existing_lock(f"{box}/start")
        except (OSError, UnsafeFile):
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # it is being saved
        finally:
            os.close(lock)  # before the next process wants it
        if name.startswith(RETRIED):
            remove_shared_memory(name)
        else:
            save_black_box(box, f"{SHARED_MEMORY}/{RETRIED}{name.removeprefix(RESCUED)}")


def check_shared_memory(room: int) -> None:
    """Check that a /dev/shm, where there is one, can be used.

    Raises `SharedMemoryFull` if it has less than ``room`` bytes left, `DoraError` if this user may not
    write to it.
    """
    if (free := free_bytes()) is None:
        return
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        raise DoraError(
            f"{SHARED_MEMORY} cannot be written to, and messages travel through it; mount it writable "
            f"(mount -o remount,rw {SHARED_MEMORY}) or give it its usual mode (chmod 1777 {SHARED_MEMORY})"
        )
    if free < room:
        raise SharedMemoryFull(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB left, and a dataflow needs at least "
            f"{room / 2**20:.0f} MiB to start; enlarge it (mount -o remount,size=1G /dev/shm; "
            "docker run --shm-size=1g) or remove files from it"
        )
