"""What the links of a node to another one share: room in Zenoh's queue, and a thread that waits for it.

Zenoh takes what is sent to a node into a queue of 16 batches. What finds no room there lets its sender
wait, for seconds where nobody receives, and a program must not be held up like that. So a program's own
threads launch only what is sure to find room. When something leaves the queue nobody tells, so all counts
that was not acknowledged. The rest is for the launcher's thread, which has time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from dora.transport.network.protocol import THREAD_PATIENCE, start_thread
from dora.transport.network.sessions import BATCHES

BATCH: Final = 65_535  # bytes
ROOM: Final = (BATCHES - 1) * BATCH  # one is for probes
_LITTLE: Final = 8_192  # bytes of a message that shares its batch with others
_OVERHEAD: Final = 256  # bytes: label, key, headers


def demand(size: int, *, alone: bool) -> int:
    """Return how much of the queue a message takes at most, in bytes; ``alone``: nothing follows it.

    >>> demand(100, alone=False), demand(100, alone=True) // BATCH, demand(100_000, alone=True) // BATCH
    (712, 1, 3)
    """
    if size > _LITTLE:
        return ((size + _OVERHEAD) // BATCH + 2) * BATCH  # what is there already goes in a batch of its own
    return BATCH if alone else 2 * (size + _OVERHEAD)


class SendThread:
    """For one node that is reached. Safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self.busy = False  # something waits for the thread, or is being launched by it
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def do(self, job: Callable[[], None]) -> None:
        """Let the thread do something, after what it was given before."""
        with self._change:
            if self._closed:
                return
            self.busy = True
            self._jobs.append(job)
            if self._thread is None:
                self._thread = start_thread(self._name, self._run)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._jobs or self._closed):
                    self.busy = False
                    self._change.wait()
                if self._closed:
                    return
                job = self._jobs.popleft()
            job()

    def close(self) -> None:
        """End the thread, once the session is closed for which it may be waiting."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(THREAD_PATIENCE)
