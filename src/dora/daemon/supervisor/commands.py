"""Commands of the `Supervisor`, which the daemon carries out in their order."""

from __future__ import annotations

from typing import Any

import msgspec

from dora.dataflow.model import Dataflow, LogLevel
from dora.wire import daemon_protocol
from dora.wire.counters import NodeCounter
from dora.wire.journal import MarkKind
from dora.wire.node_protocol import ToNode


class Spawn(msgspec.Struct, frozen=True):
    """Start the process of a node; answer with `Spawned` or `SpawnFailed`."""

    node_id: str
    restart_count: int
    incarnation: int


class SpawnReplacement(msgspec.Struct, frozen=True):
    """Start a second process of a node, with its new code; answer with `ReplacementEnded` if it ends.

    ``dataflow`` holds the node's new program; None: the running dataflow.
    """

    node_id: str
    incarnation: int
    dataflow: Dataflow | None = None


class PromoteReplacement(msgspec.Struct, frozen=True):
    """The node's process has ended; its replacement is the node's process from now on.

    Answer with `Ready` if the replacement was ready before.
    """

    node_id: str
    restart_count: int


class DropReplacement(msgspec.Struct, frozen=True):
    """Kill the replacement of a node's process; its end is not awaited."""

    node_id: str


class Admit(msgspec.Struct, frozen=True):
    """Answer a registration with the node's configuration; the connection is the node's from now on."""

    connection: int
    node_id: str
    restart_count: int
    parameters: dict[str, Any] = {}


class AdmitReplacement(msgspec.Struct, frozen=True):
    """Answer the registration of a replacement with its configuration: it prepares, then it is held.

    Answer with `ReplacementReady`. ``dataflow`` as in `SpawnReplacement`.
    """

    connection: int
    node_id: str
    restart_count: int
    parameters: dict[str, Any] = {}
    dataflow: Dataflow | None = None


class Refuse(msgspec.Struct, frozen=True):
    """Answer a registration with a reason and close the connection."""

    connection: int
    reason: str


class Disconnect(msgspec.Struct, frozen=True):
    """Close the connection of a dynamic node; answer with `Disconnected`."""

    node_id: str


class ApplyDataflow(msgspec.Struct, frozen=True):
    """This is the dataflow from now on: make its links.

    ``connection``: send an answer there once the links exist.
    """

    dataflow: Dataflow
    connection: int | None = None


class Send(msgspec.Struct, frozen=True):
    """Send a frame to a connected node."""

    node_id: str
    message: ToNode


class Signal(msgspec.Struct, frozen=True):
    """Send a signal to everything in the node's process group."""

    node_id: str
    signal: int


class Answer(msgspec.Struct, frozen=True):
    """Answer the request of a client; a connection that has ended needs no answer."""

    connection: int
    answer: daemon_protocol.Answer


class AnswerSentCounts(msgspec.Struct, frozen=True):
    """Answer a request with the number of messages that the nodes of this machine have sent."""

    connection: int


class AnswerNodeRemoved(msgspec.Struct, frozen=True):
    """Answer a request that a node leaves, with the number of messages that it has sent."""

    connection: int
    node_id: str
    was_running: bool = True


class CloseReceivers(msgspec.Struct, frozen=True):
    """The node has no receivers any more: close its links on the board and wake their senders."""

    node_id: str


class OpenReceivers(msgspec.Struct, frozen=True):
    """The node, of another machine, runs again: open its links on the board that were closed."""

    node_id: str


class RecordParameters(msgspec.Struct, frozen=True):
    """The parameters of a node have changed to these; a record of the dataflow has to follow."""

    node_id: str
    parameters: dict[str, Any]


class SetSentCounts(msgspec.Struct, frozen=True):
    """A node of another machine has sent so many messages per output, and closes some of its outputs."""

    node_id: str
    sent: dict[str, int]


class Count(msgspec.Struct, frozen=True):
    """Add to a counter of a node."""

    node_id: str
    counter: NodeCounter
    times: int


class AddMark(msgspec.Struct, frozen=True):
    """Note in the journal of the run what has happened to a node, for recordings."""

    kind: MarkKind
    node_id: str
    text: str


class Log(msgspec.Struct, frozen=True):
    """Write a sentence for the user to the log."""

    level: LogLevel
    node_id: str | None
    text: str
    fields: dict[str, str] = {}


class Finish(msgspec.Struct, frozen=True):
    """The dataflow ended; the last command."""


# About new code, clients and other machines, which do not exist in virtual dataflows.
LiveCommand = (
    SpawnReplacement
    | PromoteReplacement
    | DropReplacement
    | AdmitReplacement
    | Disconnect
    | ApplyDataflow
    | Answer
    | AnswerSentCounts
    | AnswerNodeRemoved
    | RecordParameters
    | SetSentCounts
)
Command = (
    LiveCommand
    | Spawn
    | Admit
    | Refuse
    | Send
    | Signal
    | CloseReceivers
    | OpenReceivers
    | Count
    | AddMark
    | Log
    | Finish
)
