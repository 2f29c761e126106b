"""Locks that say that something on a disk is in use. However a process ends, the kernel frees its locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_use(path: str) -> Iterator[None]:
    """Hold the lock of a file while this block runs, and make the file if needed; raises ``OSError``.

    Several processes may hold it at once.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def is_in_use(path: str) -> bool:
    """Return whether a process holds the lock of a file. A file that is not there has no lock."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it fails while somebody shares the lock
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
