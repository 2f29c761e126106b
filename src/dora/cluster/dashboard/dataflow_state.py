"""The state of a dataflow as the page reads it: nodes and links of all machines, merged."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dora.observe.preview.protocol import State
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot, merge


def page_state(
    here: State | None, remote: Mapping[str, State], faults: Mapping[str, str], placed: Mapping[str, str]
) -> bytes:
    """Return the merged state of this machine and of others, as JSON.

    ``remote`` and ``faults``, which say why a machine cannot be observed, are by machine. ``placed`` is
    node → machine.
    """
    states = [*([here] if here else []), *remote.values()]
    nodes: list[NodeSnapshot] = []
    links: list[LinkRate] = []
    if states:
        nodes, links = states[0].snapshot.nodes, states[0].snapshot.links
    if remote:
        reported = {item.node.id: item.node.machine for item in nodes}
        only = "" if here else next(iter(remote))  # a dataflow on one machine does not know its name
        nodes, links = merge(
            nodes,
            links,
            {machine: state.snapshot for machine, state in remote.items()},
            lambda node: placed.get(node) or reported[node] or only,
        )
    troubles = (*(state.trouble for state in states), *faults.values())
    return _as_json(nodes, links, "; ".join(filter(None, troubles)))


def _as_json(nodes: list[NodeSnapshot], links: list[LinkRate], trouble: str) -> bytes:
    """Return nodes and links as the page reads them."""
    state = {
        "nodes": [
            {
                "id": item.node.id,
                "status": item.node.status,
                "machine": item.node.machine,
                "pid": item.node.pid,
                "restarts": item.node.restarts,
                "cpu": None if item.load is None else round(item.load.cpu_percent, 1),
                "memory": None if item.load is None else item.load.memory,
                "sent_hz": round(item.sent_hz, 2),
                "bytes_per_second": round(item.bytes_per_second),
                "waiting": item.waiting,
                "dropped": item.dropped,
                "quiet": None if item.quiet_s is None else round(item.quiet_s, 1),
                "outputs": [
                    {"id": output.id, "type": output.type, "text": output.text}
                    for output in item.node.outputs
                ],
            }
            for item in nodes
        ],
        "links": [
            {
                "source": rate.link.producer,
                "target": rate.link.consumer,
                "hz": round(rate.hz, 2),
                "bytes_per_second": None if rate.bytes_per_second is None else round(rate.bytes_per_second),
                "waiting": rate.waiting,
                "queue_size": rate.link.queue_size,
                "policy": rate.link.policy,
                "dropped": rate.dropped,
                "dropping_hz": round(rate.dropping_hz, 2),
                "silent": rate.silent,
                "latency": rate.latency_ms,
            }
            for rate in links
        ],
        "trouble": trouble,
    }
    return msgspec.json.encode(state)
