"""What the inbox knows of its interceptors, which watch what a node receives and sends."""

from __future__ import annotations

from typing import Protocol


class EventLog(Protocol):
    """Writes down the order of events; see `dora.node.interceptors.event_log`."""

    def write_to(self, path: str) -> None:
        """Begin with one more file."""

    def end(self, path: str) -> None:
        """Write no more to a file."""

    def close(self) -> None:
        """Write no more at all."""

    def timed_out(self) -> None:
        """Add that a wait ended without an event."""

    def looked_in_vain(self) -> None:
        """Add that the program asked for an event, without waiting, and there was none."""
