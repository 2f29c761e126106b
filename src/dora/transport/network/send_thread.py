"""The send thread of a peer, and the accounting of Zenoh's queue.

Zenoh puts outgoing messages into a queue of 16 batches and blocks its caller when the queue is full, for
seconds if the receiver does not read. A program must not be blocked like that. Its own threads therefore
send only what is sure to find room; the send thread sends the rest. Zenoh does not report when something
leaves the queue, so every message that is not acknowledged counts as queued.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from dora.transport.network.sessions import BATCHES
from dora.transport.network.threads import JOIN_TIMEOUT, start_thread

BATCH: Final = 65_535  # bytes
ROOM: Final = (BATCHES - 1) * BATCH  # one batch is left for probes
_SHARES_BATCH: Final = 8_192  # bytes; up to this size a message shares its batch with others
_OVERHEAD: Final = 256  # bytes: header, key


def queue_space(size: int, *, alone: bool) -> int:
    """Return an upper bound of the bytes that a message takes in the queue; ``alone``: none follows it.

    >>> queue_space(100, alone=False), queue_space(100, alone=True) // BATCH
    (712, 1)
    >>> queue_space(100_000, alone=True) // BATCH
    3
    """
    if size > _SHARES_BATCH:  # messages that are queued before it fill a batch of their own
        return ((size + _OVERHEAD) // BATCH + 2) * BATCH
    return BATCH if alone else 2 * (size + _OVERHEAD)


class SendThread:
    """Runs the blocking sends to one peer, one after the other. Safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self.busy = False  # a job waits or runs
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` in the thread, after all jobs that were submitted before."""
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
        """End the thread; the session that may block it has to be closed already."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(JOIN_TIMEOUT)
