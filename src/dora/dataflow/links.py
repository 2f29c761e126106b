"""From the model to what each process needs to know: links, board lines, names of channels.

`plan` is pure: the same dataflow and the same `Place` give the same `Plan`.

Three kinds of edges never touch shared memory: timers (made in the node), text (log entries and
captured lines, delivered by the daemon over the control socket), and edges between two operators
of one runtime (passed by reference).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from dora.dataflow.model import (
    ANY,
    DEFAULT_QUEUE_SIZE,
    Dataflow,
    Input,
    LogSource,
    Node,
    NodeOutput,
    TimerSource,
)
from dora.wire.control import InputConfig, LinkConfig, NodeConfig, OperatorConfig, OutputConfig
from dora.wire.correlation import PATTERN_ROOM

# Room on every channel for receivers beyond the links: restarted ones whose predecessor is not
# cleaned up yet, and taps.
SPARE_RECEIVERS = 3
MAX_TAPS = 4  # commands that look at one output at the same time
# A sender keeps a record of each message for each possible receiver: 9 MB a receiver for a queue of
# 4,096 messages. Where queues are longer than this, there is room for one tap.
_LONG_QUEUE = 256
_LONGEST_CHANNEL_NAME = 255  # bytes; iceoryx2's limit
TAP_QUEUE = 16  # messages that a tap holds at most

LinkKind = Literal["link", "timer", "text", "local"]


class Place(msgspec.Struct, frozen=True):
    """Where a run of a dataflow lives."""

    dataflow_id: str
    run_dir: str  # absolute; doorbells, sockets
    prefix: str  # of the shared-memory objects
    board: str  # path of the board
    engine: Literal["iceoryx2", "zenoh"] = "iceoryx2"
    zenoh_endpoint: str = ""


class Link(msgspec.Struct, frozen=True):
    """One edge of the graph with its line on the board."""

    slot: int
    producer: str  # node id
    output: str
    consumer: str  # node id
    input: str
    policy: Literal["drop_oldest", "backpressure"]
    queue_size: int
    kind: Literal["link", "text", "local"]
    output_slot: int
    room: int = 0  # as in `InputConfig`

    def __str__(self) -> str:
        return f"{self.producer}/{self.output} -> {self.consumer}/{self.input}"


class Plan(msgspec.Struct, frozen=True):
    configs: dict[str, NodeConfig]  # node id → configuration (restart_count 0)
    links: tuple[Link, ...]
    bells: tuple[str, ...]  # named pipes that the daemon has to make
    lines: int  # size of the board


def text_outputs(node: Node) -> set[str]:
    """Return the outputs that the daemon feeds with captured lines or log entries."""
    return {name for name in (node.log.send_stdout_as, node.log.send_logs_as) if name}


def plan(dataflow: Dataflow, place: Place) -> Plan:
    """Lay out all links of a dataflow."""
    layout = _Layout(dataflow, place)
    links = tuple(_links(layout))
    fed: dict[NodeOutput, list[Link]] = {source: [] for source in layout.output_slots}
    for link in links:
        if link.kind == "link":
            fed[NodeOutput(link.producer, link.output)].append(link)
    outputs = {source: _output(layout, source, edges) for source, edges in fed.items()}
    credit_bells = tuple(output.credit_bell for output in outputs.values() if output.credit_bell)
    return Plan(
        configs={node.id: _node(layout, node, outputs) for node in dataflow.nodes},
        links=links,
        bells=tuple(layout.bells.values()) + credit_bells,
        lines=layout.lines,
    )


class _Layout:
    """The lines of the board and the names of the doorbells.

    Nodes come first on the board, then outputs, then inputs, except timers, which need no line.
    """

    def __init__(self, dataflow: Dataflow, place: Place) -> None:
        self.dataflow = dataflow
        self.place = place
        self.nodes = {node.id: node for node in dataflow.nodes}
        self.kinds = {
            (node.id, item.id): link_kind(dataflow, node, item)
            for node in dataflow.nodes
            for item in node.inputs
        }
        self.neighbours = {
            (item.source.node, node.id)
            for node in dataflow.nodes
            for item in node.inputs
            if isinstance(item.source, NodeOutput)
        }
        slots = itertools.count()
        self.node_slots = {node.id: next(slots) for node in dataflow.nodes}
        self.output_slots = {
            NodeOutput(node.id, output): next(slots) for node in dataflow.nodes for output in node.outputs
        }
        self.input_slots = {key: next(slots) for key, kind in self.kinds.items() if kind != "timer"}
        self.lines = next(slots)
        self.bells = {node_id: f"{place.run_dir}/bell-{index}" for index, node_id in enumerate(self.nodes)}
        self.credit_bells = {
            source: f"{place.run_dir}/credit-{index}" for index, source in enumerate(self.output_slots)
        }

    def room(self, source: NodeOutput, consumer: Node, item: Input) -> int:
        """Return the `InputConfig.room` of a link: for two nodes of a pattern that send to each other."""
        declared = consumer.declares_pattern or self.nodes[source.node].declares_pattern
        if not declared or item.queue_policy != "drop_oldest" or item.queue_size >= PATTERN_ROOM:
            return 0
        return PATTERN_ROOM if (consumer.id, source.node) in self.neighbours else 0


def _links(layout: _Layout) -> Iterator[Link]:
    for node in layout.dataflow.nodes:
        for item in node.inputs:
            kind = layout.kinds[node.id, item.id]
            if isinstance(item.source, NodeOutput) and kind != "timer":
                yield Link(
                    slot=layout.input_slots[node.id, item.id],
                    producer=item.source.node,
                    output=item.source.output,
                    consumer=node.id,
                    input=item.id,
                    policy=item.queue_policy,
                    queue_size=item.queue_size,
                    kind=kind,
                    output_slot=layout.output_slots[item.source],
                    room=layout.room(item.source, node, item),
                )


def _channel(dataflow_id: str, source: NodeOutput) -> str:
    """Return the name of an output's channel: the ids, or a digest of them if they are too long."""
    name = f"{dataflow_id}/{source.node}/{source.output}"
    if len(name) <= _LONGEST_CHANNEL_NAME:
        return name
    import hashlib

    return f"{dataflow_id}/{hashlib.sha256(name.encode()).hexdigest()}"


def _output(layout: _Layout, source: NodeOutput, links: list[Link]) -> OutputConfig:
    waits = any(link.policy == "backpressure" for link in links)
    longest = max([TAP_QUEUE, *(max(link.queue_size, link.room) for link in links)])
    declared = layout.dataflow.types.outputs.get(str(source), ANY)
    return OutputConfig(
        id=source.output,
        service=_channel(layout.place.dataflow_id, source),
        slot=layout.output_slots[source],
        links=[
            LinkConfig(
                slot=link.slot,
                node_slot=layout.node_slots[link.consumer],
                bell=layout.bells[link.consumer],
                consumer=f"{link.consumer}/{link.input}",
                queue_size=link.queue_size,
                policy=link.policy,
                dynamic=layout.nodes[link.consumer].is_dynamic,
            )
            for link in links
        ],
        credit_bell=layout.credit_bells[source] if waits else "",
        max_queue_size=longest,
        max_receivers=len(links) + SPARE_RECEIVERS + (MAX_TAPS if longest <= _LONG_QUEUE else 1),
        type=declared.name,
        shapes=list(declared.shapes),
    )


def _input(
    layout: _Layout, node: Node, item: Input, outputs: dict[NodeOutput, OutputConfig]
) -> InputConfig:
    config = InputConfig(
        id=item.id,
        kind=layout.kinds[node.id, item.id],
        source=str(item.source),
        queue_size=item.queue_size,
        policy=item.queue_policy,
        input_timeout=item.input_timeout,
        slot=layout.input_slots.get((node.id, item.id), 0),
        room=layout.room(item.source, node, item) if isinstance(item.source, NodeOutput) else 0,
    )
    if isinstance(item.source, TimerSource):
        config.interval_ns = item.source.interval_ns
        return config
    declared = layout.dataflow.types.inputs.get(f"{node.id}/{item.id}", ANY)
    config.type, config.shapes = declared.name, list(declared.shapes)
    if isinstance(item.source, NodeOutput) and config.kind == "link":
        output = outputs[item.source]
        config.service = output.service
        config.credit_bell = output.credit_bell if config.policy == "backpressure" else ""
        config.output_slot = output.slot
        config.max_queue_size = output.max_queue_size
        config.max_receivers = output.max_receivers
    return config


def _node(layout: _Layout, node: Node, outputs: dict[NodeOutput, OutputConfig]) -> NodeConfig:
    dataflow, place = layout.dataflow, layout.place
    return NodeConfig(
        dataflow_id=place.dataflow_id,
        node_id=node.id,
        engine=place.engine,
        run_dir=place.run_dir,
        prefix=place.prefix,
        board=place.board,
        node_slot=layout.node_slots[node.id],
        bell=layout.bells[node.id],
        inputs=[_input(layout, node, item, outputs) for item in node.inputs],
        outputs=[outputs[NodeOutput(node.id, output)] for output in node.outputs],
        operators=[
            OperatorConfig(
                id=operator.id,
                source=os.path.join(dataflow.working_dir, operator.python),
                inputs=[item.id for item in operator.inputs],
                outputs=list(operator.outputs),
            )
            for operator in node.operators
        ],
        parameters=node.parameters,
        descriptor=dataflow.descriptor,
        run_config=_run_config(node),
        dynamic=node.is_dynamic,
        exit_when_nodes_finish=dataflow.exit_when_nodes_finish,
        zenoh_endpoint=place.zenoh_endpoint,
    )


def link_kind(dataflow: Dataflow, node: Node, item: Input) -> LinkKind:
    """Return how the messages of an input travel."""
    match item.source:
        case TimerSource():
            return "timer"
        case LogSource():
            return "text"
        case NodeOutput(node=source, output=output):
            if output in text_outputs(dataflow.node(source)):
                return "text"
            if source == node.id and node.is_runtime:
                return "local"
            return "link"


def _run_config(node: Node) -> dict[str, Any]:
    """Return what `Node.node_config()` promises: short sources, or mappings where an option is set."""
    inputs: dict[str, Any] = {}
    for item in sorted(node.inputs, key=lambda item: item.id):
        options: dict[str, Any] = {}
        if item.queue_size != DEFAULT_QUEUE_SIZE:
            options["queue_size"] = item.queue_size
        if item.queue_policy != "drop_oldest":
            options["queue_policy"] = item.queue_policy
        if item.input_timeout is not None:
            options["input_timeout"] = item.input_timeout
        inputs[item.id] = {"source": str(item.source), **options} if options else str(item.source)
    return {"inputs": inputs, "outputs": sorted(node.outputs)}
