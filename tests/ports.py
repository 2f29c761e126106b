"""Ports for servers that a test starts; no other process takes them between the choice and the start.

The kernel may give a port that it has chosen to another connection in the next moment, and a coordinator
that was killed comes back to its port. So ports are chosen below those that the kernel gives away, and the
name of a socket reserves one for this process until it ends.
"""

from __future__ import annotations

import os
import random
import socket
import sys

_FIRST, _LAST = 10_000, 19_999
_kept: list[socket.socket] = []


def free_port() -> int:
    """Return a port of the loopback interface for this process alone; each time another one."""
    numbers = list(range(_FIRST, _LAST + 1))
    random.Random(os.getpid() + len(_kept)).shuffle(numbers)
    for number in numbers:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if sys.platform == "linux":  # where names need no file, and go with the process
                name.bind(f"\0dora-test-port-{number}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", number))
        except OSError:
            name.close()
            continue
        _kept.append(name)
        return number
    raise AssertionError("no port is free")
