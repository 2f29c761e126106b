"""The interface of a transport engine: senders and receivers of messages.

An engine moves the bytes of messages (`dora.wire.message`) over links; it does not know events, timers
or operators. There are three: `shm.iceoryx2` and `shm.engine` (shared memory), and `inprocess`. All pass
the same conformance tests. `dora.gateway` carries messages to other machines.

Receiving never blocks; a node waits on its doorbell. Between processes the *user* of a sender rings it
(`dora.node.send.output`). Inside a process the engine calls the ``arrived`` callback instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dora.wire.message import Message
from dora.wire.node_config import InputConfig, OutputConfig

# The maximum length of a queue in shared memory. A longer queue continues in the receiving process
# (`dora.transport.queues`). A sender under back-pressure assumes this length.
MAX_QUEUE: Final = 4096


class Loan(Protocol):
    """Memory for one message: ``size`` writable bytes at ``address``, aligned to 64.

    ``memory`` is a view of these bytes, which may be longer than ``size``: to write a few bytes through it
    costs a sixth of a copy to an address.

    A loan is used once, with `send` or `discard`; one that is garbage-collected is discarded. ``control``
    is as in `Sender.send`.
    """

    address: int
    memory: memoryview
    size: int

    def send(self, control: bytes = b"") -> None: ...
    def discard(self) -> None: ...


class Sender(Protocol):
    """The sending end of all links of one output."""

    def send(self, message: bytes, control: bytes = b"") -> None:
        """Send a small message; raises `SharedMemoryFull`.

        ``control``: its metadata section if that has control keys (`dora.wire.correlation`), or keys that a
        link keeps, else b"".
        """
        ...

    def prepare(self) -> None:
        """Do work for the next small message in advance, while the program is idle. Never fails."""
        ...

    def loan(self, size: int) -> Loan:
        """Get memory for a message of ``size`` bytes; raises `SharedMemoryFull`."""
        ...

    def close(self) -> None:
        """Close the port. Messages that were sent can still be received."""
        ...

    def destroy(self) -> None:
        """Close the port and free its memory: all messages were received, and no thread is sending."""
        ...


class Receiver(Protocol):
    """The receiving end of one input.

    It holds the newest ``queue_size`` messages. A message that is dropped to make room shows as a gap in
    the sequence numbers.
    """

    def receive(self) -> Message | None:
        """Take the oldest message, or return None; never blocks."""
        ...

    def has_messages(self) -> bool: ...

    def close(self) -> None:
        """Stop receiving. Messages that were received stay valid as long as they are referenced."""
        ...


class Engine(Protocol):
    """All ports of one process in one dataflow."""

    wakes: bool  # it calls ``arrived``; otherwise the user of a sender has to ring

    def sender(self, output: OutputConfig) -> Sender: ...

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> Receiver: ...

    def close(self) -> None: ...


class BadMessages:
    """Counts the invalid messages of an input, and logs a warning whenever their number has doubled."""

    def __init__(self, input_id: str) -> None:
        self.count = 0
        self._input_id = input_id

    def add(self, error: Exception) -> None:
        self.count += 1
        if self.count & (self.count - 1) == 0:
            total = f" ({self.count:,} so far)" if self.count > 1 else ""
            import logging  # not for processes that only read a constant of this module

            log = logging.getLogger("dora.transport")
            log.warning("input `%s`: a bad message was dropped%s: %s", self._input_id, total, error)
