"""The parts of a run and where they are: its machines, its links, their lines on the board."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import msgspec

from dora.dataflow.describe import describe
from dora.dataflow.model import (
    Dataflow,
    InputSpec,
    LogSource,
    NodeOutput,
    NodeSpec,
    TimerSource,
)
from dora.dataflow.paths import budgets_of, most_passes
from dora.wire.correlation import PATTERN_QUEUE_SIZE
from dora.wire.input_rules import InputRules
from dora.wire.node_config import (
    EngineName,
    GatewayConfig,
    InputKind,
    NodeConfig,
    RemoteConfig,
    TraceConfig,
)
from dora.wire.output_rules import OutputRules
from dora.wire.trail import origin_id


class Placement(msgspec.Struct, frozen=True):
    """The machines of the nodes of a dataflow; by default all nodes are on this one."""

    machine: str = ""  # this one
    machines: dict[str, str] = {}  # node id → its machine
    # "node", "node/input" or "node program" → the change that brought it, if one did
    generations: dict[str, int] = {}
    remote: RemoteConfig | None = None

    @property
    def is_encrypted(self) -> bool:
        """Whether links to other machines have TLS."""
        return self.remote is not None and self.remote.tls is not None

    def elsewhere(self, node_id: str) -> str:
        """Return the machine of a node that is on another machine, "" for one of this machine."""
        machine = self.machines.get(node_id, self.machine)
        return "" if machine == self.machine else machine


class RunContext(msgspec.Struct, frozen=True):
    """Identity and location of a run: its ids, its files, its engine, its machines."""

    dataflow_id: str
    run_dir: str  # absolute; doorbells, sockets
    prefix: str  # of the shared-memory objects
    board: str  # path of the board
    engine: EngineName = "iceoryx2"
    tap_queue: int = 0  # messages that the tap of a recorder holds; 0: no recorder is expected
    trace: TraceConfig | None = None  # None: nothing is traced
    placement: Placement = Placement()
    coordinator: str = ""  # address and port of the one that it was started on; "": of none


class Link(InputRules, frozen=True):  # type: ignore[misc]  # as `InputSpec`
    """One edge of the graph with its line on the board, and the rules of its input."""

    slot: int
    producer: str  # node id
    output: str
    consumer: str  # node id
    input: str
    kind: Literal["link", "text", "local"]
    output_slot: int
    engine_queue_size: int = 0  # as in `InputConfig`
    source_machine: str = ""  # "": this one
    target_machine: str = ""
    generation: int = 0  # as in `InputConfig`

    @property
    def ends_here(self) -> bool:
        """Whether its receiver is on this machine."""
        return not self.target_machine

    @property
    def length(self) -> int:
        """How many messages its queue in shared memory holds."""
        return max(self.queue_size, self.engine_queue_size)

    def __str__(self) -> str:
        return f"{self.producer}/{self.output} -> {self.consumer}/{self.input}"


class Plan(msgspec.Struct, frozen=True):
    """A dataflow on one machine: what each node is told, and the lines of the board."""

    configs: dict[str, NodeConfig]  # node id → configuration (restart_count 0)
    links: tuple[Link, ...]
    bells: tuple[str, ...]  # named pipes that the daemon has to make
    lines: int  # size of the board
    generations: dict[str, int] = {}  # as in `RunContext`
    gateway: GatewayConfig | None = None  # None: the whole dataflow is on this machine


def text_outputs(node: NodeSpec) -> set[str]:
    """Return the outputs that the daemon feeds with captured lines or log entries."""
    return set(node.log.outputs)


def link_kind(nodes: Mapping[str, NodeSpec], node: NodeSpec, item: InputSpec) -> InputKind:
    """Return how the messages of an input travel. ``nodes``: all of the dataflow, by id."""
    match item.source:
        case TimerSource():
            return "timer"
        case LogSource():
            return "text"
        case NodeOutput(node=source, output=output):
            if output in text_outputs(nodes[source]):
                return "text"
            if source == node.id and node.is_runtime:
                return "local"
            return "link"


class Layout:
    """The lines of the board and the names of the doorbells.

    Nodes come first on the board, then outputs, then inputs, except timers, which need no line. Additions
    to a running dataflow get new lines behind them. No line is used twice, because its former owner may
    still write to it.
    """

    def __init__(self, dataflow: Dataflow, context: RunContext, former: Plan | None) -> None:
        self.dataflow = dataflow
        self.context = context
        descriptor = describe(dataflow)
        # Encoded once: every node gets it, and few read it.
        self.descriptor = msgspec.Raw(msgspec.msgpack.encode(descriptor))
        self.blocks = {str(block["id"]): block for block in descriptor.get("nodes", ())}
        self.nodes = {node.id: node for node in dataflow.nodes}
        self.most_passes = most_passes(dataflow.nodes)
        self.budgets, self.stamped = budgets_of(dataflow)
        self.patterned = {node.id for node in dataflow.nodes if node.declares_pattern}
        self.kinds = {
            (node.id, item.id): link_kind(self.nodes, node, item)
            for node in dataflow.nodes
            for item in node.inputs
        }
        self.receivers: dict[str, set[str]] = {}  # node → the nodes that get something from it
        for node in dataflow.nodes:
            for item in node.inputs:
                if isinstance(item.source, NodeOutput):
                    self.receivers.setdefault(item.source.node, set()).add(node.id)
        self.runs = former is not None
        generations = former.generations if former is not None else {}

        def is_same(name: str) -> bool:
            """Return whether the node or input of this name is the same one as in the former plan."""
            return generations.get(name, 0) == context.placement.generations.get(name, 0)

        configs = {} if former is None else {name: c for name, c in former.configs.items() if is_same(name)}
        self.former_outputs = {
            NodeOutput(node_id, output.id): output
            for node_id, config in configs.items()
            for output in config.outputs
        }
        sources = {(node.id, item.id): str(item.source) for node in dataflow.nodes for item in node.inputs}
        # An input with another source is a different one.
        self.former_inputs = {
            (node_id, item.id): item
            for node_id, config in configs.items()
            for item in config.inputs
            if item.kind == self.kinds.get((node_id, item.id))
            and item.source == sources[node_id, item.id]
            and is_same(f"{node_id}/{item.id}")
            and is_same(item.source.partition("/")[0])
        }
        slots = itertools.count(former.lines if former is not None else 0)
        self.node_slots = {
            node_id: configs[node_id].node_slot if node_id in configs else next(slots)
            for node_id in self.nodes
        }
        self.output_slots = {
            source: self.former_outputs[source].slot if source in self.former_outputs else next(slots)
            for node in dataflow.nodes
            for source in (NodeOutput(node.id, output) for output in node.outputs)
        }
        self.input_slots = {
            key: self.former_inputs[key].slot if key in self.former_inputs else next(slots)
            for key, kind in self.kinds.items()
            if kind != "timer"
        }
        placement = context.placement
        known_gateway = former.gateway if former is not None else None
        # Lines are numbered from 0, and a node has the first one.
        self.gateway_slot = 0
        self.stream_slots: dict[tuple[str, str], int] = {}  # name of the output, machine → line
        self.stream_channels: dict[tuple[str, str], str] = {}
        self.network_slots: dict[str, int] = {}  # machine → line
        if placement.remote is not None:
            self.gateway_slot = known_gateway.node.node_slot if known_gateway is not None else next(slots)
            known_streams = known_gateway.streams if known_gateway is not None else []
            self.stream_channels = {(each.name, each.machine): each.item.service for each in known_streams}
            self.stream_slots = {(each.name, each.machine): each.item.slot for each in known_streams}
            self.network_slots = dict(known_gateway.networks) if known_gateway is not None else {}
            for node in dataflow.nodes:
                there = placement.elsewhere(node.id)
                for item in node.inputs:
                    if not isinstance(item.source, NodeOutput) or item.source.node not in self.nodes:
                        continue
                    source_there = placement.elsewhere(item.source.node)
                    if bool(there) == bool(source_there):
                        continue
                    key = self.output_name(item.source), there
                    if there and key not in self.stream_slots:
                        self.stream_slots[key] = next(slots)
                    if (other := there or source_there) not in self.network_slots:
                        self.network_slots[other] = next(slots)
        self.gateway_bell = f"{context.run_dir}/bell-{self.gateway_slot}"
        self.lines = next(slots)
        self.other_clocks = {
            origin_id(str(source)): slot
            for source, slot in self.output_slots.items()
            if context.placement.elsewhere(source.node)
        }
        self.bells = {
            node_id: f"{context.run_dir}/bell-{slot}" for node_id, slot in self.node_slots.items()
        }
        self.credit_bells = {
            source: f"{context.run_dir}/credit-{slot}" for source, slot in self.output_slots.items()
        }

    def is_late(self, node_id: str, input_id: str) -> bool:
        """Return whether an input was added while the dataflow was running."""
        known = self.former_inputs.get((node_id, input_id))
        came = self.runs if known is None else known.late
        return came or self.generation(node_id, input_id) > 0

    def output_name(self, output: NodeOutput) -> str:
        """Return the name of an output between machines; an earlier node with this id had another."""
        generation = self.context.placement.generations.get(output.node, 0)
        return f"{output}~{generation}" if generation else str(output)

    def rules(self, output: NodeOutput) -> OutputRules:
        """Return the rules of an output, `NO_RULES` if it has none."""
        return self.nodes[output.node].rules_of_output(output.output)

    def generation(self, node_id: str, input_id: str) -> int:
        """Return the change that added a link."""
        return self.context.placement.generations.get(f"{node_id}/{input_id}", 0)

    def engine_queue_size(self, source: NodeOutput, consumer: NodeSpec, item: InputSpec) -> int:
        """Return the `InputConfig.engine_queue_size` of a link, for two nodes that answer each other."""
        declared = consumer.id in self.patterned or source.node in self.patterned
        if not declared or item.queue_policy == "backpressure" or item.queue_size >= PATTERN_QUEUE_SIZE:
            return 0
        return PATTERN_QUEUE_SIZE if source.node in self.receivers.get(consumer.id, ()) else 0
