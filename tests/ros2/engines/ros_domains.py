"""ROS domains and routers for tests that run at the same time, also in other processes."""

from __future__ import annotations

import os
import random
import socket

_kept: dict[int, socket.socket] = {}
_random = random.Random(os.getpid())


def free_domain() -> int:
    """Return a domain that no other test on this machine has, until `give_back` or the end of this one."""
    numbers = list(range(1, 230))
    _random.shuffle(numbers)
    for number in numbers:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0dora-test-ros-domain-{number}")
        except OSError:
            name.close()
            continue
        _kept[number] = name
        return number
    raise AssertionError("no ROS domain is free")


def give_back(domain: int) -> None:
    """Let other tests have a domain, in which nobody is any more."""
    _kept.pop(domain).close()
