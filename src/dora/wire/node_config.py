"""Node config."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dora.wire.decoders import json_decoder

if TYPE_CHECKING:
    pass

# --------------------------------------------------------------------------- configuration


class TlsFiles(msgspec.Struct, frozen=True, omit_defaults=True):
    """The certificates with which machines prove to each other who they are: paths of PEM files."""

    authority: str  # of the certificate that signed those of all machines
    certificate: str  # of this machine
    key: str


class RemoteConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """How nodes of other machines are reached, and reach those here: see
    `dora.transport.network.sessions`."""

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
    engine_queue_size: int = 0  # as in `InputConfig`
    generation: int = 0  # as in `InputConfig`


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
    overflow_channels: list[ChannelConfig] = []  # every message goes to these too
    prewake: list[DoorbellConfig] = []  # nodes fed by the receivers: woken early
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
    engine_queue_size: int = 0
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
    generation: int = 0
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
    standby: bool = False  # another process of the node still runs, and is followed without a gap
    exit_when_nodes_finish: bool = False
    zenoh_endpoint: str = ""
    remote: RemoteConfig | None = None  # None: the whole dataflow is on this machine
    trace: TraceConfig | None = None  # None: nothing is traced
    event_logs: list[WriteEventLog] = []  # what to write down for recorders


class Address(msgspec.Struct):
    """The content of ``DORA_NODE_CONFIG`` (JSON, hence also YAML): whom to ask for the rest."""

    dataflow_id: str
    node_id: str
    socket: str  # path of the daemon's Unix socket
    incarnation: int = 0  # which process of the node this is
    data_inputs: bool = False  # it has inputs other than timers


class WriteEventLog(msgspec.Struct, tag=True):
    """Write down the order of events, as `dora.wire.event_log` lays it out, into a file; or no more.

    Write small messages into ``ring_buffers`` too, see `dora.wire.daemon_protocol.StartEventLogs`. Either
    may be "".
    """

    path: str = ""
    end: bool = False
    ring_buffers: str = ""


decode_address: Callable[[str | bytes], Address] = json_decoder(Address)
encode_address = msgspec.json.Encoder().encode
