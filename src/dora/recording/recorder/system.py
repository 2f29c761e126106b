"""Thread priorities and temporary folders of a recorder.

A thread that has little to do but must not be late gets a higher priority, where the system allows it (to
root, usually). A thread inherits the priority of the one that starts it. All threads share the
interpreter's lock, so a thread of low priority must not hold it for long.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import tempfile
from typing import Final

from dora._ownership import UnsafeFile, check_folder

_HIGH: Final = -10


def raise_priority() -> None:
    """Run the calling thread, and threads that it starts, before those of other programs."""
    _set(_HIGH)


def reset_priority() -> None:
    """Run the calling thread with the usual priority."""
    _set(0)


def _set(priority: int) -> None:
    if sys.platform == "linux":  # elsewhere it would concern the whole process
        try:
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        except OSError:
            pass


# Folders that live as long as their process. The next process removes those that a killed one left.

_locks: dict[
    str, int
] = {}  # of this process's folders; a process in another container may have the same id


def make_folder(kind: str, place: str = "") -> str:
    """Create a folder of this process, in ``place`` or among temporary files (see `remove_folder`).

    Raises ``OSError``.
    """
    place = place or tempfile.gettempdir()
    made_here = re.compile(rf"dora-{kind}-(\d+)-[a-z0-9_]{{8}}")
    for name in os.listdir(place):
        found = made_here.fullmatch(name)
        if found is not None and not _lives(int(found[1])):
            _remove_if_left(os.path.join(place, name))
    folder = tempfile.mkdtemp(prefix=f"dora-{kind}-{os.getpid()}-", dir=place)
    _locks[folder] = lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder


def remove_folder(folder: str) -> None:
    """Remove a folder that `make_folder` created, with its contents."""
    lock = _locks.pop(folder, -1)
    if lock >= 0:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_if_left(folder: str) -> None:
    """Remove a folder if it is this user's and no process uses it."""
    try:
        check_folder(folder)
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
    except (OSError, UnsafeFile):
        return  # another user's, or gone
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # its process is in another container
    finally:
        os.close(lock)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
