"""The clock of a replay, shared by all its processes, and the time of day in a replayed node.

In a replayed node, the time of day is the recorded moment at which it took its event. So the results of
``time.time()`` repeat, fit the time stamps of messages, and do not depend on the speed of the replay. Time
stands still between events, with two exceptions: each read of the clock takes a microsecond, and
``time.sleep`` its argument; and a program that works for long by real time sees the time pass, since it may
be waiting for that. ``time.monotonic`` and ``datetime.now`` stay real.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from struct import Struct
from typing import Any, Final

_LAYOUT = Struct("<QdQQQQ")  # start, speed, patience, ordered, recorded, released
_RELEASED: Final = 5  # word
WITHOUT_LIMIT: Final = 2**64 - 1


class ReplayClock:
    """Shared memory, most often a file, that `dora replay` creates and that players and nodes read.

    ``start_ns`` is the recorded moment at which the replay begins, ``speed`` a factor, or 0 for as fast as
    possible. ``patience_ns``: how long a node waits for a message that was recorded and does not come.
    ``ordered``: nodes take their events in recorded order, and messages carry their recorded times.
    ``recorded``: a recorder takes the messages, and senders wait for it.
    """

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        self.start_ns, self.speed, self.patience_ns, ordered, recorded, _ = _LAYOUT.unpack(memory)
        self.ordered = bool(ordered)
        self.recorded = bool(recorded)

    @classmethod
    def make(
        cls,
        *,
        start_ns: int,
        speed: float,
        patience_ns: int = 0,
        ordered: bool = False,
        recorded: bool = False,
        released_ns: int = WITHOUT_LIMIT,
    ) -> bytearray:
        """Return the content of a new clock."""
        return bytearray(_LAYOUT.pack(start_ns, speed, patience_ns, ordered, recorded, released_ns))

    @classmethod
    def open(cls, path: str, *, writable: bool = False) -> ReplayClock:
        """Open a file with the content that `make` returned; raises ``OSError``."""
        with open(path, "r+b" if writable else "rb") as file:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            return cls(memoryview(mmap.mmap(file.fileno(), _LAYOUT.size, access=access)))

    def release(self, time_ns: int) -> None:
        """Release the events that were recorded until then."""
        self._words[_RELEASED] = time_ns

    def due(self, time_ns: int, epoch_ns: int) -> int | None:
        """Return when a recorded event is due, on CLOCK_MONOTONIC; None: not before a `release`.

        ``epoch_ns`` is the start of the dataflow on that clock.
        """
        if time_ns > self._words[_RELEASED]:
            return None
        if not self.speed:
            return epoch_ns
        return epoch_ns + int(max(time_ns - self.start_ns, 0) / self.speed)


_real_monotonic_ns = time.monotonic_ns
_real_sleep = time.sleep
_READ_NS: Final = 1000
_LONG_NS: Final = 1_000_000_000  # of real time, for one event


class ReplayedTime:
    """The clock of this process."""

    def __init__(self, start_ns: int, speed: float) -> None:
        """``start_ns``: nanoseconds since the Unix epoch; ``speed`` 0: sleeping takes no real time."""
        self._now = start_ns
        self._speed = speed
        self._thread = threading.get_ident()  # the one that works on events
        self._patient_until = _real_monotonic_ns() + _LONG_NS
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []  # namespace, name, what it had

    def advance(self, time_ns: int) -> None:
        """Move the time on to an event that this thread has taken, never back."""
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
            self._now += _READ_NS
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
        from dora.node.send import output

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
                    self._replace(space, name, replaced[value])
        self._replace(vars(output), "_now", self.stamp)

    def _replace(self, space: dict[str, Any], name: str, value: Any) -> None:
        self._replaced.append((space, name, space[name]))
        space[name] = value

    def remove(self) -> None:
        """Put back what `install` replaced, for a process that lives on after the node."""
        while self._replaced:
            space, name, value = self._replaced.pop()
            space[name] = value
