"""A lock in a file, for what one process at a time may make: a clone, a Python environment."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dora._shared_folders import open_file


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of this file in a block; it is waited for.

    The file is made if there is none, and stays: a process that removes it could remove the lock of
    another one. Raises ``OSError``.
    """
    fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode=0o600)
    try:
        # No timeout: another build may take as long as it needs. The kernel releases the lock of a process
        # that is killed, so there are no stale locks.
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
