"""Frames between a node and its daemon: what they say and how they look on the socket.

A frame is a 4-byte little-endian length followed by one msgpack-encoded message. The first message
of a node is `Register`, answered by `Registered` or `RegistrationRefused`; the node then makes its ports,
sends `Ready` and waits for `Started` or `StartRefused`. Everything after that is one-way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dora.wire.decoders import json_decoder, msgpack_decoder

if TYPE_CHECKING:  # nodes do without
    from dora.wire.requests import Answer, Request

PROTOCOL_VERSION = 1
MAX_FRAME = 64 << 20  # bytes

# --------------------------------------------------------------------------- configuration


class TlsFiles(msgspec.Struct, frozen=True, omit_defaults=True):
    """The certificates with which machines prove to each other who they are: paths of PEM files."""

    authority: str  # of the certificate that signed those of all machines
    certificate: str  # of this machine
    key: str


class RemoteConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """How nodes of other machines are reached, and reach those here: see `dora.transport.mailbox`."""

    listen: dict[str, str]  # node of this machine → the endpoint at which it listens
    reach: dict[str, str]  # node of another machine → its endpoint
    secret: str
    passwords: str  # path of the file by which listeners know the secret
    tls: TlsFiles | None = None


class LinkConfig(msgspec.Struct, omit_defaults=True):
    """One output → input edge, as the sender sees it."""

    slot: int  # index of the link's line on the board
    node_slot: int  # index of the consuming node's line on the board
    bell: str  # path of the consuming node's doorbell
    consumer: str  # "node/input", for messages
    queue_size: int = 10
    policy: Literal["drop_oldest", "backpressure"] = "drop_oldest"
    dynamic: bool = False  # the consumer is a dynamic node: it may not be there
    machine: str = ""  # where the consumer is; "": on this machine
    room: int = 0  # as in `InputConfig`
    epoch: int = 0  # as in `InputConfig`


class DoorbellConfig(msgspec.Struct):
    """How to wake a node."""

    node_slot: int  # index of the node's line on the board
    bell: str  # path of its doorbell


class ChannelConfig(msgspec.Struct, omit_defaults=True):
    """A further channel of an output, for links that came later and found no room in the first."""

    service: str
    max_queue_size: int
    max_receivers: int


class OutputConfig(msgspec.Struct, omit_defaults=True):
    id: str
    service: str = ""  # name of the engine's channel
    slot: int = 0  # index of the output's line on the board
    links: list[LinkConfig] = []
    credit_bell: str = ""  # path of the doorbell for back-pressure; "" if no link needs one
    max_queue_size: int = 1  # over all links, fixed for the life of the channel
    max_receivers: int = 1  # room for receivers: links, restarts, observers
    annexes: list[ChannelConfig] = []  # every message goes to these too
    next_but_one: list[DoorbellConfig] = []  # the nodes that get what the receivers send, for heads-ups
    type: str = ""  # what the dataflow says that messages are
    shapes: list[Any] = []  # the Arrow types that this may mean; empty: any


class InputConfig(msgspec.Struct, omit_defaults=True):
    """One input. ``kind`` tells which of the other fields matter.

    ``link``: messages from another node's output. ``timer``: ticks, made by the node itself.
    ``text``: lines that the daemon delivers in `TextInput` frames (logs, captured stdout).
    ``local``: the output of an operator in the same runtime.
    """

    id: str
    kind: Literal["link", "timer", "text", "local"]
    source: str
    queue_size: int = 10
    policy: Literal["drop_oldest", "backpressure"] = "drop_oldest"
    # For a declared pattern with `drop_oldest`: messages that the engine holds, of which the receiver
    # keeps all that belong to an exchange, and ``queue_size`` others. 0: the queue is as declared.
    room: int = 0
    input_timeout: float | None = None
    machine: str = ""  # where the source is; "": on this machine
    service: str = ""
    slot: int = 0  # the link's line on the board (`link`, `text` and `local`)
    credit_bell: str = ""
    output_slot: int = 0  # the source output's line on the board (`link`)
    max_queue_size: int = 1
    max_receivers: int = 1
    late: bool = False  # it came while the dataflow was running: earlier messages are not meant for it
    # Of a dataflow on several machines: the change that brought the link, 0: it was there from the start.
    # It tells apart, on the network, what has the same names one after the other.
    epoch: int = 0
    interval_ns: int = 0
    type: str = ""  # as for outputs
    shapes: list[Any] = []


class OperatorConfig(msgspec.Struct, omit_defaults=True):
    id: str
    source: str  # absolute path of the Python file
    inputs: list[str] = []  # short ids; the node's inputs are "<operator id>/<input id>"
    outputs: list[str] = []


class TraceConfig(msgspec.Struct, frozen=True):
    """Where a node writes its spans, and which part of all traces is recorded (0 to 1)."""

    directory: str
    dataflow: str  # its name
    ratio: float = 1.0


class NodeConfig(msgspec.Struct, omit_defaults=True):
    dataflow_id: str
    node_id: str
    engine: Literal["iceoryx2", "zenoh"]
    run_dir: str
    prefix: str  # of every shared-memory object of this dataflow
    board: str  # path of the board file
    node_slot: int
    bell: str
    inputs: list[InputConfig] = []
    outputs: list[OutputConfig] = []
    operators: list[OperatorConfig] = []
    descriptor: dict[str, Any] = {}
    run_config: dict[str, Any] = {}  # what `Node.node_config()` returns
    parameters: dict[str, Any] = {}
    restart_count: int = 0
    dynamic: bool = False
    stands_by: bool = False  # another process of the node still runs, and is followed without a gap
    exit_when_nodes_finish: bool = False
    zenoh_endpoint: str = ""
    remote: RemoteConfig | None = None  # None: the whole dataflow is on this machine
    trace: TraceConfig | None = None  # None: nothing is traced
    orders: list[WriteEventLog] = []  # what to write down for recorders


class Address(msgspec.Struct):
    """The content of ``DORA_NODE_CONFIG`` (JSON, hence also YAML): whom to ask for the rest."""

    dataflow_id: str
    node_id: str
    socket: str  # path of the daemon's Unix socket
    incarnation: int = 0  # which process of the node this is
    data_inputs: bool = False  # it has inputs other than timers


# --------------------------------------------------------------------------- node → daemon


class Register(msgspec.Struct, tag=True):
    node_id: str
    pid: int
    version: str
    protocol: int = PROTOCOL_VERSION
    dynamic: bool = False
    incarnation: int = 0
    dataflow: str = ""  # of a dynamic node: the name or UUID of the one that it means


class Ready(msgspec.Struct, tag=True):
    """Every port of this node exists."""


class OutputsClosed(msgspec.Struct, tag=True):
    """These outputs will not be sent to any more (the process may live on)."""

    outputs: list[str]


class Closing(msgspec.Struct, tag=True):
    """The node object was closed: all outputs are closed. The process may live on."""

    undeclared: dict[str, int] = {}  # output id → messages dropped because it is not declared


class StopDataflow(msgspec.Struct, tag=True):
    """An operator returned ``DoraStatus.STOP_ALL``."""


class PublishResult(msgspec.Struct, tag=True):
    """The answer to `PublishRequest`; ``reason`` says why nothing was sent."""

    ticket: int
    reason: str = ""


class InputAttached(msgspec.Struct, tag=True):
    """The answer to `AttachInput`; ``fault`` says why the input cannot receive."""

    slot: int
    fault: str = ""


class InputDetached(msgspec.Struct, tag=True):
    """All messages of an input that was disconnected have been taken."""

    input: str
    slot: int


ToDaemon = (
    Register
    | Ready
    | OutputsClosed
    | Closing
    | StopDataflow
    | PublishResult
    | InputAttached
    | InputDetached
)

# --------------------------------------------------------------------------- daemon → node


class Registered(msgspec.Struct, tag=True):
    config: NodeConfig


class RegistrationRefused(msgspec.Struct, tag=True):
    reason: str


class Started(msgspec.Struct, tag=True):
    """The barrier is open. ``epoch_ns`` is the first tick of all timers, on CLOCK_MONOTONIC."""

    epoch_ns: int


class StartRefused(msgspec.Struct, tag=True):
    """The barrier broke."""

    reason: str


class InputsClosed(msgspec.Struct, tag=True):
    inputs: list[str]


class NodeFailedFrame(msgspec.Struct, tag=True):
    """An upstream node failed. Comes before the `InputsClosed` of the affected inputs."""

    node_id: str
    error: str
    affected_input_ids: list[str]


class NodeRestartedFrame(msgspec.Struct, tag=True):
    node_id: str


class ReloadFrame(msgspec.Struct, tag=True):
    """New code is there: for these operators of a runtime, else for the node, which `StopFrame` then ends.

    ``modules`` are the files, imported by the operators, that have to be imported anew.
    """

    operators: list[str] = []
    modules: list[str] = []


class StopFrame(msgspec.Struct, tag=True):
    """The dataflow, or this node, is asked to stop (event ``STOP`` with id ``MANUAL``)."""


class ParamUpdateFrame(msgspec.Struct, tag=True):
    """A parameter of the node was set."""

    key: str
    value: Any


class ParamDeletedFrame(msgspec.Struct, tag=True):
    key: str


class PublishRequest(msgspec.Struct, tag=True):
    """Send a message that somebody outside gave (`dora topic pub`); answered by `PublishResult`."""

    ticket: int
    output: str
    message: bytes


class WriteEventLog(msgspec.Struct, tag=True):
    """Write down the order of events, as `dora.wire.order` lays it out, into a file; or no more.

    And small messages onto ``tapes``, see `dora.wire.requests.StartEventLogs`. Either may be "".
    """

    path: str = ""
    end: bool = False
    tapes: str = ""


class AttachLink(msgspec.Struct, tag=True):
    """An output gets one more link. ``change`` is the value of the output's ``REWIRED`` from here on."""

    output: str
    link: LinkConfig
    change: int
    credit_bell: str = ""
    annex: ChannelConfig | None = None  # a channel that this link needs, and the output does not have yet
    remote: RemoteConfig | None = None  # for a link to another machine


class DetachLink(msgspec.Struct, tag=True):
    """An output loses a link."""

    output: str
    slot: int
    change: int
    annex: str = ""  # the channel that nobody needs any more
    machine: str = ""  # where its receiver was; "": on this machine


class AttachInput(msgspec.Struct, tag=True):
    """The node gets one more input. Answered by `InputAttached`."""

    item: InputConfig
    remote: RemoteConfig | None = None  # for an input from another machine


class DetachInput(msgspec.Struct, tag=True):
    """An input was disconnected: it closes once what was sent so far is taken.

    Answered by `InputDetached` then. If it was the node's last, the node waits for another one.
    """

    input: str
    slot: int


class TextInput(msgspec.Struct, tag=True):
    """One line for inputs of kind ``text``; arrives as a string array of length 1."""

    inputs: list[str]
    text: str


ToNode = (
    Registered
    | RegistrationRefused
    | Started
    | StartRefused
    | InputsClosed
    | NodeFailedFrame
    | NodeRestartedFrame
    | ReloadFrame
    | ParamUpdateFrame
    | ParamDeletedFrame
    | StopFrame
    | PublishRequest
    | WriteEventLog
    | AttachLink
    | DetachLink
    | AttachInput
    | DetachInput
    | TextInput
)

# --------------------------------------------------------------------------- framing

_encoder = msgspec.msgpack.Encoder()
decode_to_node: Callable[[bytes], ToNode] = msgpack_decoder(ToNode)
decode_address: Callable[[str | bytes], Address] = json_decoder(Address)
encode_address = msgspec.json.Encoder().encode


class FrameError(ValueError):
    """The bytes on a control socket are not frames."""


def encode_frame(message: ToDaemon | ToNode | Request | Answer) -> bytes:
    """Return the frame of a message, ready for the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "little") + body


class FrameBuffer:
    """Cut a byte stream into frame bodies: feed what arrived, iterate over what is complete.

    >>> frames = FrameBuffer()
    >>> frames.feed(encode_frame(StopFrame())[:3])
    >>> list(frames)
    []
    >>> frames.feed(encode_frame(StopFrame())[3:])
    >>> [decode_to_node(body) for body in frames]
    [Stop()]
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._data = bytearray()
        self._max_frame = max_frame

    def feed(self, data: bytes) -> None:
        """Append bytes that arrived."""
        self._data += data

    def __iter__(self) -> Iterator[bytes]:
        """Yield every complete frame body; raises `FrameError` for an absurd length."""
        while len(self._data) >= 4:
            size = int.from_bytes(self._data[:4], "little")
            if size > self._max_frame:
                raise FrameError(f"a control frame claims {size} bytes; the limit is {self._max_frame}")
            if len(self._data) < 4 + size:
                return
            body = bytes(self._data[4 : 4 + size])
            del self._data[: 4 + size]
            yield body
