"""One daemon for each coordinator: a locked file says who it is, and is free however that one ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dora.coordinator.protocol import DEFAULT_MACHINE
from dora.daemon.rundir import usable_root
from dora.errors import DoraError
from dora.transport.ownership import open_own

_LOOK_EVERY: Final = 0.001  # seconds


def lock_path(address: str, port: int, machine: str = DEFAULT_MACHINE) -> str:
    """Return the file that the daemon of a coordinator locks; it contains its process id."""
    of_machine = "" if machine == DEFAULT_MACHINE else f"-{machine}"
    return f"{usable_root()}/daemon-{address.replace(':', '_')}-{port}{of_machine}.lock"


def running_daemon(address: str, port: int, machine: str = DEFAULT_MACHINE) -> int | None:
    """Return the process id of the daemon of this user that serves a coordinator, None if there is none."""
    try:
        descriptor = open_own(lock_path(address, port, machine), os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _try(descriptor, fcntl.LOCK_SH):
            return None
        text = os.read(descriptor, 20)
        return int(text) if text.strip().isdigit() else None
    finally:
        os.close(descriptor)


@contextmanager
def locked(address: str, port: int, machine: str = DEFAULT_MACHINE) -> Iterator[None]:
    """Be the daemon of a coordinator in this block; raises `DoraError` if another process is."""
    descriptor = open_own(lock_path(address, port, machine), os.O_RDWR | os.O_CREAT)
    try:
        while not _try(descriptor, fcntl.LOCK_EX):
            # Who only looks, as `running_daemon` does, shares it for a moment.
            if not _try(descriptor, fcntl.LOCK_SH):
                pid = os.read(descriptor, 20).decode(errors="replace").strip()
                raise DoraError(
                    f"a daemon of the coordinator at {address}:{port} is running already, "
                    f"with process id {pid}"
                )
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            time.sleep(_LOOK_EVERY)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    """Lock a file, unless another process has done so."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
