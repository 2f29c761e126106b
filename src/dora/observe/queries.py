"""Queries about a running dataflow, and their results.

`dora.observe.observer` answers them in this process, `dora.observe.remote` on another machine; commands and
pages ask the same queries and get the same results either way.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dora.observe.rates import MeasuredRate
from dora.observe.snapshot import Snapshot
from dora.wire.daemon_protocol import GraphText

RATES_EVERY: Final = 0.5  # seconds between two results of a `RateQuery`


class EchoQuery(msgspec.Struct, frozen=True, tag=True):
    """Show each message as a `Line`; ``full`` shows long arrays and texts with all values."""

    topics: list[str]
    full: bool = False
    as_json: bool = False


class RateQuery(msgspec.Struct, frozen=True, tag=True):
    """Measure how often messages are sent, over a window of seconds; the results are `Rates`."""

    topics: list[str]
    window: float


class InfoQuery(msgspec.Struct, frozen=True, tag=True):
    """Observe a topic for that many seconds, then describe it in a `TextResult`."""

    topic: str
    seconds: float


class SnapshotQuery(msgspec.Struct, frozen=True, tag=True):
    """Return the state of all nodes and links as `Snapshot`, every so many seconds.

    ``latency`` measures on all links. ``previews`` are topics of which `Preview`s come as well. ``graph``
    is for a page: a `GraphText` and a first snapshot come at once, and a graph again whenever nodes or
    links have come or gone. While the query runs, a later one of the same client replaces it.
    """

    every: float
    latency: bool = False
    previews: tuple[str, ...] = ()
    graph: bool = False


class MessageQuery(msgspec.Struct, frozen=True, tag=True):
    """Pass on the messages of topics as they are, each as a `MessageCopy`.

    For a viewer: of a fast or large topic only the newest ones come. While the query runs, a later one of
    the same client replaces it.
    """

    topics: tuple[str, ...]


TopicQuery = EchoQuery | RateQuery | InfoQuery
ReplaceableQuery = SnapshotQuery | MessageQuery


class QueryBegun(msgspec.Struct, frozen=True, tag=True):
    """The taps are in place."""


class Line(msgspec.Struct, frozen=True, tag=True):
    """One message of a topic as text."""

    topic: str
    text: str


class Rates(msgspec.Struct, frozen=True, tag=True):
    """The rate of each topic; None for fewer than two messages."""

    rates: dict[str, MeasuredRate | None]


class TextResult(msgspec.Struct, frozen=True, tag=True):
    """The text that `InfoQuery` asked for."""

    text: str


class Preview(msgspec.Struct, frozen=True, tag=True):
    """A preview of a topic: a JSON object, and the bytes of an image or of points, if any.

    ``adds``: it continues the preview before, like a curve; otherwise it replaces it.
    """

    topic: str
    head: bytes
    body: bytes = b""
    adds: bool = False


class MessageCopy(msgspec.Struct, frozen=True, tag=True):
    """A message of a topic in the layout of `dora.wire.message`; ``size`` is its bytes.

    ``data`` is empty if the message is too large to come from another machine.
    """

    topic: str
    size: int
    data: bytes = b""


SnapshotResult = Snapshot | GraphText | Preview
Result = QueryBegun | Line | Rates | TextResult | SnapshotResult | MessageCopy
