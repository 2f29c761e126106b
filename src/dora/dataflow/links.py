"""From the model to what each process needs to know: links, board lines, names of channels.

`plan` is pure: the same dataflow and the same `Place` give the same `Plan`.

Three kinds of edges never touch shared memory: timers (made in the node), text (log entries and
captured lines, delivered by the daemon over the control socket), and edges between two operators
of one runtime (passed by reference).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dora.dataflow.model import Dataflow, Input, LogSource, Node, NodeOutput, TimerSource
from dora.wire.control import InputConfig, LinkConfig, NodeConfig, OperatorConfig, OutputConfig

# Room on every channel for receivers beyond the links: restarted ones whose predecessor is not
# cleaned up yet, and observers.
SPARE_RECEIVERS = 3


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


def _kind(dataflow: Dataflow, node: Node, item: Input) -> Literal["link", "timer", "text", "local"]:
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
        if item.queue_size != 10:
            options["queue_size"] = item.queue_size
        if item.queue_policy != "drop_oldest":
            options["queue_policy"] = item.queue_policy
        if item.input_timeout is not None:
            options["input_timeout"] = item.input_timeout
        inputs[item.id] = {"source": str(item.source), **options} if options else str(item.source)
    return {"inputs": inputs, "outputs": sorted(node.outputs)}


def plan(dataflow: Dataflow, place: Place) -> Plan:
    """Lay out all links of a dataflow."""
    slots = iter(range(1 << 30))
    node_slots = {node.id: next(slots) for node in dataflow.nodes}
    output_slots = {
        NodeOutput(node.id, output): next(slots) for node in dataflow.nodes for output in node.outputs
    }
    bells = {node.id: f"{place.run_dir}/bell-{index}" for index, node in enumerate(dataflow.nodes)}
    credit_bells = {source: f"{place.run_dir}/credit-{index}" for index, source in enumerate(output_slots)}

    links: list[Link] = []
    inputs: dict[str, list[InputConfig]] = {node.id: [] for node in dataflow.nodes}
    by_output: dict[NodeOutput, list[LinkConfig]] = {}
    for node in dataflow.nodes:
        for item in node.inputs:
            kind = _kind(dataflow, node, item)
            config = InputConfig(
                id=item.id,
                kind=kind,
                source=str(item.source),
                queue_size=item.queue_size,
                policy=item.queue_policy,
                input_timeout=item.input_timeout,
            )
            inputs[node.id].append(config)
            if isinstance(item.source, TimerSource):
                config.interval_ns = item.source.interval_ns
                continue
            config.slot = next(slots)
            if isinstance(item.source, LogSource) or kind == "timer":
                continue
            links.append(
                Link(
                    slot=config.slot,
                    producer=item.source.node,
                    output=item.source.output,
                    consumer=node.id,
                    input=item.id,
                    policy=item.queue_policy,
                    queue_size=item.queue_size,
                    kind=kind,
                    output_slot=output_slots[item.source],
                )
            )
            if kind == "link":
                by_output.setdefault(item.source, []).append(
                    LinkConfig(
                        slot=config.slot,
                        node_slot=node_slots[node.id],
                        bell=bells[node.id],
                        consumer=f"{node.id}/{item.id}",
                        queue_size=item.queue_size,
                        policy=item.queue_policy,
                        dynamic=node.is_dynamic,
                    )
                )

    outputs: dict[NodeOutput, OutputConfig] = {}
    for source, slot in output_slots.items():
        edges = by_output.get(source, [])
        outputs[source] = OutputConfig(
            id=source.output,
            service=f"{place.dataflow_id}/{source.node}/{source.output}",
            slot=slot,
            links=edges,
            credit_bell=credit_bells[source] if any(e.policy == "backpressure" for e in edges) else "",
            max_queue_size=max((edge.queue_size for edge in edges), default=1),
            max_receivers=len(edges) + SPARE_RECEIVERS,
        )

    configs: dict[str, NodeConfig] = {}
    for node in dataflow.nodes:
        for item, config in zip(node.inputs, inputs[node.id], strict=True):
            if config.kind == "link" and isinstance(item.source, NodeOutput):
                output = outputs[item.source]
                config.service = output.service
                config.credit_bell = output.credit_bell if config.policy == "backpressure" else ""
                config.output_slot = output.slot
                config.max_queue_size = output.max_queue_size
                config.max_receivers = output.max_receivers
        configs[node.id] = NodeConfig(
            dataflow_id=place.dataflow_id,
            node_id=node.id,
            engine=place.engine,
            run_dir=place.run_dir,
            prefix=place.prefix,
            board=place.board,
            node_slot=node_slots[node.id],
            bell=bells[node.id],
            inputs=inputs[node.id],
            outputs=[outputs[NodeOutput(node.id, output)] for output in node.outputs],
            operators=[
                OperatorConfig(
                    id=operator.id,
                    source=f"{dataflow.working_dir}/{operator.python}"
                    if not operator.python.startswith("/")
                    else operator.python,
                    inputs=[item.id for item in operator.inputs],
                    outputs=list(operator.outputs),
                )
                for operator in node.operators
            ],
            descriptor=dataflow.descriptor,
            run_config=_run_config(node),
            dynamic=node.is_dynamic,
            exit_when_nodes_finish=dataflow.exit_when_nodes_finish,
            zenoh_endpoint=place.zenoh_endpoint,
        )
    used = tuple(bells.values()) + tuple(o.credit_bell for o in outputs.values() if o.credit_bell)
    return Plan(configs=configs, links=tuple(links), bells=used, lines=next(slots))
