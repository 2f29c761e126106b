"""Input port."""

from __future__ import annotations

from typing import Protocol

from dora.node.events import Event


class InputPort(Protocol):
    id: str
    is_data: bool  # False for timers, which are a clock and not work

    @property
    def detached(self) -> bool:
        """Whether it was disconnected: it closes after what was sent before, and is gone then."""
        ...

    @property
    def open(self) -> bool:
        """False: nothing will ever come again."""
        ...

    def poll(self) -> Event | None:
        """Return the next event of this input, or None; never blocks."""
        ...

    def ready(self) -> bool:
        """Tell whether `poll` would return an event."""
        ...

    def wake_at(self) -> int | None:
        """Return when to poll again even if nothing arrives (monotonic nanoseconds)."""
        ...

    def source_closed(self) -> None:
        """Note that the source will send nothing more; `InputClosed` follows the last message."""
        ...

    def source_back(self, node_id: str) -> bool:
        """Note that a node has come back; True if this input was closed by its end and opens again."""
        ...

    def stop(self) -> None:
        """Deliver only what is buffered by now."""
        ...

    def detach(self) -> None:
        """Deliver only what was sent by now, then `InputClosed`."""
        ...

    def close(self) -> None: ...
