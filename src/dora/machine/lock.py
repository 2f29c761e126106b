"""One daemon for each coordinator: a locked file says who it is, and is free however that one ended."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dora.coordinator.protocol import DEFAULT_MACHINE
from dora.daemon.rundir import usable_root
from dora.errors import DoraError


def lock_path(address: str, port: int, machine: str = DEFAULT_MACHINE) -> str:
    """Return the file that the daemon of a coordinator locks; it contains its process id."""
    of_machine = "" if machine == DEFAULT_MACHINE else f"-{machine}"
    return f"{usable_root()}/daemon-{address.replace(':', '_')}-{port}{of_machine}.lock"


def running_daemon(address: str, port: int, machine: str = DEFAULT_MACHINE) -> int | None:
    """Return the process id of the daemon of this user that serves a coordinator, None if there is none."""
    try:
        descriptor = os.open(lock_path(address, port, machine), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 20)
        return int(text) if text.strip().isdigit() else None
    finally:
        os.close(descriptor)
    return None


@contextmanager
def locked(address: str, port: int, machine: str = DEFAULT_MACHINE) -> Iterator[None]:
    """Be the daemon of a coordinator in this block; raises `DoraError` if another process is."""
    descriptor = os.open(lock_path(address, port, machine), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip()
            raise DoraError(
                f"a daemon of the coordinator at {address}:{port} is running already, with process id {pid}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
