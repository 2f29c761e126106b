"""The queue of an input that takes part in a service or an action: it keeps what somebody waits for.

A plain queue lets go of its oldest message. If that is a request, its sender waits for nothing. This
one lets go of the oldest message that belongs to no exchange (see `dora.wire.correlation`), and
never of one that does.

It stands in front of an engine's receiver that holds `PATTERN_QUEUE_SIZE` messages, and takes all of them
over whenever the node looks for events. So the limit is: correlated messages are lost, oldest first
and counted as ever, only when more than `PATTERN_QUEUE_SIZE` messages arrive while the node does not look.
What was let go shows as a gap in the sequence numbers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from dora.transport.interface import MAX_QUEUE, Receiver
from dora.wire.correlation import carries_correlation
from dora.wire.message import Message


class PriorityQueue:
    """A `Receiver` in front of another one; ``queue_size`` counts messages of no exchange."""

    def __init__(self, receiver: Receiver, queue_size: int) -> None:
        self._receiver = receiver
        self._queue_size = queue_size
        self._queue: deque[tuple[Message, bool]] = deque()  # message, whether it is kept
        self._loose = 0  # messages in the queue that may be let go

    def receive(self) -> Message | None:
        self._take_over()
        if not self._queue:
            return None
        message, kept = self._queue.popleft()
        if not kept:
            self._loose -= 1
        return message

    def has_messages(self) -> bool:
        return bool(self._queue) or self._receiver.has_messages()

    def release(self) -> None:
        self._receiver.release()

    def close(self) -> None:
        self._queue.clear()
        self._receiver.close()

    def _take_over(self) -> None:
        while (message := self._receiver.receive()) is not None:
            kept = carries_correlation(message)
            self._queue.append((message, kept))
            if not kept:
                self._loose += 1
                if self._loose > self._queue_size:
                    self._let_go()

    def _let_go(self) -> None:
        for index, (_, kept) in enumerate(self._queue):
            if not kept:
                del self._queue[index]
                self._loose -= 1
                return


# A queue longer than an engine's own: the rest of it is in this process's memory.
#
# A slot in shared memory costs a few microseconds and some kilobytes at start, so engines stop at
# `MAX_QUEUE`. When more than an eighth of that is waiting, the oldest messages are moved into a deque: by
# whoever calls `receive`, and by a thread while nobody does, because the node computes. Messages that
# do not fit there are lost oldest first, as in any queue, and show as a gap in the sequence numbers.

_PERIOD: Final = 0.005  # seconds between looks; at 200,000 messages/s a thousand come meanwhile
_KEPT: Final = MAX_QUEUE // 8  # messages that are left to the engine; its other slots are for bad moments


class SpilloverQueue:
    """A `Receiver` in front of another one, with room for ``queue_size`` messages."""

    def __init__(self, receiver: Receiver, queue_size: int, sent: Callable[[], int]) -> None:
        """``sent`` tells the sequence number of the newest message of the output."""
        self._receiver = receiver
        self._room = queue_size - _KEPT
        self._sent = sent
        self._queue: deque[Message] = deque()
        self._last = 0  # sequence number of the newest message taken from the engine
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._keep_moving, name="dora-long-queue", daemon=True).start()

    def receive(self) -> Message | None:
        with self._lock:
            if self._sent() - self._last > _KEPT:
                self._move()
            return self._queue.popleft() if self._queue else self._take()

    def has_messages(self) -> bool:
        return bool(self._queue) or self._receiver.has_messages()

    def release(self) -> None:
        self._receiver.release()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            self._queue.clear()
            self._receiver.close()

    def _take(self) -> Message | None:
        message = self._receiver.receive()
        if message is not None:
            self._last = message.sequence
        return message

    def _move(self) -> None:
        queue = self._queue
        while self._sent() - self._last > _KEPT:
            message = self._take()
            if message is None:  # it is being sent this very moment
                return
            if len(queue) >= self._room:
                queue.popleft()
            queue.append(message)

    def _keep_moving(self) -> None:
        while not self._closed.wait(_PERIOD):
            if self._sent() - self._last > _KEPT:
                with self._lock:
                    if not self._closed.is_set():
                        self._move()
