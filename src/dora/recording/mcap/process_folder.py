"""Folders that live as long as their process; the next process removes those that a killed one left."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from dora._ownership import UnsafeFile, check_folder

# The locks of this process's folders. A process in another container may have the same id.
_locks: dict[str, int] = {}


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
    fcntl.flock(lock, fcntl.LOCK_SH)  # the system frees it, however this process ends
    return folder


def remove_folder(folder: str) -> None:
    """Remove a folder that `make_folder` created, with its contents."""
    lock = _locks.pop(folder, -1)
    if lock >= 0:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)  # last: until then, no other process takes the folder for one that was left


@contextmanager
def process_folder(kind: str, place: str = "") -> Iterator[str]:
    """Create a folder as `make_folder` does, and remove it afterwards."""
    folder = make_folder(kind, place)
    try:
        yield folder
    finally:
        remove_folder(folder)


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
