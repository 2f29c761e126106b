"""Events from outside the dataflow, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dora.node.events import Event


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
