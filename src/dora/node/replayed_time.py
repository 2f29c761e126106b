"""The time of day in a replay: for a node, it is the moment when the event that it works on was taken.

So what it computes from ``time.time()`` comes out the same each time, fits the time stamps of its messages,
and does not depend on how fast the replay is. Time stands still between events, except that each look at
the clock takes a microsecond and ``time.sleep`` as long as it says; and that a program which does something
for long by real time sees it pass, since it may be waiting for that. ``time.monotonic`` and
``datetime.now`` stay real.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Final

_real_monotonic_ns = time.monotonic_ns
_real_sleep = time.sleep
_LOOK_NS: Final = 1000
_LONG_NS: Final = 1_000_000_000  # of real time, for one event


class ReplayedTime:
    """The clock of this process."""

    def __init__(self, start_ns: int, speed: float) -> None:
        """``start_ns``: nanoseconds since the Unix epoch; ``speed`` 0: sleeping takes no real time."""
        self._now = start_ns
        self._speed = speed
        self._thread = threading.get_ident()  # the one that works on events
        self._patient_until = _real_monotonic_ns() + _LONG_NS

    def advance(self, time_ns: int) -> None:
        """Note that this thread takes an event of that time."""
        self._now = max(self._now, time_ns)
        self._thread = threading.get_ident()
        self._patient_until = _real_monotonic_ns() + _LONG_NS

    def stamp(self) -> int:
        """Return the time for a message that is sent."""
        return self._now

    def time_ns(self) -> int:
        late = _real_monotonic_ns() - self._patient_until
        if late > 0:
            self._now += late
            self._patient_until += late
        if threading.get_ident() == self._thread:
            self._now += _LOOK_NS
        return self._now

    def time(self) -> float:
        return self.time_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        if threading.get_ident() != self._thread or seconds < 0:
            _real_sleep(seconds)
            return
        self._now += int(seconds * 1e9)
        _real_sleep(seconds / self._speed if self._speed else 0)

    def install(self) -> None:
        """Become the clock of the module `time`, of programs that imported from it, and of what is sent."""
        from dora.node import output

        replaced: dict[Any, Any] = {
            time.time: self.time,
            time.time_ns: self.time_ns,
            time.sleep: self.sleep,
        }
        spaces = [vars(time)]
        folder = os.getcwd() + os.sep
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if name.partition(".")[0] == "dora":
                continue  # a dora in the folder of its own sources
            if name == "__main__" or (file.startswith(folder) and "site-packages" not in file):
                spaces.append(vars(module))
        for space in spaces:
            for name, value in list(space.items()):
                if type(value) is type(_real_sleep) and value in replaced:
                    space[name] = replaced[value]
        output._now = self.stamp
