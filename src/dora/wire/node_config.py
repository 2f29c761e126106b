"""Configuration that a node receives when it registers: its inputs, outputs, links and channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from dora.wire.decoders import json_decoder, msgpack_decoder
from dora.wire.input_rules import InputRules, SyncGroup
from dora.wire.output_rules import NO_RULES, LatchRule, OutputRules, Priority

# The system takes no NUL in a path, and Python raises ``ValueError`` for one instead of ``OSError``.
FilePath = Annotated[str, msgspec.Meta(pattern="^[^\\x00]*$")]


# How messages travel between the nodes of a machine.
EngineName = Literal["iceoryx2", "shm"]

# How the messages of an input come, see `InputConfig`.
InputKind = Literal["link", "timer", "text", "local"]


class TlsFiles(msgspec.Struct, frozen=True, omit_defaults=True):
    """Paths of the PEM files with which machines authenticate each other."""

    authority: str  # of the certificate that signed every machine's
    certificate: str  # of this machine
    key: str


class RemoteConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the gateways of a dataflow reach each other, and how they know each other: `dora.gateway`."""

    listen: str  # address of this machine, and its port for links; port 0: there is none
    # Other machine → its address and port, where they are known; "": it has no port, and dials itself.
    reach: dict[str, str]
    secret: str
    tls: TlsFiles | None = None
    dscp: int = 0  # marks the packets of messages that go before others; 0: nothing is marked


class LinkConfig(InputRules, omit_defaults=True):
    """One link from an output to an input, with the rules of the input, for the sender."""

    slot: int  # index of the link's line on the board
    node_slot: int  # index of the consuming node's line on the board
    bell: str  # path of the consuming node's doorbell
    consumer: str  # "node/input", for messages
    dynamic: bool = False  # the consumer is a dynamic node: it may not be there
    # Where the consumer is; "": on this machine. Else node, bell and stream belong to the gateway.
    machine: str = ""
    is_encrypted: bool = False  # on the way to the other machine
    engine_queue_size: int = 0  # as in `InputConfig`
    generation: int = 0  # as in `InputConfig`


class DoorbellConfig(msgspec.Struct):
    """How to wake a node."""

    node_slot: int  # index of the node's line on the board
    bell: str  # path of its doorbell


class ChannelConfig(msgspec.Struct, omit_defaults=True):
    """An overflow channel of an output, for links that were added later and did not fit into the first."""

    service: str
    max_queue_size: int
    max_receivers: int


# Links that come and go change it. As with `InputSpec`, mypy thinks of dataclasses.
class OutputConfig(OutputRules, frozen=False, omit_defaults=True):  # type: ignore[misc]
    """An output, as its sender needs it."""

    id: str
    service: str = ""  # name of the engine's channel
    slot: int = 0  # index of the output's line on the board
    links: list[LinkConfig] = []
    credit_bell: str = ""  # path of the doorbell for back-pressure; "" if no link needs one
    max_queue_size: int = 1  # over all links, fixed for the life of the channel
    max_receivers: int = 1  # room for receivers: links, restarts, observers
    overflow_channels: list[ChannelConfig] = []  # each message is sent to these too
    prewake: list[DoorbellConfig] = []  # nodes fed by the receivers: woken early
    type: str = ""  # the declared type of its messages
    shapes: list[Any] = []  # the Arrow types that this type stands for; empty: any
    origin: int = 0  # its number, see `dora.wire.trail`
    most_passes: int = 255  # a message that was passed on so often is an origin: it goes in a circle
    stamped: bool = False  # its messages carry their hops: it is on a path with a budget

    def on(self, channel: ChannelConfig) -> OutputConfig:
        """Return the configuration of a sender for an overflow channel of this output."""
        return OutputConfig(
            self.id,
            channel.service,
            max_queue_size=channel.max_queue_size,
            max_receivers=channel.max_receivers,
        )


class HopConfig(msgspec.Struct):
    """An output on a path."""

    output: int  # its number, see `dora.wire.trail`
    name: str  # "node/output"
    fed_by: list[int]  # the outputs on the path that its sender gets data from


class BudgetConfig(msgspec.Struct, omit_defaults=True):
    """How long data may take from an output to an input."""

    source: str  # "node/output"
    budget_ns: int
    hops: list[HopConfig]  # the source, the output that feeds the input, and those between them
    on_miss: str = "warn"
    after: int = 1


class InputConfig(InputRules, omit_defaults=True):
    """One input with its rules. ``kind`` decides which of the other fields matter.

    ``link``: messages from another node's output. ``timer``: ticks, made by the node itself.
    ``text``: lines that the daemon delivers in `TextInput` frames (logs, captured stdout).
    ``local``: the output of an operator in the same runtime.
    """

    id: str
    kind: InputKind
    source: str
    # For a declared pattern without back-pressure: messages that the engine holds, of which the receiver
    # keeps all that belong to an exchange, and ``queue_size`` others. 0: the queue is as declared.
    engine_queue_size: int = 0
    machine: str = ""  # where the source is; "": on this machine
    service: str = ""
    slot: int = 0  # the link's line on the board (`link`, `text` and `local`)
    credit_bell: str = ""
    output_slot: int = 0  # the source output's line on the board (`link`)
    max_queue_size: int = 1
    max_receivers: int = 1
    kept_by_sync: int = 0  # messages that its `sync` group may keep; 0: it is in none
    late: bool = False  # added to the running dataflow: it gets no earlier messages
    # In a dataflow on several machines: the revision that added the link; 0: it exists from the start.
    # It keeps links apart that have the same name one after the other.
    generation: int = 0
    budgets: list[BudgetConfig] = []  # of the paths that end here
    interval_ns: int = 0  # of a `timer`
    source_rules: OutputRules = NO_RULES  # of the output that feeds it (`link`, `local`)
    type: str = ""  # as for outputs
    shapes: list[Any] = []


class OperatorConfig(msgspec.Struct, omit_defaults=True):
    """An operator of a node that is a runtime."""

    id: str
    source: str  # absolute path of the Python file
    inputs: list[str] = []  # short ids
    outputs: list[str] = []
    alone: bool = False  # its inputs and outputs have the same ids in the node

    @property
    def prefix(self) -> str:
        """Return what its inputs and outputs begin with in the node."""
        return "" if self.alone else f"{self.id}/"


class TraceConfig(msgspec.Struct, frozen=True):
    """Where a node writes its spans, and the ratio of traces that are recorded (0 to 1)."""

    directory: str
    dataflow: str  # its name
    ratio: float = 1.0


NO_DESCRIPTOR = msgspec.Raw(msgspec.msgpack.encode({}))
decode_descriptor: Callable[[msgspec.Raw], dict[str, Any]] = msgpack_decoder()


class NodeConfig(msgspec.Struct, omit_defaults=True):
    """The place of one process in its dataflow. The daemon sends it when the process registers."""

    dataflow_id: str
    node_id: str
    engine: EngineName
    run_dir: str
    prefix: str  # of every shared-memory object of this dataflow
    board: str  # path of the board file
    node_slot: int
    bell: str
    inputs: list[InputConfig] = []
    outputs: list[OutputConfig] = []
    operators: list[OperatorConfig] = []
    syncs: list[SyncGroup] = []
    descriptor: msgspec.Raw = NO_DESCRIPTOR  # msgpack of a mapping
    run_config: dict[str, Any] = {}  # what `Node.node_config()` returns
    parameters: dict[str, Any] = {}
    restart_count: int = 0
    dynamic: bool = False
    lock_memory: bool = False
    standby: bool = False  # the former process still runs; this one takes over without a gap
    exit_when_nodes_finish: bool = False
    # Outputs of other machines: number, see `dora.wire.trail` → line on the board with the clock's offset
    other_clocks: dict[int, int] = {}
    trace: TraceConfig | None = None  # None: no tracing
    event_logs: list[WriteEventLog] = []  # that recorders have asked for
    state_file: FilePath = ""  # for `Node.save_state`; "": in the directory of the run


class StreamConfig(msgspec.Struct, omit_defaults=True):
    """The messages of an output for another machine, once for all receivers there."""

    name: str  # of the output, between machines
    machine: str  # the other one
    item: InputConfig  # with which the gateway receives it
    links: list[LinkConfig]
    credit_bell: str = ""  # of the output
    priority: Priority | None = None
    latched: LatchRule | None = None


class GatewayConfig(msgspec.Struct, omit_defaults=True):
    """The gateway of a dataflow on one machine, see `dora.gateway`."""

    machine: str
    remote: RemoteConfig
    node: NodeConfig  # its ports: the inputs of ``streams``, and outputs of other machines
    streams: list[StreamConfig]
    sources: dict[str, str]  # name of an output of another machine → that machine
    networks: dict[str, int] = {}  # machine → line on the board with the figures of the network to it


class Address(msgspec.Struct):
    """Content of ``DORA_NODE_CONFIG`` (JSON, hence also YAML): where the daemon is that has the rest."""

    dataflow_id: str
    node_id: str
    socket: str  # path of the daemon's Unix socket
    incarnation: int = 0  # which process of the node this is
    data_inputs: bool = False  # it has inputs other than timers


class WriteEventLog(msgspec.Struct, tag=True):
    """Write down the order of events, as `dora.wire.event_log` lays it out, into a file; or no more.

    Write small messages into ``ring_buffers`` too, see `dora.wire.daemon_protocol.StartEventLogs`. Write
    messages and the order of events into the rings of ``black_box``, a folder, see `dora.daemon.black_box`.
    Each may be "".
    """

    path: FilePath = ""
    end: bool = False
    ring_buffers: FilePath = ""
    black_box: FilePath = ""


decode_address: Callable[[str | bytes], Address] = json_decoder(Address)
encode_address = msgspec.json.Encoder().encode
