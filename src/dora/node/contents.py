"""The contents of events that are no message: a tick, a line of text, and a value of the same process."""

from __future__ import annotations

from typing import Any, ClassVar

from dora.wire.decode import storage_of
from dora.wire.message import Header


class Tick:
    """The content of a timer's event: an empty Null array.

    ``missed``: the ticks before it for which there was no event, where the input asks for their number.
    """

    __slots__ = ("missed", "time_ns")
    header: ClassVar[None] = None  # a tick is no origin: what is sent after it is one
    trail: ClassVar[bytes] = b""

    def __init__(self, time_ns: int, missed: int = 0) -> None:
        self.time_ns = time_ns
        self.missed = missed

    def value(self) -> Any:
        import pyarrow as pa

        return pa.nulls(0)

    def metadata(self) -> dict[str, Any]:
        return {"missed_ticks": self.missed} if self.missed else {}


class Text:
    """The content of a log entry or captured line: a string array of length 1."""

    __slots__ = ("text", "time_ns")
    header: ClassVar[None] = None
    trail: ClassVar[bytes] = b""

    def __init__(self, text: str, time_ns: int) -> None:
        self.text = text
        self.time_ns = time_ns

    def value(self) -> Any:
        import pyarrow as pa

        return pa.array([self.text])

    def metadata(self) -> dict[str, Any]:
        return {}


def _own(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata that its consumer may change, with the lists in it."""
    own = metadata.copy()
    for key, value in metadata.items():
        if value.__class__ is list:
            own[key] = value.copy()
    return own


class Reference:
    """A value passed by reference between operators of one runtime."""

    __slots__ = ("_metadata", "_shared", "_value", "header", "original", "time_ns", "trail")

    def __init__(
        self,
        value: Any,
        metadata: dict[str, Any],
        time_ns: int,
        shared: bool = True,
        trailed: tuple[Header | None, bytes] = (None, b""),
    ) -> None:
        """``shared``: there may be several consumers. ``trailed``: see `dora.wire.trail`."""
        self.header, self.trail = trailed
        self._value = storage_of(value)
        self.original = value
        self._metadata = metadata
        self._shared = shared
        self.time_ns = time_ns

    def value(self) -> Any:
        return self._value

    def metadata(self) -> dict[str, Any]:
        # Each consumer may change its dictionary.
        return _own(self._metadata)

    def entries(self) -> dict[str, Any]:
        """Return the entries of an event that are there already.

        To store them costs less than to be asked for them later.
        """
        metadata = self._metadata
        if "timestamp" not in metadata:
            return {"value": self._value}
        return {"value": self._value, "metadata": _own(metadata) if self._shared else metadata}
