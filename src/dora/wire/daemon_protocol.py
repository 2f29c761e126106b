"""Frames between a command and the daemon of a running dataflow, on the same socket as nodes use.

A connection whose first frame is one of these asks, and is answered frame by frame; it is no node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from dora.wire.decoders import msgpack_decoder
from dora.wire.node_config import RemoteConfig
from dora.wire.node_protocol import ToDaemon

# What a daemon tells a command about its dataflow: nodes, outputs, links, and where to look at them.
#
# All numbers that change with every message (sent, received, dropped) are on the board, which the command
# maps by itself.


class OutputView(msgspec.Struct, omit_defaults=True):
    id: str
    slot: int  # index of its line on the board
    service: str = ""  # name of the engine's channel
    max_queue_size: int = 1
    max_receivers: int = 1
    type: str = ""  # what the dataflow says that messages are
    text: bool = False  # its lines are delivered by the daemon: there is no channel to look at


class LinkView(msgspec.Struct, omit_defaults=True):
    slot: int  # index of its line on the board
    output_slot: int
    producer: str  # "node/output"
    consumer: str  # "node/input"
    policy: Literal["drop_oldest", "backpressure"] = "drop_oldest"
    queue_size: int = 10
    kind: Literal["link", "text", "local"] = "link"


class NodeView(msgspec.Struct, omit_defaults=True):
    id: str
    status: str  # one word or two for the user, as "running"
    pid: int | None = None
    restarts: int = 0
    name: str | None = None
    description: str | None = None
    path: str | None = None
    restart_policy: str = "never"
    machine: str = ""  # "": the dataflow is on one
    inputs: dict[str, str] = {}  # id → source
    outputs: list[OutputView] = []


class Inspection(msgspec.Struct, tag=True):
    """The answer to `dora.wire.daemon_protocol.Inspect`."""

    dataflow_id: str
    file: str | None
    engine: Literal["iceoryx2", "zenoh"]
    run_dir: str
    prefix: str  # of the shared-memory objects
    board: str
    zenoh_endpoint: str
    nodes: list[NodeView]
    links: list[LinkView]
    machine: str = ""  # the one that this daemon is on; "": the dataflow is on one
    coordinator: str = ""  # address and port of the one that it was started on; "": of none


class DescribeDataflow(msgspec.Struct, tag=True):
    """Which dataflow is this? Answered by `Description`."""


class GetParameters(msgspec.Struct, tag=True):
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


class GetGraph(msgspec.Struct, tag=True):
    """How is the dataflow drawn? Answered by `GraphText`."""


class GetDataflow(msgspec.Struct, tag=True):
    """What was the dataflow made from? Answered by `DataflowText`."""


class OpenTaps(msgspec.Struct, tag=True):
    """Before a command attaches taps to outputs, which are named by their lines on the board.

    Answered by `Ok`, or `DaemonRejected` where there are too many. What a command leaves behind whose
    connection ends without `CloseTaps` is cleaned up by the daemon. ``until_end``: when the dataflow has
    ended, the command is sent `DataflowEnded`, and the daemon waits a moment for its `CloseTaps`.
    """

    slots: list[int]
    until_end: bool = False


class CloseTaps(msgspec.Struct, tag=True):
    """All taps are closed. Answered by `Ok`."""


class StartEventLogs(msgspec.Struct, tag=True):
    """Let every node write down what a recording needs, as long as this connection lasts.

    The order of its events goes into a file of its name in ``directory``; its small messages go into the
    ring buffers in the directory ``ring_buffers``, which are named by the slots of outputs
    (`dora.transport.shm.ring_buffer`). Either may be "". Answered by `Ok`.
    """

    directory: str = ""
    ring_buffers: str = ""


class Publish(msgspec.Struct, tag=True):
    """Let a node send a message, as `dora.wire.message` lays it out. Answered by `Ok`."""

    node_id: str
    output: str
    message: bytes


class StopNode(msgspec.Struct, tag=True):
    """End a node for good; answered by `Done` once it has ended (False: it had before).

    ``grace``: seconds between the stop event and SIGTERM; None: the default.
    """

    node_id: str
    grace: float | None = None


class RestartNode(msgspec.Struct, tag=True):
    """End a node's process and start another one; answered by `Done` once the first has ended."""

    node_id: str
    grace: float | None = None


class RemoveNode(msgspec.Struct, tag=True):
    """End a node and take it out of the dataflow, with its links; answered by `Done`, as `StopNode`.

    ``by_coordinator``: the coordinator takes it out, on all machines, once it has ended.
    """

    node_id: str
    grace: float | None = None
    by_coordinator: bool = False


class GetModel(msgspec.Struct, tag=True):
    """Which dataflow runs at the moment, as checked? Answered by `Model`."""


class ChangeDataflow(msgspec.Struct, tag=True):
    """Let the dataflow become another one, with a node or a link more, or a link less.

    Answered by `Ok` once the node exists or the link is laid, by `Conflict` if the dataflow has changed
    since ``revision``. ``added`` and ``removed`` say it for the log: "a/out -> b/in".
    """

    revision: int
    dataflow: Any  # `dora.dataflow.model.Dataflow`
    added: str = ""
    removed: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Where the nodes of a dataflow on several machines are, and how they reach each other.

    ``generations`` as in `dora.dataflow.plan.RunContext`.
    """

    machines: dict[str, str]
    generations: dict[str, int]
    remote: RemoteConfig


class ReplaceNode(msgspec.Struct, tag=True):
    """Let another program take the place of a node; answered by `Ok` once it has, or as above.

    ``placement``: the coordinator wants it, of a dataflow on several machines.
    """

    revision: int
    dataflow: Any
    node_id: str
    grace: float | None = None
    placement: Placement | None = None


class CheckChange(msgspec.Struct, tag=True):
    """Can this machine's part of a dataflow become this one? Answered by `SentCounts`, or `DaemonRejected`.

    ``revision`` is the one that it will have. Nothing is changed.
    """

    revision: int
    dataflow: Any
    placement: Placement


class ApplyChange(msgspec.Struct, tag=True):
    """Let this machine's part of a dataflow become this one. Answered as `ChangeDataflow`, or by `Ok`.

    The latter also if it has that revision already. ``sent`` is node → output → what other machines had
    sent when they were asked: what goes delivers so much.
    """

    revision: int
    dataflow: Any
    placement: Placement
    sent: dict[str, dict[str, int]] = {}
    added: str = ""
    removed: str = ""


class LeaderHandover(msgspec.Struct, tag=True):
    """Let the coordinator decide from now on what the dataflow becomes, as it gets further machines.

    ``machine`` is the one that this is. Answered by `Ok`, or `DaemonRejected`.
    """

    machine: str


Request = (
    DescribeDataflow
    | GetParameters
    | SetParameter
    | DeleteParameter
    | Inspect
    | GetGraph
    | GetDataflow
    | OpenTaps
    | CloseTaps
    | StartEventLogs
    | Publish
    | StopNode
    | RestartNode
    | RemoveNode
    | GetModel
    | ChangeDataflow
    | ReplaceNode
    | CheckChange
    | ApplyChange
    | LeaderHandover
)


class Description(msgspec.Struct, tag=True):
    dataflow_id: str
    file: str | None  # absolute path of the dataflow file
    nodes: list[str]
    name: str = ""  # given at the start; "": that of the file
    coordinator: str = ""  # address and port of the one that it was started on; "": of none


class Parameters(msgspec.Struct, tag=True):
    values: dict[str, Any]


class Done(msgspec.Struct, tag=True):
    """``running``: a process of the node has been told; else the next one will be."""

    running: bool


class GraphText(msgspec.Struct, tag=True):
    json: bytes  # as `dora.dataflow.graph` writes it


class DataflowText(msgspec.Struct, tag=True):
    json: bytes  # the document with modules written out
    working_dir: str


class DataflowEnded(msgspec.Struct, tag=True):
    """The dataflow has ended; not an answer, but sent to who taps it to the end."""

    failed: list[str]  # nodes


class Model(msgspec.Struct, tag=True):
    revision: int  # counts the changes
    dataflow: Any  # `dora.dataflow.model.Dataflow`
    uv: bool = False  # its nodes are built and run with uv


class Conflict(msgspec.Struct, tag=True):
    """The dataflow has changed meanwhile: ask for it again."""


class SentCounts(msgspec.Struct, tag=True):
    """How many messages the nodes of this machine have sent: node → output → number."""

    counts: dict[str, dict[str, int]]


class Ok(msgspec.Struct, tag=True):
    """It is done."""


class Rejected(msgspec.Struct, tag=True):
    """The request cannot be fulfilled; ``reason`` is a sentence for the user."""

    reason: str


Answer = (
    Description
    | Parameters
    | Done
    | Inspection
    | GraphText
    | DataflowText
    | DataflowEnded
    | Model
    | Conflict
    | SentCounts
    | Ok
    | Rejected
)

# What comes to a daemon: from nodes, and from commands.
decode_to_daemon: Callable[[bytes], ToDaemon | Request] = msgpack_decoder(ToDaemon | Request)
decode_answer: Callable[[bytes], Answer] = msgpack_decoder(Answer)
