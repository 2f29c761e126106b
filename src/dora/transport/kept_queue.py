"""The queue of an input that takes part in a service or an action: it keeps what somebody waits for.

A plain queue lets go of its oldest message. If that is a request, its sender waits for nothing. This
one lets go of the oldest message that belongs to no exchange (see `dora.wire.correlation`), and
never of one that does.

It stands in front of an engine's receiver that holds `PATTERN_ROOM` messages, and takes all of them
over whenever the node looks for events. So the limit is: correlated messages are lost, oldest first
and counted as ever, only when more than `PATTERN_ROOM` messages arrive while the node does not look.
What was let go shows as a gap in the sequence numbers.
"""

from __future__ import annotations

from collections import deque

from dora.transport.interface import Receiver
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

    def hand_over(self) -> None:
        self._receiver.hand_over()

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
