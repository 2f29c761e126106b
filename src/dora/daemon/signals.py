"""Tells a second Ctrl-C from one that arrives twice."""

from __future__ import annotations

import math
import time

# Seconds. `timeout` sends its signal to its child and then to their process group. So does a program that
# passes on a Ctrl-C, which the terminal sends to the whole group. Both arrive within milliseconds; fingers
# need longer. Python does not tell a handler who sent the signal, so time has to tell them apart.
ECHO = 0.1


class SignalEchoes:
    """Finds the second of two equal signals that are one."""

    def __init__(self) -> None:
        self._taken: dict[int, float] = {}

    def is_echo(self, number: int) -> bool:
        """Return whether the same signal was taken within the last `ECHO` seconds; safe in handlers."""
        now = time.monotonic()
        if now - self._taken.get(number, -math.inf) < ECHO:
            return True
        self._taken[number] = now
        return False
