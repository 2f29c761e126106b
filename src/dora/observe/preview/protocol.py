"""What the server of the dashboard and the process that watches a dataflow for it say to each other.

Frames on two pipes: four bytes of length, then msgpack. What comes from the watcher and is meant for
browsers is JSON already, so the server passes it on without looking inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.wire.decoders import msgpack_decoder

MAX_FRAME: Final = 32 << 20  # bytes; previews are far smaller


class Target(msgspec.Struct, frozen=True, tag=True):
    """What to watch; the first frame. ``socket`` "": it has ended, only its logs are there.

    ``elsewhere`` are the other machines on which it runs, which may become others.
    """

    dataflow_id: str
    socket: str
    log_directory: str
    elsewhere: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True, tag=True):
    """What browsers want to see from now on: previews of topics, and latencies of all links."""

    topics: tuple[str, ...] = ()
    latency: bool = False


class Search(msgspec.Struct, frozen=True, tag=True):
    """Look through the whole log for the last entries that fit. Answered by `Found`."""

    ticket: int
    node: str = ""
    level: str = "stdout"
    text: str = ""
    limit: int = 1000


ToWatcher = Target | Wanted | Search


class Picture(msgspec.Struct, frozen=True, tag=True):
    """The graph, as JSON; again whenever it has changed."""

    graph: bytes


class State(msgspec.Struct, frozen=True, tag=True):
    """Nodes and links at the moment, as JSON; None of it is about the past."""

    state: bytes


class Lines(msgspec.Struct, frozen=True, tag=True):
    """New log entries, each as JSON; ``skipped`` were too many to be shown."""

    entries: list[bytes]
    skipped: int = 0


class Preview(msgspec.Struct, frozen=True, tag=True):
    """What a topic carries: a JSON object about it, and perhaps bytes of a picture or of points.

    ``adds``: it goes on where the one before ended, as a curve does; else it takes its place.
    """

    topic: str
    head: bytes
    body: bytes = b""
    adds: bool = False


class Found(msgspec.Struct, frozen=True, tag=True):
    ticket: int
    entries: list[bytes]
    total: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The dataflow has ended; nothing comes after this."""


FromWatcher = Picture | State | Lines | Preview | Found | Ended

_encoder = msgspec.msgpack.Encoder()
decode_to_watcher: Callable[[bytes], ToWatcher] = msgpack_decoder(ToWatcher)
decode_from_watcher: Callable[[bytes], FromWatcher] = msgpack_decoder(FromWatcher)


def frame(message: Any) -> bytes:
    """Return the bytes of a message on a pipe."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "little") + body
