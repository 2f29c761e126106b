"""Links inside one process: messages pass by reference, without a copy.

`LocalLink` is the queue, for objects of any kind. `LocalEngine` offers it through the common interface of
the engines.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from ctypes import string_at
from typing import Generic, TypeVar

from dora.transport.aligned_memory import AlignedMemory
from dora.wire.correlation import MAX_KEPT, carries_correlation
from dora.wire.message import Message
from dora.wire.node_config import InputConfig, OutputConfig

T = TypeVar("T")


class LocalLink(Generic[T]):
    """A queue of the newest ``queue_size`` objects, for any number of threads at both ends.

    ``received`` counts the objects that were taken, ``dropped`` those that were dropped to make room. The
    number of objects that were put is the sum of both and of those in the queue.
    """

    __slots__ = ("_is_kept", "_lock", "_queue", "dropped", "queue_size", "received")

    def __init__(self, queue_size: int, is_kept: Callable[[T], bool] = lambda _: False) -> None:
        """``is_kept``: whether an object must not be dropped; up to `MAX_KEPT` of them are not."""
        self.queue_size = queue_size
        self._is_kept = is_kept
        self.received = 0
        self.dropped = 0
        self._queue: deque[T] = deque()
        self._lock = threading.Lock()

    def put(self, item: T) -> bool:
        """Append an object; return False if one was dropped for it."""
        with self._lock:
            dropped = len(self._queue) >= self.queue_size and self._drop()
            self._queue.append(item)
        return not dropped

    def _drop(self) -> bool:
        """Drop the oldest object that may be dropped; return whether there was one."""
        queue = self._queue
        kept = len(queue) < self.queue_size + MAX_KEPT
        index = next((i for i, item in enumerate(queue) if not (kept and self._is_kept(item))), None)
        if index is None:
            return False
        del queue[index]
        self.dropped += 1
        return True

    def take(self) -> T | None:
        """Remove and return the oldest object, or return None."""
        with self._lock:
            if not self._queue:
                return None
            self.received += 1
            return self._queue.popleft()

    def __len__(self) -> int:
        return len(self._queue)


class LocalReceiver:
    """The receiving end of one link."""

    def __init__(self, link: LocalLink[Message], unsubscribe: Callable[[], None]) -> None:
        self._link = link
        self._unsubscribe = unsubscribe
        self.receive: Callable[[], Message | None] = link.take

    def has_messages(self) -> bool:
        return len(self._link) > 0

    def release(self) -> None:
        """Nothing to do: there is one process."""

    def close(self) -> None:
        self._unsubscribe()
        self._link = LocalLink(1)
        self.receive = self._link.take


class _Loan:
    __slots__ = ("_memory", "_sender", "address", "size")

    def __init__(self, sender: LocalSender, size: int) -> None:
        self._sender = sender
        self._memory = AlignedMemory(size)
        self.address = self._memory.address
        self.size = size

    def send(self) -> None:
        """Pass the memory itself to the receivers; it must not be written any more."""
        offset = int.from_bytes(string_at(self.address + 12, 4), "little")
        self._sender.deliver(Message(string_at(self.address, offset), self.address, self._memory))

    def discard(self) -> None:
        """Nothing to do: the last reference frees the memory."""


class LocalSender:
    """The sending end of one output."""

    def __init__(self, receivers: list[tuple[LocalLink[Message], Callable[[], None]]]) -> None:
        self._receivers = receivers

    def send(self, message: bytes) -> None:
        self.deliver(Message(message))

    def prepare(self) -> None:
        """Nothing to prepare."""

    def loan(self, size: int) -> _Loan:
        return _Loan(self, size)

    def deliver(self, message: Message) -> None:
        for link, arrived in tuple(self._receivers):
            link.put(message)
            arrived()

    def close(self) -> None:
        """Nothing to release: messages that were sent are in the queues of the receivers."""

    destroy = close


class LocalEngine:
    """All ports whose links stay inside the process."""

    wakes = True
    in_flight = False

    def __init__(self, shared_with: LocalEngine | None = None) -> None:
        """``shared_with``: an engine whose links this one shares."""
        self._services: dict[str, list[tuple[LocalLink[Message], Callable[[], None]]]] = (
            {} if shared_with is None else shared_with._services
        )

    def sender(self, output: OutputConfig) -> LocalSender:
        return LocalSender(self._services.setdefault(output.service, []))

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> LocalReceiver:
        link: LocalLink[Message] = LocalLink(item.queue_size, carries_correlation)
        entry = (link, arrived)
        receivers = self._services.setdefault(item.service, [])
        receivers.append(entry)
        return LocalReceiver(link, lambda: receivers.remove(entry) if entry in receivers else None)

    def connect(self, timeout: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to do: a queue belongs to its receiver."""
