"""Frames between a command and the daemon of a running dataflow, on the same socket as nodes use.

A connection whose first frame is one of these asks, and is answered frame by frame; it is no node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dora.wire.control import ToDaemon
from dora.wire.inspection import Inspection


class Describe(msgspec.Struct, tag=True):
    """Which dataflow is this? Answered by `Description`."""


class AskParameters(msgspec.Struct, tag=True):
    """Answered by `Parameters`."""

    node_id: str


class SetParameter(msgspec.Struct, tag=True):
    """Answered by `Done`."""

    node_id: str
    key: str
    value: Any


class DeleteParameter(msgspec.Struct, tag=True):
    """Answered by `Done`."""

    node_id: str
    key: str


class Inspect(msgspec.Struct, tag=True):
    """How is the dataflow made, and how are its nodes? Answered by `Inspection`."""


class BeginTaps(msgspec.Struct, tag=True):
    """Before a command attaches taps to outputs, which are named by their lines on the board.

    Answered by `Noted`, or `Declined` where there are too many. What a command leaves behind whose
    connection ends without `EndTaps` is cleaned up by the daemon.
    """

    slots: list[int]


class EndTaps(msgspec.Struct, tag=True):
    """All taps are closed. Answered by `Noted`."""


class Publish(msgspec.Struct, tag=True):
    """Let a node send a message, as `dora.wire.message` lays it out. Answered by `Noted`."""

    node_id: str
    output: str
    message: bytes


Request = (
    Describe | AskParameters | SetParameter | DeleteParameter | Inspect | BeginTaps | EndTaps | Publish
)


class Description(msgspec.Struct, tag=True):
    dataflow_id: str
    file: str | None  # absolute path of the dataflow file
    nodes: list[str]
    name: str = ""  # given at the start; "": that of the file


class Parameters(msgspec.Struct, tag=True):
    values: dict[str, Any]


class Done(msgspec.Struct, tag=True):
    """``running``: a process of the node has been told; else the next one will be."""

    running: bool


class Noted(msgspec.Struct, tag=True):
    """It is done."""


class Declined(msgspec.Struct, tag=True):
    """The request cannot be fulfilled; ``reason`` is a sentence for the user."""

    reason: str


Answer = Description | Parameters | Done | Inspection | Noted | Declined

# What comes to a daemon: from nodes, and from commands.
decode_to_daemon: Callable[[bytes], ToDaemon | Request] = msgspec.msgpack.Decoder(ToDaemon | Request).decode
decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode
