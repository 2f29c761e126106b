"""Has the system write a file to its disk, so that a recording survives a loss of power.

The system alone leaves new data in memory for half a minute, and the length of a file with it: a board that
is switched off would find an empty file. A thread of its own does it, because a slow card may take seconds
for it, and the recorder goes on writing meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from dora.errors import DoraError

EVERY: Final = 1.0  # seconds between the end of one round and the next; more often wears cards out


class DiskSync:
    """Calls ``sync`` in a thread every second, until `close`, or until it has raised `DoraError`."""

    def __init__(self, sync: Callable[[], None], on_failure: Callable[[DoraError], None]) -> None:
        """``on_failure`` is called in the thread."""
        self._sync = sync
        self._on_failure = on_failure
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dora-recording-sync", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Return once the thread has ended: ``sync`` is not called any more."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed.wait(EVERY):
            try:
                self._sync()
            except DoraError as error:
                self._on_failure(error)
                return
