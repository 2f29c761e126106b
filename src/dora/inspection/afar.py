"""What somebody who looks from afar and the process that looks for him say to each other, as msgpack.

The process runs on the machine of the nodes. It answers questions, as the daemon of the dataflow does, and
then does one look, if one is wanted. It sends a delivery only after `More`: so what is outdated by the time
that somebody has room for it is never sent, and nothing piles up on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.inspection.beat import Beat
from dora.inspection.counters import LinkRate
from dora.inspection.overview import NodeGlance
from dora.wire.decoders import msgpack_decoder
from dora.wire.inspection import Inspection
from dora.wire.requests import (
    Answer,
    AskGraph,
    AskParameters,
    DeleteParameter,
    Describe,
    Inspect,
    Publish,
    RestartNode,
    SetParameter,
    StopNode,
)

MAX_DELIVERY: Final = 8 << 20  # bytes; a picture that is passed on as it is may have four million
MOST_FULL: Final = 256 << 10  # bytes of a message that is shown with all its values

Question = (
    Describe
    | Inspect
    | AskGraph
    | AskParameters
    | SetParameter
    | DeleteParameter
    | Publish
    | StopNode
    | RestartNode
)


# ----------------------------------------------------------------------- to the process


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Answered by `Told` with the same ticket. During a look, only a dashboard asks."""

    question: Question
    ticket: int = 0


class EchoLook(msgspec.Struct, frozen=True, tag=True):
    """Show messages, as `Line` each; ``full`` those up to `MOST_FULL` with all values."""

    topics: list[str]
    full: bool = False
    as_json: bool = False


class BeatLook(msgspec.Struct, frozen=True, tag=True):
    """Measure how often messages are sent, over a window of seconds; told by `Beats`."""

    topics: list[str]
    window: float


class InfoLook(msgspec.Struct, frozen=True, tag=True):
    """Describe a topic, after a look of so many seconds; told by `Text`."""

    topic: str
    seconds: float


class GlanceLook(msgspec.Struct, frozen=True, tag=True):
    """Tell every so many seconds how nodes and links are, by `Glances`."""

    every: float
    latency: bool = False


class PageLook(msgspec.Struct, frozen=True, tag=True):
    """Watch for a dashboard, which speaks of it in `Frame`, both ways."""


class Frame(msgspec.Struct, frozen=True, tag=True):
    """What the dashboard's server and its watcher say to each other (`dora.dashboard.frames`)."""

    body: bytes


class More(msgspec.Struct, frozen=True, tag=True):
    """The last delivery is done with."""


class Enough(msgspec.Struct, frozen=True, tag=True):
    """End the look; answered by `Over`."""


Look = EchoLook | BeatLook | InfoLook | GlanceLook | PageLook
ToProcess = Ask | Look | Frame | More | Enough

# ----------------------------------------------------------------------- from the process


class Told(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Ask`; a text is why there is none."""

    answer: Answer | None
    fault: str = ""
    ticket: int = 0


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The taps are there."""


class Line(msgspec.Struct, frozen=True, tag=True):
    topic: str
    text: str


class Beats(msgspec.Struct, frozen=True, tag=True):
    beats: dict[str, Beat | None]  # by topic


class Text(msgspec.Struct, frozen=True, tag=True):
    text: str


class Glances(msgspec.Struct, frozen=True, tag=True):
    inspection: Inspection
    nodes: list[NodeGlance]
    links: list[LinkRate]


class Over(msgspec.Struct, frozen=True, tag=True):
    """The last word. ``fault``: why it ended before its time; ``ended``: because the dataflow has.

    ``missed`` is topic → messages that were not seen, and that were.
    """

    fault: str = ""
    ended: bool = False
    missed: dict[str, tuple[int, int]] = {}


Item = Told | Begun | Line | Beats | Text | Glances | Frame | Over

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
decode_to_process: Callable[[bytes], ToProcess] = msgpack_decoder(ToProcess)
decode_delivery: Callable[[bytes], list[Item]] = msgpack_decoder(list[Item])
