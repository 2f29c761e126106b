"""The engine for links inside one process: messages pass by reference, without a copy."""

from __future__ import annotations

from collections.abc import Callable

from dora.transport.aligned_memory import AlignedMemory
from dora.transport.latch import LatchInMemory
from dora.transport.queues import DropOldestQueue
from dora.wire.correlation import kept_message
from dora.wire.message import Message
from dora.wire.node_config import InputConfig, OutputConfig


class LocalReceiver:
    """The receiving end of one link."""

    def __init__(self, queue: DropOldestQueue[Message], unsubscribe: Callable[[], None]) -> None:
        self._queue = queue
        self._unsubscribe = unsubscribe

    def receive(self) -> Message | None:
        try:
            return self._queue.popleft()
        except IndexError:  # it is empty
            return None

    def has_messages(self) -> bool:
        return bool(self._queue)

    def release(self) -> None:
        """Nothing to do: there is one process."""

    def close(self) -> None:
        self._unsubscribe()
        self._queue = DropOldestQueue(1, lambda _: False)


class _LocalLoan:
    __slots__ = ("_aligned", "_sender", "address", "memory", "size")

    def __init__(self, sender: LocalSender, size: int) -> None:
        self._sender = sender
        self._aligned = AlignedMemory(size)
        self.address = self._aligned.address
        self.memory = self._aligned.view()
        self.size = size

    def send(self, control: bytes = b"") -> None:  # noqa: ARG002
        """Pass the memory itself to the receivers; it must not be written any more."""
        offset = int.from_bytes(self.memory[12:16], "little")
        self._sender.deliver(Message(self.memory[:offset].tobytes(), self.address, self._aligned))

    def discard(self) -> None:
        """Nothing to do: the last reference frees the memory."""


class LocalSender:
    """The sending end of one output."""

    def __init__(self, receivers: list[tuple[DropOldestQueue[Message], Callable[[], None]]]) -> None:
        self._receivers = receivers

    def send(self, message: bytes, control: bytes = b"") -> None:  # noqa: ARG002
        self.deliver(Message(message))

    def prepare(self) -> None:
        """Nothing to prepare."""

    def loan(self, size: int) -> _LocalLoan:
        return _LocalLoan(self, size)

    def deliver(self, message: Message) -> None:
        for queue, arrived in tuple(self._receivers):
            queue.put(message)
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
        self._services: dict[str, list[tuple[DropOldestQueue[Message], Callable[[], None]]]] = (
            {} if shared_with is None else shared_with._services
        )
        # The latches of outputs, by their lines on the board.
        self.latches: dict[int, LatchInMemory] = {} if shared_with is None else shared_with.latches

    def sender(self, output: OutputConfig) -> LocalSender:
        return LocalSender(self._services.setdefault(output.service, []))

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> LocalReceiver:
        queue: DropOldestQueue[Message] = DropOldestQueue(item.queue_size, kept_message(item.keep))
        entry = (queue, arrived)
        receivers = self._services.setdefault(item.service, [])
        receivers.append(entry)
        return LocalReceiver(queue, lambda: receivers.remove(entry) if entry in receivers else None)

    def listen(self, service: str, take: Callable[[Message], None]) -> None:
        """Call ``take`` with each message of an output, in the thread that sends it."""

        def arrived() -> None:
            message = receiver.receive()
            if message is not None:
                take(message)

        receiver = self.receiver(InputConfig("", "link", "", queue_size=1, service=service), arrived)

    def connect(self, timeout: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to do: a queue belongs to its receiver."""
