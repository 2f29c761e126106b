"""Protocol between the dashboard's server and the process that watches a dataflow for it.

Frames on two pipes: four bytes of length, then msgpack. Data for browsers is JSON already, so the server
passes it on. Only snapshots are not, because the server merges the ones of several machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.observe.queries import SnapshotQuery, SnapshotResult
from dora.wire.decoders import msgpack_decoder

MAX_FRAME: Final = 32 << 20  # bytes; previews are far smaller
SNAPSHOT_EVERY: Final = 1.0  # seconds, on a page


def page_query(previews: tuple[str, ...] = (), *, latency: bool = False) -> SnapshotQuery:
    """Return the query of a page that shows previews of these topics."""
    return SnapshotQuery(SNAPSHOT_EVERY, latency, previews, graph=True)


class Target(msgspec.Struct, frozen=True, tag=True):
    """The dataflow to watch; the first frame. ``socket`` "": it has ended, and only its logs are left.

    ``elsewhere`` are the other machines on which it runs; they may change.
    """

    dataflow_id: str
    socket: str
    log_directory: str
    elsewhere: tuple[str, ...] = ()


class Search(msgspec.Struct, frozen=True, tag="search"):
    """Search the whole log for the last entries that match; `Found` answers it. Pages send it, too."""

    ticket: int
    node: str = ""
    level: str = "stdout"
    text: str = ""


ToWatcher = Target | SnapshotQuery | Search


class Lines(msgspec.Struct, frozen=True, tag=True):
    """New log entries, each as JSON; ``skipped`` were too many to be shown."""

    entries: list[bytes]
    skipped: int = 0


class Found(msgspec.Struct, frozen=True, tag=True):
    ticket: int
    entries: list[bytes]
    total: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The dataflow has ended; this is the last message."""


FromWatcher = SnapshotResult | Lines | Found | Ended

_encoder = msgspec.msgpack.Encoder()
decode_to_watcher: Callable[[bytes], ToWatcher] = msgpack_decoder(ToWatcher)
decode_from_watcher: Callable[[bytes], FromWatcher] = msgpack_decoder(FromWatcher)


def frame(message: Any) -> bytes:
    """Return the bytes of a message on a pipe."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "little") + body
