"""Plan the gateway of a machine: what it receives from the nodes here, and what it sends to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from dora.dataflow.layout import Layout, Link
from dora.dataflow.model import NodeOutput
from dora.errors import DoraError
from dora.wire.daemon_protocol import NetworkView, StreamView
from dora.wire.node_config import (
    ChannelConfig,
    GatewayConfig,
    InputConfig,
    NodeConfig,
    OutputConfig,
    RemoteConfig,
    StreamConfig,
)
from dora.wire.output_rules import LatchRule


def plan_gateway(
    layout: Layout,
    fed: Mapping[NodeOutput, list[Link]],
    outputs: Mapping[NodeOutput, OutputConfig],
    channels: Mapping[int, ChannelConfig],
) -> GatewayConfig | None:
    """Lay out the gateway of this machine: what it receives and sends here, and the other machines.

    Raises `DoraError` if it cannot have a road to one of them.
    """
    context = layout.context
    placement = context.placement
    if placement.remote is None:
        return None
    streams: list[StreamConfig] = []
    sources: dict[str, str] = {}
    sent: list[OutputConfig] = []
    for source, links in fed.items():
        name, output = layout.output_name(source), outputs[source]
        if machine := placement.elsewhere(source.node):
            if any(link.ends_here for link in links):
                sources[name] = machine
                latched = output.latched
                if latched is not None:  # it outlasts the gateway
                    latched = LatchRule(latched.depth, survive_restart=True)
                sent.append(msgspec.structs.replace(output, id=name, latched=latched))
            continue
        for machine in sorted({link.target_machine for link in links if not link.ends_here}):
            there = [link for link in links if link.target_machine == machine]
            streams.append(_stream(layout, name, machine, output, there, channels))
    node = NodeConfig(
        dataflow_id=context.dataflow_id,
        node_id="gateway",
        engine=context.engine,
        run_dir=context.run_dir,
        prefix=context.prefix,
        board=context.board,
        node_slot=layout.gateway_slot,
        bell=layout.gateway_bell,
        inputs=[stream.item for stream in streams],
        outputs=sent,
    )
    machines = {*sources.values(), *(stream.machine for stream in streams)}
    _check_reach(placement.machine, placement.remote, machines)
    networks = {name: slot for name, slot in layout.network_slots.items() if name in machines}
    return GatewayConfig(placement.machine, placement.remote, node, streams, sources, networks)


def _check_reach(machine: str, remote: RemoteConfig, others: Iterable[str]) -> None:
    """Raise `DoraError` if neither this machine nor another one has a port for the links between them."""
    if not remote.listen.endswith(":0"):
        return
    for other in sorted(others):
        if remote.reach.get(other) == "":
            raise DoraError(
                f"the daemons of machines `{machine}` and `{other}` both have `--link-port 0`, so neither "
                "can reach the other; start one of them without it"
            )


def networks_of(config: GatewayConfig | None) -> list[NetworkView]:
    """Return the networks from this machine, with the outputs that go over them."""
    if config is None:
        return []
    return [
        NetworkView(
            slot,
            machine,
            [
                # A node that replaces another one of this id has a number behind its name.
                StreamView(stream.item.slot, stream.name.partition("~")[0])
                for stream in config.streams
                if stream.machine == machine
            ],
        )
        for machine, slot in config.networks.items()
    ]


def _stream(
    layout: Layout,
    name: str,
    machine: str,
    output: OutputConfig,
    links: list[Link],
    channels: Mapping[int, ChannelConfig],
) -> StreamConfig:
    """Lay out what an output sends to another machine, for all receivers there."""
    # One of the channels: the one that it has, else the one with the most room.
    known = layout.stream_channels.get((name, machine))
    channel = max(
        (channels[link.slot] for link in links),
        key=lambda channel: (channel.service == known, channel.max_queue_size),
    )
    slots = {link.slot for link in links}
    loses_nothing = any(link.queue_policy == "backpressure" for link in links)
    ages = [link.max_age_ns for link in links]
    item = InputConfig(
        id=f"{name} to {machine}",
        kind="link",
        source=name,
        # A link that came late may have a longer queue than the channel was made for.
        queue_size=min(max(link.length for link in links), channel.max_queue_size),
        queue_policy="backpressure" if loses_nothing else "drop_oldest",
        keep=tuple(sorted({key for link in links for key in link.keep})),
        # A message goes as long as one of the receivers would take it.
        max_age_ns=0 if loses_nothing or 0 in ages else max(ages),
        service=channel.service,
        slot=layout.stream_slots[name, machine],
        output_slot=output.slot,
        max_queue_size=channel.max_queue_size,
        max_receivers=channel.max_receivers,
    )
    there = [link for link in output.links if link.slot in slots]
    return StreamConfig(name, machine, item, there, output.credit_bell, output.priority, output.latched)
