"""What a transport engine offers: senders and receivers of whole messages.

An engine knows nothing of events, timers or operators; it moves the bytes of messages (see
`dora.wire.message`) over links. Three exist: `iceoryx` (shared memory), `zenoh` (network), `local`
(inside one process). All pass the same conformance tests.

Receiving never blocks. Waiting is the business of the doorbell, which the *user* of a sender rings
(`dora.node.send.output`), except where a message arrives from outside any sender process: such an engine
calls the ``arrived`` callback it was given, from a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dora.wire.message import Message
from dora.wire.node_config import InputConfig, OutputConfig

# Messages that a queue in shared memory holds at most; longer ones go on in the receiving process
# (`dora.transport.queues`). A sender under back-pressure counts with this many.
MAX_QUEUE: Final = 4096


class Loan(Protocol):
    """Memory for one message: ``size`` writable bytes at ``address``, aligned to 64.

    A loan is used once: `send` or `discard`; a dropped loan is discarded.
    """

    address: int
    size: int

    def send(self) -> None: ...
    def discard(self) -> None: ...


class Sender(Protocol):
    """The sending end of one output, with all its links."""

    def send(self, message: bytes) -> None:
        """Send a small message, already laid out; raises `SharedMemoryFull`."""
        ...

    def prepare(self) -> None:
        """Do ahead what the next small message needs; for moments when nobody waits. Never fails."""
        ...

    def loan(self, size: int) -> Loan:
        """Get memory for a message of ``size`` bytes; raises `SharedMemoryFull`."""
        ...

    def close(self) -> None:
        """Release the port. What was sent and not yet received stays receivable."""
        ...

    def destroy(self) -> None:
        """Release the port and all its memory: everything was received, and nobody sends meanwhile."""
        ...


class Receiver(Protocol):
    """The receiving end of one input.

    It holds the newest ``queue_size`` messages; a message that has to make room is lost, which
    shows as a gap in the sequence numbers.
    """

    def receive(self) -> Message | None:
        """Take the oldest message, or return None; never blocks."""
        ...

    def has_messages(self) -> bool: ...

    def release(self) -> None:
        """Note that another process of the node receives on this link after `close`."""
        ...

    def close(self) -> None:
        """Stop receiving; messages already taken stay valid for as long as they are referenced."""
        ...


class Engine(Protocol):
    """One per process and dataflow."""

    wakes: bool  # it calls ``arrived``; else whoever uses a sender has to ring
    in_flight: bool  # messages may still come after their sender has ended

    def sender(self, output: OutputConfig) -> Sender: ...

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> Receiver: ...

    def connect(self, timeout: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Return once every link of this process is up, as far as this engine needs to wait.

        Called after all ports exist, before the node reports that it is ready. Once ``interrupted``
        says that the daemon has something to say (the start broke, most likely), it does not wait
        much longer and just returns. Raises `ConnectError` after ``timeout`` seconds.
        """
        ...

    def close(self) -> None: ...
