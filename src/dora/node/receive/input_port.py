"""The interface of the ports of an inbox: one per input, whatever its source."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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


@runtime_checkable
class LinkPort(InputPort, Protocol):
    """The port of an input that a link feeds."""

    def count_as_dropped(self) -> None:
        """Count a message that was polled here, and dropped before its delivery."""
        ...
