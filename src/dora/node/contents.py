"""The contents of events that are no message: the tick of a timer, and a line of text."""

from __future__ import annotations

from typing import Any, ClassVar


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
