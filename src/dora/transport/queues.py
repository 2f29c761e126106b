"""Queues in the memory of a process: of its engines, and in front of the receivers of its engines.

Queues in shared memory drop in `dora.transport.shm.ring`, or in iceoryx2 itself (safe overflow).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from dora.transport.interface import MAX_QUEUE, Receiver
from dora.wire.correlation import MAX_KEPT
from dora.wire.message import Message
from dora.wire.node_config import InputConfig

_SPILL_PERIOD: Final = 0.005  # seconds; at 200,000 messages/s a thousand arrive in that time
_SPILL_FROM: Final = MAX_QUEUE // 8  # messages that stay with the engine; its other places are for bursts

T = TypeVar("T")
_log = logging.getLogger("dora.transport")


class DropOldestQueue(deque[T]):
    """The newest ``size`` items, and older ones that must not be dropped: at most `MAX_KEPT` of those.

    ``dropped`` counts the items that `put` drops when they are no longer among the newest. One
    thread at a time may put items, while any number of others take them with `popleft`.
    """

    def __init__(self, size: int | None, is_kept: Callable[[T], bool]) -> None:
        """``size``: None for a queue that something else bounds, such as credit."""
        super().__init__()
        self._size = sys.maxsize if size is None else size
        self._is_kept = is_kept
        self.dropped = 0

    def put(self, item: T) -> None:
        """Append an item, and drop one if there are too many."""
        self.append(item)
        if len(self) > self._size:
            self._make_room()

    def _make_room(self) -> None:
        try:
            item = self[-1 - self._size]  # places are counted from the end that no other thread changes
            if self._is_kept(item):
                if len(self) <= self._size + MAX_KEPT:
                    return
                item = self[0]
            self.remove(item)
        except (IndexError, ValueError):  # another thread took it
            return
        self.dropped += 1


class PriorityQueue:
    """The queue of an input in a service or an action: it never drops a message of an exchange.

    A plain queue drops its oldest message. If that is a request, the client waits for an answer that will
    never come. This queue drops the oldest message that is not kept (`dora.wire.correlation`), and
    ``queue_size`` counts only those.

    The receiver of the engine holds `PATTERN_QUEUE_SIZE` messages, and this queue empties it whenever the
    node polls. Correlated messages are dropped, oldest first, only if more than that arrive in between.
    Every dropped message shows as a gap in the sequence numbers.
    """

    def __init__(self, receiver: Receiver, queue_size: int, is_kept: Callable[[Message], bool]) -> None:
        self._receiver = receiver
        self._queue_size = queue_size
        self._is_kept = is_kept
        self._queue: deque[tuple[Message, bool]] = deque()  # message, whether it is kept
        self._droppable = 0  # messages in the queue that are not kept

    def receive(self) -> Message | None:
        self._drain()
        if not self._queue:
            return None
        message, kept = self._queue.popleft()
        if not kept:
            self._droppable -= 1
        return message

    def has_messages(self) -> bool:
        return bool(self._queue) or self._receiver.has_messages()

    def close(self) -> None:
        self._queue.clear()
        self._receiver.close()

    def _drain(self) -> None:
        while (message := self._receiver.receive()) is not None:
            kept = self._is_kept(message)
            self._queue.append((message, kept))
            if not kept:
                self._droppable += 1
                if self._droppable > self._queue_size:
                    self._drop_oldest()

    def _drop_oldest(self) -> None:
        for index, (_, kept) in enumerate(self._queue):
            if not kept:
                del self._queue[index]
                self._droppable -= 1
                return


class SpilloverQueue:
    """A queue that is longer than the engine allows: its rest is in the memory of this process.

    A place in shared memory costs a few microseconds and some kilobytes at start, so the queues of an
    engine end at `MAX_QUEUE`. When more than an eighth of that is waiting, `receive` moves the oldest
    messages into a deque; a thread does it while the program computes. Messages that do not fit are
    dropped, oldest first, and show as a gap in the sequence numbers.
    """

    def __init__(self, receiver: Receiver, queue_size: int, sent: Callable[[], int]) -> None:
        """``sent`` returns the sequence number of the newest message of the output."""
        self._receiver = receiver
        self._room = queue_size - _SPILL_FROM
        self._sent = sent
        self._queue: deque[Message] = deque()
        self._last = 0  # sequence number of the newest message taken from the engine
        # The program and the thread both use the receiver of the engine, which is for one at a time.
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="dora-spillover-queue", daemon=True).start()

    def receive(self) -> Message | None:
        with self._lock:
            if self._sent() - self._last > _SPILL_FROM:
                self._spill()
            return self._queue.popleft() if self._queue else self._take()

    def has_messages(self) -> bool:
        if self._queue:
            return True
        with self._lock:  # a receiver that looks for senders moves the message that the thread is taking
            return bool(self._queue) or self._receiver.has_messages()

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

    def _spill(self) -> None:
        queue = self._queue
        while self._sent() - self._last > _SPILL_FROM:
            message = self._take()
            if message is None:  # it is just being sent
                return
            if len(queue) >= self._room:
                queue.popleft()
            queue.append(message)

    def _run(self) -> None:
        while not self._closed.wait(_SPILL_PERIOD):
            # Looked at without the lock: while little is waiting, the program never waits for this thread.
            if self._sent() - self._last > _SPILL_FROM:
                with self._lock:
                    if not self._closed.is_set():  # `close` closes the receiver under this lock
                        self._spill()


def who_keeps(item: InputConfig) -> str:
    """Return who may keep the messages of an input."""
    if item.kept_by_sync:
        return f"`sync` (up to {item.kept_by_sync}) and the program"
    if item.queue_size > MAX_QUEUE:
        return f"the queue (`queue_size: {item.queue_size}`) and the program"
    return "the program, for example as arrays in a list"


class CopyWarning:
    """Warns once that an input copies messages, because the program keeps so many."""

    def __init__(self, item: InputConfig) -> None:
        self._item = item
        self._logged = False

    def give(self, size: int, kept: int) -> None:
        """Warn that a message of ``size`` bytes is copied while ``kept`` messages are in use."""
        if not self._logged:
            self._logged = True
            _log.warning(
                "input `%s`: %d messages are kept by %s; further ones are copied out of shared memory "
                "(this one: %d bytes)",
                self._item.id,
                kept,
                who_keeps(self._item),
                size,
            )
