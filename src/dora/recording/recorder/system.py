"""Which threads of a recorder go before other programs: those that have little to do and must not be late.

Only where that is allowed, which it is for the system's administrator. A thread inherits from the one
that starts it. All threads share the interpreter's lock, so one that may have to wait for its turn must not
hold it for long.
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

_AHEAD: Final = -10


def raise_priority() -> None:
    """Let the calling thread, and those that it starts, have a processor as soon as they need one."""
    _set(_AHEAD)


def reset_priority() -> None:
    """Let the calling thread take turns with the rest of the machine."""
    _set(0)


def _set(priority: int) -> None:
    if sys.platform == "linux":  # where it concerns one thread
        try:
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        except OSError:
            pass


# Folders for as long as a process lives. What a killed one left is removed by the next one.

_locks: dict[str, int] = {}  # of the folders of this process: a process elsewhere may have its number


def make_folder(kind: str, place: str = "") -> str:
    """Return a new folder of this process, among temporary files or in a place, for `remove_folder`.

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
    """Remove a folder that `make_folder` made, with all that is in it."""
    lock = _locks.pop(folder, -1)
    if lock >= 0:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_if_left(folder: str) -> None:
    """Remove a folder if this user made it and nobody uses it any more."""
    try:
        check_folder(folder)
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
    except (OSError, UnsafeFile):
        return  # another user's, or gone
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # of a process whose number means another one here, as in a container
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
