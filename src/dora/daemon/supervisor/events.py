"""Events that the `Supervisor` handles: everything that can happen to a running dataflow."""

from __future__ import annotations

import msgspec

from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.model import Dataflow
from dora.wire import daemon_protocol, node_protocol
from dora.wire.operations import NodeOperation

ParameterRequest = (
    daemon_protocol.GetParameters | daemon_protocol.SetParameter | daemon_protocol.DeleteParameter
)
ChangeRequest = daemon_protocol.CheckChange | daemon_protocol.ApplyChange
NodeMessage = (
    node_protocol.Ready
    | node_protocol.OutputsClosed
    | node_protocol.Closing
    | node_protocol.OperatorFailure
    | node_protocol.SafeStateChanged
    | node_protocol.SetOwnParameters
    | node_protocol.StopDataflow
)


class Begin(msgspec.Struct, frozen=True):
    """The dataflow starts. This is the first event, and comes once."""


class Spawned(msgspec.Struct, frozen=True):
    """The process of a node exists."""

    node_id: str
    pid: int


class SpawnFailed(msgspec.Struct, frozen=True):
    """The process of a node could not be started; ``reason`` is a sentence for the user."""

    node_id: str
    reason: str


class ProcessEnded(msgspec.Struct, frozen=True):
    """The process of a node ended; everything it wrote to its socket was read before.

    Exactly one of ``exit_code`` and ``signal`` is set.
    """

    node_id: str
    exit_code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()
    remedy: str = ""  # see `dora.daemon.remedies`


class CodeChanged(msgspec.Struct, frozen=True):
    """The code of a node was saved (hot reload); for a runtime, the code of some ``operators``.

    ``modules`` are the files that the operators import and that have to be imported again.
    """

    node_id: str
    operators: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


class ReplacementEnded(msgspec.Struct, frozen=True):
    """A replacement process ended before it took over, or could not be started (``reason``)."""

    node_id: str
    incarnation: int
    exit_code: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()
    reason: str = ""


class ReplacementReady(msgspec.Struct, frozen=True):
    """An admitted replacement has made all its preparations, and waits."""

    node_id: str
    incarnation: int


class Registering(msgspec.Struct, frozen=True):
    """A process asks to take part as ``node_id``. Answered by `Admit` or `Refuse`."""

    connection: int
    node_id: str
    incarnation: int = 0
    dynamic: bool = False


class MessageReceived(msgspec.Struct, frozen=True):
    """An admitted node has sent a message."""

    node_id: str
    message: NodeMessage


class Disconnected(msgspec.Struct, frozen=True):
    """The connection of an admitted node ended."""

    node_id: str


class Progress(msgspec.Struct, frozen=True):
    """The node showed a sign of life: it waits for events, or it received or sent something."""

    node_id: str


class RequestReceived(msgspec.Struct, frozen=True):
    """A client asks for parameters, or for an operation on a node. Answered by `Answer`."""

    connection: int
    request: ParameterRequest | NodeOperation


class ChangeRequested(msgspec.Struct, frozen=True):
    """A client, or the coordinator, asks to change the dataflow.

    ``dataflow`` is the one of the request, parsed. ``elsewhere`` gives the other machine of a node,
    "" for a node of this one. Answered by `Answer`, `AnswerSentCounts`, `AnswerNodeRemoved` or
    `ApplyDataflow`.
    """

    connection: int
    request: ChangeRequest
    dataflow: Dataflow
    elsewhere: dict[str, str] = {}


class InputFailed(msgspec.Struct, frozen=True):
    """A node could not make an input that it got while it ran; ``reason`` is half a sentence."""

    node_id: str
    input_id: str
    source: str
    reason: str


class ClientDisconnected(msgspec.Struct, frozen=True):
    """The connection of a client, which is no node, has ended."""

    connection: int


class StopRequested(msgspec.Struct, frozen=True):
    """The dataflow has to stop cleanly: Ctrl-C, or a time limit.

    ``reason`` is for those who read the events in the debug log. ``grace`` is the time until SIGTERM, in
    seconds; None: the supervisor's.
    """

    reason: str
    grace: float | None = None


class KillRequested(msgspec.Struct, frozen=True):
    """The dataflow has to end at once: the second Ctrl-C. ``reason`` follows "because the dataflow"."""

    reason: str = "had to end at once"


class PeerStatusReceived(msgspec.Struct, frozen=True):
    """Another machine sent the status of its nodes."""

    machine: str
    status: PeerStatus


class OtherMachineLost(msgspec.Struct, frozen=True):
    """Another machine has ended, or has been silent for too long; ``reason`` is half a sentence.

    ``may_return``: when it is back, the coordinator starts its part again.
    """

    machine: str
    reason: str
    may_return: bool = False


class Released(msgspec.Struct, frozen=True):
    """The coordinator no longer needs this machine, since none of the nodes is on it."""


class TimePassed(msgspec.Struct, frozen=True):
    """Nothing happened, but a deadline may be due."""


NodeEvent = (
    Spawned
    | SpawnFailed
    | ProcessEnded
    | CodeChanged
    | ReplacementEnded
    | ReplacementReady
    | MessageReceived
    | Disconnected
    | Progress
)
Event = (
    NodeEvent
    | Begin
    | Registering
    | RequestReceived
    | ChangeRequested
    | InputFailed
    | ClientDisconnected
    | StopRequested
    | KillRequested
    | PeerStatusReceived
    | OtherMachineLost
    | Released
    | TimePassed
)
