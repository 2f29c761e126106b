"""The interface of the ports of an inbox, and the base of the layers that wrap a port.

`dora.node.receive.stack` puts the layers of an input together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from dora.node.events import Event


class InputPort:
    """One input of a node.

    An inbox polls ports, and tells all of them what has happened. A port does nothing about what does not
    concern it. So the inbox never asks what feeds an input, and a new kind of port changes no other one.
    """

    id: str
    open: bool  # False once no event will come any more
    detached: bool  # disconnected: the port closes after the messages sent before, and is dropped then
    is_data = True  # False for timers: a node with timers alone has no work left
    layer = "source"  # the place in the stack of an input, see `dora.node.receive.stack`
    taken = 0  # the number of the last value from an operator of the same process
    holds = False  # it has to `dispatch` while a thread waits for something else than an event

    # ------------------------------------------------------------------ events

    def poll(self) -> Event | None:
        """Return the next event of this input, or None; never blocks."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Return whether `poll` would return an event, such as a closing, as far as that is known without
        `look_ahead`."""
        raise NotImplementedError

    def look_ahead(self) -> None:
        """Find out whether there is an event; the caller holds the inbox.

        Ports that leave messages out have to take them for that.
        """

    def wake_at(self) -> int | None:
        """Return when to poll again even if nothing arrives (monotonic nanoseconds)."""
        return None

    def close(self) -> None:
        """Give out no more events; the sender learns that nobody receives."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what has happened

    def source_closed(self) -> None:
        """Handle the end of the source; `InputClosed` follows the last message."""

    def source_back(self, node_id: str) -> bool:  # noqa: ARG002
        """Handle the restart of a node; return True if its end had closed this input, which now reopens."""
        return False

    def source_failed(self) -> None:
        """Handle that the source has failed; its end is reported apart from that."""

    def stop(self) -> None:
        """Deliver only what is buffered until now."""

    def detach(self) -> None:
        """Deliver only what was sent until now, then `InputClosed`."""

    def release(self) -> None:
        """Leave the link to the process that takes over from this one."""

    def check_flush(self) -> None:
        """Look whether the sender has flushed: then older messages are skipped."""

    def put_text(self, text: str) -> None:
        """Take a line that the daemon delivers."""

    def dispatch(self) -> None:
        """Handle the events that have arrived, and hold those that are for the program."""

    def count_as_dropped(self) -> None:
        """Count a message that was polled here, and dropped before its delivery."""

    # ------------------------------------------------------------------ what it knows

    def find(self, layer: str) -> InputPort | None:
        """Return a layer of this stack, None if it does not have it."""
        return self if self.layer == layer else None

    def has_newer(self) -> bool:
        """Return whether a newer message than the last one was sent."""
        return False

    def awaits_rest(self) -> bool:
        """Return whether a message may still come after a stop, although `poll` has found none.

        It is about to come and the process that takes over does not get it, or `poll` left out so many.
        """
        return False

    def tick_statistics(self) -> dict[str, Any]:
        """Return how punctual the ticks of a timer were; empty for other inputs."""
        return {}


class WrappingInput(InputPort):
    """A layer: a port that takes its events from another port of the same input.

    It passes on what it is told. ``_next`` are events that it holds, to be given out before anything else;
    `poll` of a subclass does so. ``_has_more``: the last poll stopped at a limit, so more may wait, and
    nobody rings; then the inbox polls again at once.
    """

    def __init__(self, port: InputPort) -> None:
        self.id = port.id
        self.is_data = port.is_data
        self._port = port
        self._next: deque[Event] = deque()
        self._has_more = False

    def put_below(self, wrap: Callable[[InputPort], InputPort]) -> None:
        """Put layers between this one and the port below it."""
        self._port = wrap(self._port)

    @property
    def open(self) -> bool:  # type: ignore[override]  # nobody opens a port from outside
        return bool(self._next) or self._port.open

    @property
    def detached(self) -> bool:  # type: ignore[override]
        return self._port.detached

    @property
    def taken(self) -> int:  # type: ignore[override]
        return self._port.taken

    def ready(self) -> bool:
        return bool(self._next) or self._port.ready()

    def look_ahead(self) -> None:
        self._port.look_ahead()

    def wake_at(self) -> int | None:
        return 0 if self._has_more else self._port.wake_at()

    def close(self) -> None:
        self._next.clear()
        self._has_more = False
        self._port.close()

    def source_closed(self) -> None:
        self._port.source_closed()

    def source_back(self, node_id: str) -> bool:
        return self._port.source_back(node_id)

    def source_failed(self) -> None:
        self._port.source_failed()

    def stop(self) -> None:
        self._port.stop()

    def detach(self) -> None:
        self._port.detach()

    def release(self) -> None:
        self._port.release()

    def check_flush(self) -> None:
        self._port.check_flush()

    def put_text(self, text: str) -> None:
        self._port.put_text(text)

    def count_as_dropped(self) -> None:
        self._port.count_as_dropped()

    def find(self, layer: str) -> InputPort | None:
        return self if self.layer == layer else self._port.find(layer)

    def has_newer(self) -> bool:
        return self._port.has_newer()

    def awaits_rest(self) -> bool:
        return self._has_more or self._port.awaits_rest()

    def tick_statistics(self) -> dict[str, Any]:
        return self._port.tick_statistics()
