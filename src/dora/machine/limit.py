"""How long something may take."""

from __future__ import annotations

import threading
from collections.abc import Callable


class TimeLimit:
    """Calls ``on_late`` in a thread of its own, unless it is `met` within so many seconds."""

    def __init__(self, seconds: float, on_late: Callable[[], None]) -> None:
        self._on_late = on_late
        self._lock = threading.Lock()
        self._met = False
        self.late = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def met(self) -> None:
        """Note that it is done; ``late`` tells from now on whether it was too late."""
        with self._lock:
            self._met = not self.late
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            if self._met:
                return
            self.late = True
        self._on_late()
