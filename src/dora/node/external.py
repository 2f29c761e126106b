"""Events from outside the dataflow, and where they come from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dora.node.events import Event
from dora.node.receive.input_port import InputPort


class External(Event):
    """Something from a source outside the dataflow, see `Node.merge_external_events`.

    ``value``: what the source gives; of a ROS 2 subscription a ``pyarrow.StructArray`` of one row.
    ``event["kind"]`` is ``"external"``.
    """

    __slots__ = ()
    __match_args__ = ("value",)
    kind: ClassVar[str] = "external"
    type: ClassVar[str] = "EXTERNAL"
    if TYPE_CHECKING:
        value: Any

    def __init__(self, value: Any) -> None:
        super().__init__(value=value)


class ExternalSource(Protocol):
    """The interface of what `Node.merge_external_events` takes, such as a `Ros2Subscription`."""

    def next(self, timeout: float | None = None) -> Any:
        """Return the oldest value, after at most ``timeout`` seconds; None if there is none."""

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        """Set what any thread calls after each arrival, and at once if a value is here."""


class ExternalInput(InputPort):
    """A port that takes from such a source. It does not keep the stream of events open."""

    is_data = False
    detached = False

    def __init__(self, source: ExternalSource, port_id: str, wake: Callable[[], None]) -> None:
        self.id = port_id
        self.open = True
        self._source = source
        self._held: deque[Any] = deque()  # taken by `look_ahead`, or before a stop
        self._stopped = False
        source.set_on_message(wake)

    def poll(self) -> Event | None:
        if self._held:
            return External(self._held.popleft())
        if self._stopped:
            return None
        value = self._source.next(0)
        return None if value is None else External(value)

    def ready(self) -> bool:
        return bool(self._held)

    def look_ahead(self) -> None:
        if not self._held and not self._stopped:
            self._take()

    def _take(self) -> bool:
        value = self._source.next(0)
        if value is not None:
            self._held.append(value)
        return value is not None

    def stop(self) -> None:
        """Keep what is here; a source that goes on must not delay the end."""
        if not self._stopped:
            for _ in range(_MAX_AT_STOP):
                if not self._take():
                    break
            self._end()

    def close(self) -> None:
        self.open = False
        self._held.clear()
        self._end()

    def _end(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._source.set_on_message(None)


_MAX_AT_STOP = 1000
"""Values that are still delivered after a stop: a fast source fills its queue while it is emptied."""
