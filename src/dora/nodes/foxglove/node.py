"""The node: shows its inputs in Foxglove, and sends what clients publish on its outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from dora import Node
from dora.errors import DoraError
from dora.nodes.foxglove.address import default_address
from dora.nodes.foxglove.channels import ChannelMap
from dora.nodes.foxglove.drawing import time_of
from dora.nodes.foxglove.server import FoxgloveServer, Published, array_of
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata

log: Final = logging.getLogger("dora.nodes.foxglove")
_TURN: Final = 0.05  # seconds between two looks at what clients publish, while no input comes


def run(node: Node) -> None:
    """Show the inputs of a node until the dataflow ends; raises `DoraError` for an address in use."""
    outputs = node.node_config().get("outputs", [])
    name = node.dataflow_descriptor().get("name") or "dora"
    server = FoxgloveServer(name, default_address(), control=bool(outputs))
    log.info("showing at %s", server.address)
    channels = ChannelMap(server.context)
    try:
        while (event := node.next(_TURN if outputs else None)) is not None:
            if event["type"] == "INPUT":
                channels.show(event["id"], _message(event["value"], event["metadata"]))
            for request in server.take_requests():
                if isinstance(request, Published):
                    _send(node, outputs, request, server)
    finally:
        channels.close()
        server.close()
    for topic, count in channels.not_drawn.items():
        log.warning("input `%s`: %d messages were shown as plain values", topic, count)


def _message(value: pa.Array[Any], metadata: Mapping[str, Any]) -> Message:
    """Return an input as a message; its time is its ``timestamp``."""
    payload = encode(value)
    section = encode_metadata(dict(metadata))
    head = pack_head(payload.encoding, payload.schema, section, payload.size, 0, time_of(metadata))
    return Message(head + payload.to_bytes())


def _send(node: Node, outputs: list[str], request: Published, server: FoxgloveServer) -> None:
    output = request.topic.removeprefix("/")
    try:
        if output not in outputs:
            raise DoraError(f"`{request.topic}` is no output of this node; it has {', '.join(outputs)}")
        node.send_output(output, array_of(request))
    except DoraError as error:
        log.warning("%s", error)
        server.warn(str(error))
