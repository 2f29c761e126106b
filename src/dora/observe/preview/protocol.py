"""Protocol between the dashboard's server and the process that watches a dataflow for it.

Frames on two pipes: four bytes of length, then msgpack. Data for browsers is JSON already, so the server
passes it on. Only states are not, because the server merges states of several machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.observe.snapshot import Snapshot
from dora.wire.decoders import msgpack_decoder

MAX_FRAME: Final = 32 << 20  # bytes; previews are far smaller


class Target(msgspec.Struct, frozen=True, tag=True):
    """The dataflow to watch; the first frame. ``socket`` "": it has ended, and only its logs are left.

    ``elsewhere`` are the other machines on which it runs; they may change.
    """

    dataflow_id: str
    socket: str
    log_directory: str
    elsewhere: tuple[str, ...] = ()


class PageQuery(msgspec.Struct, frozen=True, tag=True):
    """Show the dataflow on a page; each result is a `PageResult`. `PreviewsWanted` chooses the previews."""


class PreviewsWanted(msgspec.Struct, frozen=True, tag=True):
    """The needs of browsers from now on: previews of topics, and latencies of all links."""

    topics: tuple[str, ...] = ()
    latency: bool = False


class Search(msgspec.Struct, frozen=True, tag=True):
    """Search the whole log for the last entries that match; `Found` answers it."""

    ticket: int
    node: str = ""
    level: str = "stdout"
    text: str = ""
    limit: int = 1000


ToWatcher = Target | PreviewsWanted | Search


class DataflowGraph(msgspec.Struct, frozen=True, tag=True):
    """The graph, as JSON; again whenever it has changed."""

    graph: bytes


class State(msgspec.Struct, frozen=True, tag=True):
    """The current state of nodes and links; ``trouble`` says why there are no previews."""

    snapshot: Snapshot
    trouble: str = ""


class Lines(msgspec.Struct, frozen=True, tag=True):
    """New log entries, each as JSON; ``skipped`` were too many to be shown."""

    entries: list[bytes]
    skipped: int = 0


class Preview(msgspec.Struct, frozen=True, tag=True):
    """A preview of a topic: a JSON object, and the bytes of an image or of points, if any.

    ``adds``: it continues the preview before, like a curve; otherwise it replaces it.
    """

    topic: str
    head: bytes
    body: bytes = b""
    adds: bool = False


PageResult = DataflowGraph | State | Preview


class Found(msgspec.Struct, frozen=True, tag=True):
    ticket: int
    entries: list[bytes]
    total: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The dataflow has ended; this is the last message."""


FromWatcher = PageResult | Lines | Found | Ended

_encoder = msgspec.msgpack.Encoder()
decode_to_watcher: Callable[[bytes], ToWatcher] = msgpack_decoder(ToWatcher)
decode_from_watcher: Callable[[bytes], FromWatcher] = msgpack_decoder(FromWatcher)


def frame(message: Any) -> bytes:
    """Return the bytes of a message on a pipe."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "little") + body
