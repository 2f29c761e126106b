"""Protocol between a command and the daemon of a running dataflow, on the socket that nodes use too.

A connection whose first frame is one of these requests belongs to a command. Each request is answered in
turn. The operations stop and restart (`dora.wire.operations`) are answered by `OperationResult` once the
node has ended. A `DataflowRequest` may come from another machine as well, over the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from dora.wire.black_box import SavedBlackBox
from dora.wire.decoders import msgpack_decoder
from dora.wire.input_rules import DEFAULT_QUEUE_SIZE, InputRules, QueuePolicy
from dora.wire.journal import JournalEntry
from dora.wire.node_config import EngineName, FilePath, RemoteConfig
from dora.wire.node_protocol import ToDaemon
from dora.wire.operations import NodeOperation, OperationResult, ProposedChange, TopologyOperation
from dora.wire.output_rules import OutputRules

PUBLISH_PATIENCE: Final = 3.0  # seconds; a node that polls for events sends at once
ANSWER_TIMEOUT: Final = 20.0  # seconds that another machine may take to answer
SAVE_TIMEOUT: Final = 60.0  # likewise, for a file of the black box: a slow card takes long

# --------------------------------------------------------------------------- views of a dataflow
#
# Counters that change with every message (sent, received, dropped) are on the board, which commands map.


class InputView(InputRules, omit_defaults=True):
    """An input of a node, with its rules."""

    id: str
    source: str


class OutputView(OutputRules, frozen=True, omit_defaults=True):
    """An output of a node, with its rules, and where a tap finds it."""

    id: str
    slot: int  # index of its line on the board
    service: str = ""  # name of the engine's channel
    max_queue_size: int = 1
    max_receivers: int = 1
    type: str = ""  # the declared type of its messages
    text: bool = False  # the daemon delivers its lines: it has no channel to tap


class LinkView(msgspec.Struct, omit_defaults=True):
    """A link between an output and an input."""

    slot: int  # index of its line on the board
    output_slot: int
    producer: str  # "node/output"
    consumer: str  # "node/input"
    policy: QueuePolicy = "drop_oldest"
    queue_size: int = DEFAULT_QUEUE_SIZE
    kind: Literal["link", "text", "local"] = "link"


class StreamView(msgspec.Struct):
    """An output on its way to another machine."""

    slot: int  # index of the line on the board with the `STREAM_FIGURES`
    output: str  # "node/output"


class NetworkView(msgspec.Struct):
    """The network from this machine to another one."""

    slot: int  # index of the line on the board with the `NETWORK_FIGURES`
    target: str  # the other machine
    streams: list[StreamView]


class FailureView(msgspec.Struct, frozen=True):
    """Why a node has failed."""

    number: int  # in the order of the failures; the first cause is 1
    reason: str  # half a sentence without the name of the node: "exited with status 1: …"


class NodeView(msgspec.Struct, omit_defaults=True):
    """A node of a running dataflow."""

    id: str
    status: str  # a `StatusWord`
    pid: int | None = None
    counts: dict[str, int] = {}  # the `NODE_COUNTERS` that are not 0, by name
    failure: FailureView | None = None  # why it has failed, None if it has not
    name: str | None = None
    description: str | None = None
    path: str | None = None
    restart_policy: str = "never"
    max_restarts: int = 0  # 0: no limit
    machine: str = ""  # "": the dataflow is on one machine
    inputs: list[InputView] = []
    outputs: list[OutputView] = []


class Inspection(msgspec.Struct, tag=True):
    """The answer to `Inspect`."""

    dataflow_id: str
    file: str | None
    engine: EngineName
    run_dir: str
    prefix: str  # of the shared-memory objects
    board: str
    nodes: list[NodeView]
    links: list[LinkView]
    machine: str = ""  # of this daemon; "": the dataflow is on one machine
    coordinator: str = ""  # address and port of the one that it was started on; "": of none
    networks: list[NetworkView] = []  # to the other machines


class DescribeDataflow(msgspec.Struct, tag=True):
    """Get the name and the nodes of the dataflow. Answered by `Description`."""


class GetParameters(msgspec.Struct, tag="get-parameters"):
    """Get the parameters of a node. Answered by `Parameters`."""

    node: str


class SetParameter(msgspec.Struct, tag="set-parameter"):
    """Set a parameter of a node to a JSON value. Answered by `OperationResult`."""

    node: str
    key: str
    value: Any


class DeleteParameter(msgspec.Struct, tag="delete-parameter"):
    """Delete a parameter of a node. Answered by `OperationResult`."""

    node: str
    key: str


class Inspect(msgspec.Struct, tag="inspect"):
    """Get the nodes, outputs and links with their status. Answered by `Inspection`."""


class GetProgress(msgspec.Struct, tag="get-progress"):
    """Get how far the run is. Answered by `RunProgress`."""


class GetGraph(msgspec.Struct, tag=True):
    """Get the graph for a drawing. Answered by `GraphText`."""


class GetDataflow(msgspec.Struct, tag=True):
    """Get the source of the dataflow. Answered by `DataflowText`."""


class OpenTaps(msgspec.Struct, tag=True):
    """Reserve taps on outputs, which are named by their lines on the board, before they are attached.

    Answered by `Ok`, or `Rejected` if there are too many. If the connection ends without `CloseTaps`, the
    daemon cleans the taps up. ``until_end``: when the dataflow has ended, the daemon sends `DataflowEnded`
    and waits a moment for `CloseTaps`.
    """

    slots: list[int]
    until_end: bool = False


class CloseTaps(msgspec.Struct, tag=True):
    """All taps are closed. Answered by `Ok`."""


class StartEventLogs(msgspec.Struct, tag=True):
    """Make every node write what a recording needs, as long as this connection lasts.

    The order of its events goes into a file of its name in ``directory``; its small messages go into the
    ring buffers in the directory ``ring_buffers``, which are named by the slots of outputs
    (`dora.transport.shm.ring_buffer`). Either may be "". Answered by `Ok`.
    """

    directory: FilePath = ""
    ring_buffers: FilePath = ""


class GetJournal(msgspec.Struct, tag=True):
    """Get what was written to the journal of the run. Answered by `JournalEntries`.

    ``after``: the last number that is known. 0: nothing is; the answer then begins with the parameters of
    all nodes, as they are now.
    """

    after: int = 0


class SaveBlackBox(msgspec.Struct, tag="save-black-box"):
    """Save what the black box has, as a recording. Answered by `SavedBlackBox` once the file is there.

    ``path``: absolute, on the machine of the daemon; the file is not counted, and the report at the end
    does not name it. "": a name of the time, with the other files of the run. ``note``: a mark in the file.
    """

    path: str = ""
    note: str = ""


class ReadSavedFile(msgspec.Struct, tag="read-saved-file"):
    """Get a part of a file that `SaveBlackBox` has written, from ``offset`` on. Answered by `FilePart`."""

    path: str
    offset: int = 0


class Publish(msgspec.Struct, tag="publish"):
    """Make a node send a message in the layout of `dora.wire.message`. Answered by `Ok`.

    Refused if the node has not polled for events for 3 s. The message is still sent once it does.
    """

    node: str
    output: str
    message: bytes


class Interrupt(msgspec.Struct, tag=True):
    """Stop the dataflow, like Ctrl-C; ``force``: kill its nodes. Answered by `Ok` before it has ended.

    ``grace``: seconds for its nodes to end; None: as its options say.
    """

    grace: float | None = None
    force: bool = False


class GetModel(msgspec.Struct, tag=True):
    """Get the checked model of the running dataflow. Answered by `Model`."""


class CheckChange(msgspec.Struct, tag=True):
    """Check whether this machine can make a change. Nothing changes yet.

    Answered by `SentCounts`, by `Rejected`, or by `Conflict` if the dataflow has that revision already.
    ``machine`` is the name of this machine and ``remote`` its links to others, if the coordinator leads the
    changes; else these are left out.
    """

    proposal: ProposedChange
    machine: str = ""
    remote: RemoteConfig | None = None


class ApplyChange(msgspec.Struct, tag=True):
    """Make a change. Answered by `Ok` once its nodes and links exist.

    A node of this machine that is not in the proposal ends first; then the answer is `NodeRemoved`.
    Answered by `Conflict` if the dataflow has changed since it was proposed, and by `Rejected` if the
    change is not possible. A change of the coordinator is committed: the machine makes it without a further
    check, unless a program is replaced here, and answers `Ok` if it has that revision already.

    ``machine`` and ``remote`` are as in `CheckChange`. ``sent`` is node → output → the messages that other
    machines had sent when they were asked: a removed link delivers so many.
    """

    proposal: ProposedChange
    machine: str = ""
    remote: RemoteConfig | None = None
    sent: dict[str, dict[str, int]] = {}


# Requests that a client may send from any machine. The coordinator passes them on, those about a node to
# the machine of the node.
NodeRequest = NodeOperation | SetParameter | DeleteParameter | Publish | GetParameters
# Those that change nothing of the dataflow.
LookRequest = GetParameters | Inspect | GetProgress | SaveBlackBox | ReadSavedFile
DataflowRequest = TopologyOperation | NodeRequest | LookRequest

# All requests on the socket of a dataflow. A change of nodes or links takes several.
Request = (
    NodeRequest
    | LookRequest
    | DescribeDataflow
    | GetGraph
    | GetDataflow
    | OpenTaps
    | CloseTaps
    | StartEventLogs
    | GetJournal
    | Interrupt
    | GetModel
    | CheckChange
    | ApplyChange
)


def answer_timeout(request: DataflowRequest | Request) -> float | None:
    """Return how many seconds an answer may take; None: no limit, for it waits for a build or an end."""
    if isinstance(request, SaveBlackBox):
        return SAVE_TIMEOUT
    waits = isinstance(request, TopologyOperation | NodeOperation)
    return None if waits else ANSWER_TIMEOUT


class Description(msgspec.Struct, tag=True):
    """The answer to `DescribeDataflow`."""

    dataflow_id: str
    file: str | None  # absolute path of the dataflow file
    nodes: list[str]
    name: str = ""  # given at the start; "": the file's
    coordinator: str = ""  # address and port of the one that it was started on; "": of none
    log_directory: str = ""


class Parameters(msgspec.Struct, tag=True):
    """The answer to `GetParameters`: key → value."""

    values: dict[str, Any]


class WaitingNode(msgspec.Struct, frozen=True):
    """A node that the start, or the end, of the dataflow waits for."""

    id: str
    loading: str = ""  # the package that it seems to import


class RunProgress(msgspec.Struct, frozen=True, tag=True):
    """A run at one moment."""

    nodes: int  # those that dora starts
    started: bool  # all of them have been ready
    stopping: bool
    waiting: tuple[WaitingNode, ...]  # not ready yet, or while stopping: not ended yet
    running: int
    restarting: tuple[str, ...]
    failed: tuple[str, ...]
    received: int  # messages, of all links to this machine
    dropped: int
    sent: int  # messages of the nodes that were to be counted


class GraphText(msgspec.Struct, tag=True):
    """The answer to `GetGraph`."""

    json: bytes  # as `dora.dataflow.graph` writes it


class DataflowText(msgspec.Struct, tag=True):
    """The answer to `GetDataflow`."""

    json: bytes  # the YAML tree with its modules inlined
    working_dir: str


class DataflowEnded(msgspec.Struct, tag=True):
    """The dataflow has ended; sent without a request to a command with taps ``until_end``."""

    failed: list[str]  # nodes


class Model(msgspec.Struct, tag=True):
    """The answer to `GetModel`."""

    revision: int  # counts the changes
    dataflow: Any  # `dora.dataflow.model.Dataflow`
    uv: bool = False  # its nodes are built and run with uv
    generations: dict[str, int] = {}  # of programs, as in `dora.dataflow.layout.Placement`


class JournalEntries(msgspec.Struct, tag=True):
    """The answer to `GetJournal`, oldest first; ``number`` belongs to the last entry of the journal."""

    number: int
    entries: list[JournalEntry]


class FilePart(msgspec.Struct, tag=True):
    """The answer to `ReadSavedFile`; no data: there is no more."""

    data: bytes


class Conflict(msgspec.Struct, tag=True):
    """The dataflow has changed meanwhile; the command has to start again from its new model."""


class SentCounts(msgspec.Struct, tag=True):
    """How many messages the nodes of this machine have sent: node → output → number."""

    counts: dict[str, dict[str, int]]


class NodeRemoved(msgspec.Struct, tag=True):
    """A node has left with a change: whether it had a process, and how much it has sent in all."""

    was_running: bool
    sent: dict[str, int] = {}  # output → messages


class Ok(msgspec.Struct, tag=True):
    """It is done."""


class Rejected(msgspec.Struct, tag=True):
    """The request cannot be fulfilled; ``reason`` is a sentence for the user."""

    reason: str


# The answers to a `DataflowRequest`.
DataflowAnswer = OperationResult | Parameters | Inspection | RunProgress | SavedBlackBox | FilePart | Ok
Answer = (
    DataflowAnswer
    | Description
    | GraphText
    | DataflowText
    | DataflowEnded
    | Model
    | JournalEntries
    | Conflict
    | SentCounts
    | NodeRemoved
    | Rejected
)

# Messages to a daemon: from nodes, and from commands.
decode_to_daemon: Callable[[bytes], ToDaemon | Request] = msgpack_decoder(ToDaemon | Request)
decode_answer: Callable[[bytes], Answer] = msgpack_decoder(Answer)
