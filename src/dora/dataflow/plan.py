"""Plan a run: the configuration of each node, its links, their lines on the board, the names of channels.

`plan` is pure: the same dataflow and the same `RunContext` give the same `Plan`. When a running dataflow
changes, the new plan continues the former one: a link that is in both keeps its line, bell and channel.

Three kinds of edges never touch shared memory: timers (made in the node), text (log entries and
captured lines, delivered by the daemon over the control socket), and edges between two operators
of one runtime (passed by reference).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from dora.dataflow.describe import run_config_of
from dora.dataflow.gateway_plan import plan_gateway
from dora.dataflow.layout import Layout, Link, Plan, RunContext
from dora.dataflow.model import (
    ANY,
    Dataflow,
    InputSpec,
    NodeOutput,
    NodeSpec,
    TimerSource,
)
from dora.dataflow.paths import vertex_of
from dora.wire.input_rules import input_rules_of
from dora.wire.node_config import (
    ChannelConfig,
    DoorbellConfig,
    InputConfig,
    LinkConfig,
    NodeConfig,
    OperatorConfig,
    OutputConfig,
)
from dora.wire.output_rules import output_rules_of
from dora.wire.trail import MOST_PASSES, origin_id

# Room on every channel for receivers beyond the links: taps, and restarted receivers whose former process
# is not cleaned up yet.
SPARE_RECEIVERS = 3
MAX_TAPS = 4  # commands that tap one output at the same time
# A sender keeps a record of each message for each possible receiver: 9 MB a receiver for a queue of
# 4,096 messages. Where queues are longer than this, there is room for one tap.
_DEEP_QUEUE = 256
_LONGEST_CHANNEL_NAME = 255  # bytes; iceoryx2's limit
# A channel costs each of its receivers memory for all of them: 0.4 MB of /dev/shm for 16, 1.8 MB for 100,
# and about four times as much of its own. So an output with more links has several channels, and its sender
# copies each message once more for each of them.
_CHANNEL_LINKS = 16
TAP_QUEUE = 16  # messages that the tap of a command holds at most; their sender cannot reuse this memory
# Messages that the tap of a recorder holds if it attaches to a running dataflow: 32 ms at 1 kHz. They
# cost the sender 0.3 MB for all possible receivers, and address space: iceoryx2 reserves 64 times the
# largest message for each place in each queue.
RECORDER_QUEUE = 32
# Links added to a running dataflow take the places of taps, except one. Further ones, and those with longer
# queues, get an overflow channel, with room for so many; the sender copies each message once more for it.
_OVERFLOW_LINKS = 8
_MAX_PREWAKE = 4  # nodes beyond its receivers that a sender may wake early


def plan(dataflow: Dataflow, context: RunContext, former: Plan | None = None) -> Plan:
    """Lay out all links of a dataflow; of one that is running, ``former`` is the plan in force."""
    layout = Layout(dataflow, context, former)
    links = tuple(_links(layout))
    fed: dict[NodeOutput, list[Link]] = {source: [] for source in layout.output_slots}
    for link in links:
        if link.kind == "link":
            fed[NodeOutput(link.producer, link.output)].append(link)
    channels: dict[int, ChannelConfig] = {}
    outputs = {source: _output(layout, source, edges, channels) for source, edges in fed.items()}
    credit_bells = tuple(output.credit_bell for output in outputs.values() if output.credit_bell)
    gateway_bells = (layout.gateway_bell,) if layout.gateway_slot else ()
    return Plan(
        configs={node.id: _node(layout, node, outputs, channels) for node in dataflow.nodes},
        links=links,
        bells=tuple(layout.bells.values()) + credit_bells + gateway_bells,
        lines=layout.lines,
        generations=context.placement.generations,
        gateway=plan_gateway(layout, fed, outputs, channels),
    )


def _links(layout: Layout) -> Iterator[Link]:
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
                    kind=kind,
                    output_slot=layout.output_slots[item.source],
                    engine_queue_size=layout.engine_queue_size(item.source, node, item),
                    source_machine=layout.context.placement.elsewhere(item.source.node),
                    target_machine=layout.context.placement.elsewhere(node.id),
                    generation=layout.generation(node.id, item.id),
                    **input_rules_of(item),
                )


def _channel(dataflow_id: str, source: NodeOutput, slot: int | None = None) -> str:
    """Return the name of an output's channel: the ids, or a digest of them if they are too long.

    ``slot``, of a running dataflow, keeps apart what has the same ids one after the other.
    """
    name = f"{dataflow_id}/{source.node}/{source.output}" + ("" if slot is None else f"@{slot}")
    if len(name) <= _LONGEST_CHANNEL_NAME:
        return name
    import hashlib

    return f"{dataflow_id}/{hashlib.sha256(name.encode()).hexdigest()}"


def _output(
    layout: Layout, source: NodeOutput, links: list[Link], channels: dict[int, ChannelConfig]
) -> OutputConfig:
    """Lay out an output; ``channels`` gets the channel of each of its links, by slot."""
    known = layout.former_outputs.get(source)
    declared = layout.dataflow.types.outputs.get(str(source), ANY)
    is_here = not layout.context.placement.elsewhere(source.node)
    if not is_here:  # the gateway sends its messages here
        links = [link for link in links if link.ends_here]
    waits = is_here and (
        any(link.queue_policy == "backpressure" for link in links) or (known and known.credit_bell)
    )
    slot = layout.output_slots[source]
    vertex = vertex_of(layout.nodes[source.node], source.output)
    if known is not None:
        first = ChannelConfig(known.service, known.max_queue_size, known.max_receivers)
        overflow_channels = _place(layout, links, channels, first, known.overflow_channels)
    else:
        here = [link for link in links if link.ends_here]
        further = here[_CHANNEL_LINKS:] if layout.context.engine == "iceoryx2" else []
        elsewhere = {link.slot for link in further}
        # The gateway is one receiver for each other machine, which is at most one for each link there.
        kept = [link for link in links if link.slot not in elsewhere]
        longest = max([RECORDER_QUEUE, layout.context.tap_queue, *(link.length for link in kept)])
        name = _channel(layout.context.dataflow_id, source, slot if layout.runs else None)
        taps = _taps(longest, layout.context)
        first = ChannelConfig(name, longest, len(kept) + SPARE_RECEIVERS + taps)
        channels.update((link.slot, first) for link in kept)
        overflow_channels = []
        for begin in range(0, len(further), _CHANNEL_LINKS):
            group = further[begin : begin + _CHANNEL_LINKS]
            name = _channel(layout.context.dataflow_id, source, group[0].slot)
            channel = ChannelConfig(name, max(link.length for link in group), len(group) + SPARE_RECEIVERS)
            channels.update((link.slot, channel) for link in group)
            overflow_channels.append(channel)
    return OutputConfig(
        id=source.output,
        service=first.service,
        slot=slot,
        links=[
            LinkConfig(
                slot=link.slot,
                node_slot=layout.node_slots[link.consumer] if link.ends_here else layout.gateway_slot,
                bell=layout.bells[link.consumer] if link.ends_here else layout.gateway_bell,
                consumer=f"{link.consumer}/{link.input}",
                dynamic=layout.nodes[link.consumer].is_dynamic,
                machine=link.target_machine,
                is_encrypted=bool(link.target_machine) and layout.context.placement.is_encrypted,
                engine_queue_size=link.engine_queue_size,
                generation=link.generation,
                **input_rules_of(link),
            )
            for link in links
        ],
        credit_bell=layout.credit_bells[source] if waits else "",
        max_queue_size=first.max_queue_size,
        max_receivers=first.max_receivers,
        overflow_channels=overflow_channels,
        prewake=_prewake(layout, source.node, links),
        type=declared.name,
        shapes=list(declared.shapes),
        origin=origin_id(str(source)),
        most_passes=layout.most_passes.get(vertex, MOST_PASSES),
        stamped=source in layout.stamped,
        **output_rules_of(layout.rules(source)),
    )


def _prewake(layout: Layout, node_id: str, links: list[Link]) -> list[DoorbellConfig]:
    """Return the bells of the nodes that the receivers of an output send to; none if these are many."""
    receivers = {link.consumer for link in links if not link.target_machine}
    slots: dict[int, str] = {}
    for receiver in receivers:
        for reached in layout.receivers.get(receiver, ()):
            if reached in receivers or reached == node_id or layout.context.placement.elsewhere(reached):
                continue
            slots[layout.node_slots[reached]] = layout.bells[reached]
            if len(slots) > _MAX_PREWAKE:
                return []
    return [DoorbellConfig(slot, slots[slot]) for slot in sorted(slots)]


def _taps(longest: int, context: RunContext) -> int:
    if context.tap_queue:
        return 2  # the recorder, and an observer
    return MAX_TAPS if longest <= _DEEP_QUEUE else 1


def _place(
    layout: Layout,
    links: list[Link],
    channels: dict[int, ChannelConfig],
    first: ChannelConfig,
    overflow_channels: list[ChannelConfig],
) -> list[ChannelConfig]:
    """Give each link of a running output its channel; return the further ones that are needed."""
    by_name = {channel.service: channel for channel in (first, *overflow_channels)}
    room = {name: channel.max_receivers - SPARE_RECEIVERS for name, channel in by_name.items()}
    room[first.service] -= 1  # for a tap
    fresh = []
    for link in links:
        known = layout.former_inputs.get((link.consumer, link.input))
        if known is None:
            fresh.append(link)
        else:
            channels[link.slot] = by_name[known.service]
            room[known.service] -= 1
    for link in fresh:
        fitting = [
            name
            for name, channel in by_name.items()
            if layout.context.engine != "iceoryx2"  # the channels of others have no limits
            or (room[name] > 0 and channel.max_queue_size >= link.length)
        ]
        if fitting:
            name = fitting[0]
        else:
            source = NodeOutput(link.producer, link.output)
            name = _channel(layout.context.dataflow_id, source, link.slot)
            by_name[name] = ChannelConfig(
                name, max(TAP_QUEUE, link.length), _OVERFLOW_LINKS + SPARE_RECEIVERS
            )
            room[name] = _OVERFLOW_LINKS
        channels[link.slot] = by_name[name]
        room[name] -= 1
    used = {channels[link.slot].service for link in links}
    return [channel for name, channel in by_name.items() if name in used and name != first.service]


def _input(
    layout: Layout,
    node: NodeSpec,
    item: InputSpec,
    outputs: dict[NodeOutput, OutputConfig],
    channels: dict[int, ChannelConfig],
) -> InputConfig:
    config = InputConfig(
        id=item.id,
        kind=layout.kinds[node.id, item.id],
        source=str(item.source),
        slot=layout.input_slots.get((node.id, item.id), 0),
        engine_queue_size=layout.engine_queue_size(item.source, node, item)
        if isinstance(item.source, NodeOutput)
        else 0,
        kept_by_sync=node.kept_by_sync(item),
        late=layout.is_late(node.id, item.id),
        generation=layout.generation(node.id, item.id),
        **input_rules_of(item),
    )
    if isinstance(item.source, TimerSource):
        config.interval_ns = item.source.interval_ns
        return config
    config.budgets = layout.budgets.get(f"{node.id}/{item.id}", [])
    declared = layout.dataflow.types.inputs.get(f"{node.id}/{item.id}", ANY)
    config.type, config.shapes = declared.name, list(declared.shapes)
    if isinstance(item.source, NodeOutput):
        config.output_slot = outputs[item.source].slot
        config.source_rules = layout.rules(item.source)
    if isinstance(item.source, NodeOutput) and config.kind == "link":
        output = outputs[item.source]
        if config.slot not in channels:  # between two other machines
            return config
        channel = channels[config.slot]
        config.machine = layout.context.placement.elsewhere(item.source.node)
        config.service = channel.service
        if config.queue_policy == "backpressure":
            config.credit_bell = layout.gateway_bell if config.machine else output.credit_bell
        config.max_queue_size = channel.max_queue_size
        config.max_receivers = channel.max_receivers
    return config


def _node(
    layout: Layout,
    node: NodeSpec,
    outputs: dict[NodeOutput, OutputConfig],
    channels: dict[int, ChannelConfig],
) -> NodeConfig:
    dataflow, context = layout.dataflow, layout.context
    return NodeConfig(
        dataflow_id=context.dataflow_id,
        node_id=node.id,
        engine=context.engine,
        run_dir=context.run_dir,
        prefix=context.prefix,
        board=context.board,
        node_slot=layout.node_slots[node.id],
        bell=layout.bells[node.id],
        inputs=[_input(layout, node, item, outputs, channels) for item in node.inputs],
        outputs=[outputs[NodeOutput(node.id, output)] for output in node.outputs],
        operators=[
            OperatorConfig(
                id=operator.id,
                source=os.path.join(dataflow.home_of(node), operator.python),
                inputs=[item.id for item in operator.inputs],
                outputs=list(operator.outputs),
                alone=operator.alone,
            )
            for operator in node.operators
        ],
        syncs=list(node.syncs),
        parameters=node.parameters,
        descriptor=layout.descriptor,
        run_config=run_config_of(node, layout.blocks.get(node.id, {})),
        dynamic=node.is_dynamic,
        lock_memory=node.lock_memory and not node.is_dynamic,
        exit_when_nodes_finish=dataflow.exit_when_nodes_finish,
        other_clocks=layout.other_clocks,
        trace=context.trace,
    )
