"""A queue longer than an engine's own: the rest of it is in this process's memory.

A slot in shared memory costs a few microseconds and some kilobytes at start, so engines stop at
`MAX_QUEUE`. A longer queue is emptied into a deque by whoever calls `receive`, and by a thread while
nobody does, because the node computes. Messages that do not fit are lost oldest first, as in any
queue, and show as a gap in the sequence numbers.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from dora.transport.interface import Receiver
from dora.wire.message import Message

_PERIOD: Final = 0.005  # seconds between looks; at 200,000 messages/s a thousand come meanwhile


class LongQueue:
    """A `Receiver` in front of another one, with room for ``queue_size`` messages."""

    def __init__(self, receiver: Receiver, queue_size: int) -> None:
        self._receiver = receiver
        self._queue: deque[Message] = deque(maxlen=queue_size)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._keep_moving, name="dora-long-queue", daemon=True).start()

    def receive(self) -> Message | None:
        with self._lock:
            self._move()
            return self._queue.popleft() if self._queue else None

    def has_messages(self) -> bool:
        return bool(self._queue) or self._receiver.has_messages()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            self._queue.clear()
            self._receiver.close()

    def _move(self) -> None:
        receive = self._receiver.receive
        queue = self._queue
        while (message := receive()) is not None:
            queue.append(message)

    def _keep_moving(self) -> None:
        while not self._closed.wait(_PERIOD):
            if self._receiver.has_messages():
                with self._lock:
                    if not self._closed.is_set():
                        self._move()
