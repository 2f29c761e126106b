"""What the `Supervisor` wants done: the commands that the daemon carries out, in their order."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dora.dataflow.model import Dataflow
from dora.wire import requests
from dora.wire.control import ToNode


class Spawn(msgspec.Struct, frozen=True):
    """Start the process of a node; answer with `Spawned` or `SpawnFailed`."""

    node_id: str
    restart_count: int
    incarnation: int


class SpawnSuccessor(msgspec.Struct, frozen=True):
    """Start a second process of a node, with its new code; answer with `SuccessorEnded` if it ends.

    ``dataflow``: the one whose node it is; None: that which runs.
    """

    node_id: str
    incarnation: int
    dataflow: Dataflow | None = None


class Succeed(msgspec.Struct, frozen=True):
    """The node's process has ended; its successor is the node's process from now on.

    Answer with `PortsReady` if it has been ready before.
    """

    node_id: str
    restart_count: int


class DropSuccessor(msgspec.Struct, frozen=True):
    """Kill the successor of a node's process; nobody waits for its end."""

    node_id: str


class Admit(msgspec.Struct, frozen=True):
    """Answer a registration with the node's configuration; the connection is the node's from now on."""

    connection: int
    node_id: str
    restart_count: int
    parameters: dict[str, Any] = {}


class AdmitSuccessor(msgspec.Struct, frozen=True):
    """Answer the registration of a successor with its configuration: it makes ready, and is held then.

    Answer with `SuccessorReady`. ``dataflow`` as in `SpawnSuccessor`.
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


class PutOut(msgspec.Struct, frozen=True):
    """Close the connection of a dynamic node; answer with `Disconnected`."""

    node_id: str


class Rewire(msgspec.Struct, frozen=True):
    """The dataflow is this one from now on: lay its links.

    ``connection``: answer it once they are laid.
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
    """Answer a request of somebody who is no node; a connection that is gone needs no answer."""

    connection: int
    answer: requests.Answer


class AnswerSent(msgspec.Struct, frozen=True):
    """Answer a request with what the nodes of this machine have sent."""

    connection: int


class CloseReceivers(msgspec.Struct, frozen=True):
    """Nobody receives for this node any more: close its links on the board and wake their senders."""

    node_id: str


class KeepParameters(msgspec.Struct, frozen=True):
    """The parameters of a node are these from now on: for whoever keeps a record of the dataflow."""

    node_id: str
    parameters: dict[str, Any]


class NoteSent(msgspec.Struct, frozen=True):
    """A node of another machine has sent so many messages on its outputs, and closes some of them."""

    node_id: str
    sent: dict[str, int]


class Note(msgspec.Struct, frozen=True):
    """Tell the user, through the log."""

    level: Literal["error", "warn", "info"]
    node_id: str | None
    text: str
    fields: dict[str, str] = {}


class Finish(msgspec.Struct, frozen=True):
    """The dataflow ended; the last command."""


Command = (
    Spawn
    | SpawnSuccessor
    | Succeed
    | DropSuccessor
    | Admit
    | AdmitSuccessor
    | Refuse
    | PutOut
    | Rewire
    | Answer
    | AnswerSent
    | Send
    | Signal
    | CloseReceivers
    | KeepParameters
    | NoteSent
    | Note
    | Finish
)
