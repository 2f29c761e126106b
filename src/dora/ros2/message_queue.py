"""The queue of a subscription or server: an engine's thread fills it, the program empties it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger("dora.ros2")
# A publisher that starts again has a new id, so they would add up for ever. One that was forgotten
# counts as new: what was lost before its next message is not counted.
_MAX_PUBLISHERS: Final = 1024  # whose last sequence numbers are remembered; the longest silent one goes
_RESTART: Final = 1 << 31  # a jump of so many numbers is no loss: at 1 MHz it would take 36 minutes

Delivery = Callable[[], None]
"""Sends what has come from ROS, in the thread that receives the events of the node."""


@dataclass(slots=True)
class MessageCounters:
    """Counts the messages of a subscription or server since it began.

    ``received`` counts messages that came in good order, also those that were dropped later. ``dropped``
    were pushed out of a full queue, oldest first. ``lost`` never came: a gap in the numbers of a publisher,
    or what the engine says. ``malformed`` had bytes that are no message.
    """

    received: int = 0
    dropped: int = 0
    lost: int = 0
    malformed: int = 0


def ring(callback: Callable[[], None] | None) -> None:
    """Call what a program has set, in a thread of an engine, whose work goes on if it raises."""
    if callback is None:
        return
    try:
        callback()
    except Exception:  # noqa: BLE001
        _log.exception("a callback of a ROS endpoint has raised")


class MessageQueue(Generic[T]):
    """The newest ``size`` items (None: all), in order. Any number of threads put and take.

    ``on_arrival`` is called after each item, in the thread that put it, without a lock; it must not block.
    An exception is logged. So a program can wait for several queues and for something else together.
    """

    def __init__(self, size: int | None, counters: MessageCounters) -> None:
        self._items: deque[T] = deque()
        self._size = size
        self._counters = counters
        # Threads of the engine put, threads of the program take. A condition sleeps in the kernel with a
        # timeout; nothing here polls.
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._on_arrival: Callable[[], None] | None = None
        self._consume: Callable[[T], bool] | None = None
        self.closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Append an item, unless the consumer takes it; does nothing after `close`.

        A full queue drops, and counts, its oldest item.
        """
        consume = self._consume  # read once: `close` may take it away meanwhile
        if consume is not None and not self._items and consume(item):
            with self._lock:
                self._counters.received += 1
            return
        with self._lock:
            if self.closed:
                return
            self._items.append(item)
            self._counters.received += 1
            if self._size is not None and len(self._items) > self._size:
                self._items.popleft()
                self._counters.dropped += 1
            self._arrived.notify()
        ring(self._on_arrival)  # outside the lock: it may take the item at once

    def take(self, timeout: float | None = 0) -> T | None:
        """Return the oldest item, after at most ``timeout`` seconds (None: without limit).

        None if there is none, and at once after `close` when the queue is empty.
        """
        with self._lock:
            if not self._items and timeout != 0:
                deadline = None if timeout is None else time.monotonic() + timeout
                while not self._items and not self.closed:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._arrived.wait(left)
            return self._items.popleft() if self._items else None

    def set_on_arrival(self, callback: Callable[[], None] | None) -> None:
        """Set what is called after each arrival, and at `close`; also at once if something is here."""
        self._on_arrival = callback
        if self._items or self.closed:
            ring(callback)

    def set_consumer(self, consume: Callable[[T], bool] | None) -> None:
        """Set what gets each item that comes while none waits, in the thread that puts it.

        It returns whether it has taken the item; else the item goes into the queue. So the order stays.
        """
        self._consume = consume

    def close(self) -> None:
        """Take no more items, and wake all that wait."""
        self._consume = None  # else `put` would still call it: it asks for `closed` later
        with self._lock:
            self.closed = True
            self._arrived.notify_all()
        callback, self._on_arrival = self._on_arrival, None
        ring(callback)


class SequenceGaps:
    """Finds messages that never came, by the numbers that each publisher gives its messages.

    A publisher whose number jumps by `_RESTART` or more, up or down, has begun to count anew.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[bytes, int] = OrderedDict()  # id of a publisher → its newest number

    def missing(self, publisher: bytes, number: int) -> int:
        """Return how many messages of a publisher are missing before this one; 0 for its first, and after
        it has begun to count anew."""
        last = self._last.get(publisher)
        if last is None:
            self._last[publisher] = number
            if len(self._last) > _MAX_PUBLISHERS:
                self._last.popitem(last=False)
            return 0
        if abs(number - last) >= _RESTART:
            self._last[publisher] = number
            return 0
        if number <= last:  # an older one that came late, as from the history of a publisher
            return 0
        self._last[publisher] = number
        self._last.move_to_end(publisher)
        return number - last - 1


class Deliveries:
    """A source of external events of a node, which any thread fills."""

    def __init__(self) -> None:
        # No limit: a node of the dataflow waits for each answer and each result.
        deliveries: MessageQueue[Delivery] = MessageQueue(None, MessageCounters())
        self.put = deliveries.put
        self.next = deliveries.take
        self.set_on_message = deliveries.set_on_arrival
