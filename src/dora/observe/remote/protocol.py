"""Protocol between a remote client and the observer process that serves it (msgpack).

The process runs on the machine of the nodes. It runs the one query that the client sends; a later
`SnapshotQuery` or `MessageQuery` replaces the one of its kind that runs. It sends a delivery only after
`DeliveryTaken`: results that newer ones have replaced by then are never sent, and nothing piles up on the
way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dora.observe.queries import ReplaceableQuery, Result, TopicQuery
from dora.wire.decoders import msgpack_decoder

MAX_DELIVERY: Final = 8 << 20  # bytes; an image that is passed on unchanged may have four million

# ----------------------------------------------------------------------- to the process


class StartMessage(msgspec.Struct, frozen=True):
    """The daemon's message to the process that it starts: one line of JSON on standard input.

    It names the dataflow to observe, and where the client waits.
    """

    url: str  # ws://…, with TLS as well
    token: str
    socket: str  # of the dataflow
    machine: str
    authority: str = ""  # of the coordinator, see `dora.transport.proof.proven_connection`


class DeliveryTaken(msgspec.Struct, frozen=True, tag=True):
    """The client has processed the last delivery."""


class EndQuery(msgspec.Struct, frozen=True, tag=True):
    """End the query; `QueryEnded` answers it."""


Query = TopicQuery | ReplaceableQuery
ToProcess = Query | DeliveryTaken | EndQuery

# ----------------------------------------------------------------------- from the process


class QueryEnded(msgspec.Struct, frozen=True, tag=True):
    """The last message. ``fault``: why the query ended too early; ``ended``: the dataflow has ended.

    ``missed`` is topic → messages that were not seen, and that were.
    """

    fault: str = ""
    ended: bool = False
    missed: dict[str, tuple[int, int]] = {}


Item = Result | QueryEnded

encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
decode_to_process: Callable[[bytes], ToProcess] = msgpack_decoder(ToProcess)
decode_delivery: Callable[[bytes], list[Item]] = msgpack_decoder(list[Item])
