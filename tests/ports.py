"""Ports for servers that a test starts, which nobody takes between the choice and the start.

A port that the kernel gives to whoever asks for any may be given to a connection of somebody else's in the
next moment, and a coordinator that was killed comes back to its port. So ports are chosen below those that
the kernel gives away, and a lock keeps one for this process until it ends.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from typing import IO

_FIRST, _LAST = 10_000, 19_999
_kept: list[IO[str]] = []


def free_port() -> int:
    """Return a port of the loopback interface for this process alone; each time another one."""
    folder = os.path.join(tempfile.gettempdir(), f"dora-test-ports-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    numbers = list(range(_FIRST, _LAST + 1))
    random.Random(os.getpid() + len(_kept)).shuffle(numbers)
    for number in numbers:
        lock = open(os.path.join(folder, str(number)), "w")  # noqa: SIM115 - kept until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", number))
        except OSError:
            lock.close()
            continue
        _kept.append(lock)
        return number
    raise AssertionError("no port is free")
