"""What somebody who looks from afar and the process that looks for him say to each other, as msgpack.

The process runs on the machine of the nodes. It answers questions, as the daemon of the dataflow does, and
then does one look, if one is wanted. It sends a delivery only after `More`: so what is outdated by the time
that somebody has room for it is never sent, and nothing piles up on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.observe.rates import LinkRate, MeasuredRate
from dora.observe.snapshot import NodeSnapshot
from dora.wire.daemon_protocol import (
    Answer,
    DeleteParameter,
    DescribeDataflow,
    GetGraph,
    GetParameters,
    Inspect,
    Inspection,
    Publish,
    RestartNode,
    SetParameter,
    StopNode,
)
from dora.wire.decoders import msgpack_decoder

MAX_DELIVERY: Final = 8 << 20  # bytes; a picture that is passed on as it is may have four million
MOST_FULL: Final = 256 << 10  # bytes of a message that is shown with all its values

Question = (
    DescribeDataflow
    | Inspect
    | GetGraph
    | GetParameters
    | SetParameter
    | DeleteParameter
    | Publish
    | StopNode
    | RestartNode
)


# ----------------------------------------------------------------------- to the process


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Answered by `QueryStatus` with the same ticket. During a look, only a dashboard asks."""

    question: Question
    ticket: int = 0


class EchoQuery(msgspec.Struct, frozen=True, tag=True):
    """Show messages, as `Line` each; ``full`` those up to `MOST_FULL` with all values."""

    topics: list[str]
    full: bool = False
    as_json: bool = False


class RateQuery(msgspec.Struct, frozen=True, tag=True):
    """Measure how often messages are sent, over a window of seconds; told by `Rates`."""

    topics: list[str]
    window: float


class InfoQuery(msgspec.Struct, frozen=True, tag=True):
    """Describe a topic, after a look of so many seconds; told by `TextResult`."""

    topic: str
    seconds: float


class SnapshotQuery(msgspec.Struct, frozen=True, tag=True):
    """Tell every so many seconds how nodes and links are, by `Snapshots`."""

    every: float
    latency: bool = False


class PageQuery(msgspec.Struct, frozen=True, tag=True):
    """Watch for a dashboard, which speaks of it in `Frame`, both ways."""


class Frame(msgspec.Struct, frozen=True, tag=True):
    """What the dashboard's server and its watcher say to each other (`dora.observe.preview.protocol`)."""

    body: bytes


class More(msgspec.Struct, frozen=True, tag=True):
    """The last delivery is done with."""


class Enough(msgspec.Struct, frozen=True, tag=True):
    """End the look; answered by `QueryEnded`."""


Query = EchoQuery | RateQuery | InfoQuery | SnapshotQuery | PageQuery
ToProcess = Ask | Query | Frame | More | Enough

# ----------------------------------------------------------------------- from the process


class QueryStatus(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Ask`; a text is why there is none."""

    answer: Answer | None
    fault: str = ""
    ticket: int = 0


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The taps are there."""


class Line(msgspec.Struct, frozen=True, tag=True):
    topic: str
    text: str


class Rates(msgspec.Struct, frozen=True, tag=True):
    beats: dict[str, MeasuredRate | None]  # by topic


class TextResult(msgspec.Struct, frozen=True, tag=True):
    text: str


class Snapshots(msgspec.Struct, frozen=True, tag=True):
    inspection: Inspection
    nodes: list[NodeSnapshot]
    links: list[LinkRate]


class QueryEnded(msgspec.Struct, frozen=True, tag=True):
    """The last word. ``fault``: why it ended before its time; ``ended``: because the dataflow has.

    ``missed`` is topic → messages that were not seen, and that were.
    """

    fault: str = ""
    ended: bool = False
    missed: dict[str, tuple[int, int]] = {}


Item = QueryStatus | Begun | Line | Rates | TextResult | Snapshots | Frame | QueryEnded

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
decode_to_process: Callable[[bytes], ToProcess] = msgpack_decoder(ToProcess)
decode_delivery: Callable[[bytes], list[Item]] = msgpack_decoder(list[Item])
