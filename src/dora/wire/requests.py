"""Frames between a command and the daemon of a running dataflow, on the same socket as nodes use.

A connection whose first frame is one of these asks, and is answered frame by frame; it is no node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


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


Request = Describe | AskParameters | SetParameter | DeleteParameter


class Description(msgspec.Struct, tag=True):
    dataflow_id: str
    file: str | None  # absolute path of the dataflow file
    nodes: list[str]


class Parameters(msgspec.Struct, tag=True):
    values: dict[str, Any]


class Done(msgspec.Struct, tag=True):
    """``running``: a process of the node has been told; else the next one will be."""

    running: bool


class Declined(msgspec.Struct, tag=True):
    """The request cannot be fulfilled; ``reason`` is a sentence for the user."""

    reason: str


Answer = Description | Parameters | Done | Declined

decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode
