"""The clock of a replay, shared by all its processes: when what was recorded happens again."""

from __future__ import annotations

import mmap
from struct import Struct
from typing import Final

_LAYOUT = Struct("<QdQQQQ")  # start, speed, patience, ordered, recorded, released
_RELEASED: Final = 5  # word
WITHOUT_LIMIT: Final = 2**64 - 1


class ReplayClock:
    """A small piece of memory, most often a shared file: `dora replay` makes it, players and nodes read it.

    ``start_ns`` is the recorded moment at which the replay begins, ``speed`` a factor, or 0 for as fast as
    possible. ``patience_ns``: how long a node waits for a message that was recorded and does not come.
    ``ordered``: nodes take their events in recorded order, and messages carry the times of then.
    ``recorded``: a recorder takes what is sent, and is waited for.
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
        """Return the content of a new one."""
        return bytearray(_LAYOUT.pack(start_ns, speed, patience_ns, ordered, recorded, released_ns))

    @classmethod
    def open(cls, path: str, *, writable: bool = False) -> ReplayClock:
        """Open a file with what `make` gave; raises ``OSError``."""
        with open(path, "r+b" if writable else "rb") as file:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            return cls(memoryview(mmap.mmap(file.fileno(), _LAYOUT.size, access=access)))

    def release(self, time_ns: int) -> None:
        """Let everything happen that was recorded up to then."""
        self._words[_RELEASED] = time_ns

    def due(self, time_ns: int, epoch_ns: int) -> int | None:
        """Return when something recorded is to happen, on CLOCK_MONOTONIC; None: not before a `release`.

        ``epoch_ns`` is when the dataflow began, on that clock.
        """
        if time_ns > self._words[_RELEASED]:
            return None
        if not self.speed:
            return epoch_ns
        return epoch_ns + int(max(time_ns - self.start_ns, 0) / self.speed)
