"""The engine for links inside one process: messages pass by reference, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from dora.transport.latch import LatchInMemory
from dora.transport.queues import DropOldestQueue
from dora.wire.correlation import kept_message
from dora.wire.message import ALIGNMENT, Message
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

    def close(self) -> None:
        self._unsubscribe()
        self._queue = DropOldestQueue(1, lambda _: False)  # a sender may just be filling the former one


# Unlike ``bytearray(size)``, this does not fill the block with zeros: it is overwritten anyway.
_uninitialised = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyByteArray_FromStringAndSize", ctypes.pythonapi)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyByteArray_AsString", ctypes.pythonapi)
)


class _LocalLoan:
    __slots__ = ("_block", "_sender", "address", "memory", "size")

    def __init__(self, sender: LocalSender, size: int) -> None:
        self._sender = sender
        self._block: bytearray = _uninitialised(None, size + ALIGNMENT)
        address = _address_of(self._block)
        start = -address % ALIGNMENT
        self.address = address + start
        self.memory = memoryview(self._block)[start : start + size]
        self.size = size

    def send(self, control: bytes = b"") -> None:  # noqa: ARG002
        """Pass the memory itself to the receivers; it must not be written any more."""
        offset = int.from_bytes(self.memory[12:16], "little")
        self._sender.deliver(Message(self.memory[:offset].tobytes(), self.address, self._block))

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
        # A copy of the list: the thread of another operator may close its input meanwhile.
        for queue, arrived in tuple(self._receivers):
            queue.put(message)
            arrived()  # after the message is there: it looks for it at once

    def close(self) -> None:
        """Nothing to release: messages that were sent are in the queues of the receivers."""

    destroy = close


class LocalEngine:
    """All ports whose links stay inside the process."""

    wakes = True

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

    def close(self) -> None:
        """Nothing to do: a queue belongs to its receiver."""
