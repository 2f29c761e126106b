"""The interface of the ports of an inbox: one per input, whatever its source; and of what wraps a port."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from dora.node.events import Event


class InputPort(Protocol):
    id: str
    is_data: bool  # False for timers: a node with timers alone has no work left

    @property
    def detached(self) -> bool:
        """True once disconnected: the port closes after the messages sent before, and is dropped then."""
        ...

    @property
    def open(self) -> bool:
        """False once no event will come any more."""
        ...

    def poll(self) -> Event | None:
        """Return the next event of this input, or None; never blocks."""
        ...

    def ready(self) -> bool:
        """Return whether `poll` would return an event."""
        ...

    def wake_at(self) -> int | None:
        """Return when to poll again even if nothing arrives (monotonic nanoseconds)."""
        ...

    def source_closed(self) -> None:
        """Handle the end of the source; `InputClosed` follows the last message."""
        ...

    def source_back(self, node_id: str) -> bool:
        """Handle the restart of a node; return True if its end had closed this input, which now reopens."""
        ...

    def stop(self) -> None:
        """Deliver only what is buffered until now."""
        ...

    def detach(self) -> None:
        """Deliver only what was sent until now, then `InputClosed`."""
        ...

    def count_as_dropped(self) -> None:
        """Count a message that was polled here, and dropped before its delivery."""
        ...

    def close(self) -> None: ...


class WrappingInput(ABC):
    """A port that takes its events from another port of the same input; the rest is left to that port.

    A subclass that holds events of its own answers for them: in `open`, `ready`, `close` and `poll`.
    """

    def __init__(self, port: InputPort) -> None:
        self.id: str = port.id
        self.is_data: bool = port.is_data
        self._port = port

    @abstractmethod
    def poll(self) -> Event | None: ...

    @property
    def detached(self) -> bool:
        return self._port.detached

    @property
    def open(self) -> bool:
        return self._port.open

    @property
    def taken(self) -> int:
        """The number of the last value from an operator of the same process, else 0."""
        return getattr(self._port, "taken", 0)

    def ready(self) -> bool:
        return self._port.ready()

    def wake_at(self) -> int | None:
        return self._port.wake_at()

    def source_closed(self) -> None:
        self._port.source_closed()

    def source_back(self, node_id: str) -> bool:
        return self._port.source_back(node_id)

    def stop(self) -> None:
        self._port.stop()

    def detach(self) -> None:
        self._port.detach()

    def count_as_dropped(self) -> None:
        self._port.count_as_dropped()

    def close(self) -> None:
        self._port.close()
