"""The inputs and outputs of a node as `Node.node_config()` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dora.dataflow.describe import canonical
from dora.dataflow.durations import duration_text, rate_text
from dora.dataflow.model import DEFAULT_QUEUE_SIZE, InputSpec, NodeSpec

_ALSO_IN_NODE_CONFIG = ("sync", "output_types", "input_types", "output_framing", "shared_memory_pool_size")


def qos_of(item: InputSpec) -> dict[str, Any]:
    """Return the QoS of an input as YAML has it: `deadline`, `max_age`, `rate`, `keep`."""
    qos: dict[str, Any] = {}
    if item.deadline_ns:
        qos["deadline"] = duration_text(item.deadline_ns)
    if item.max_age_ns:
        qos["max_age"] = duration_text(item.max_age_ns)
    if item.period_ns:
        qos["rate"] = rate_text(item.period_ns)
    if item.keep:
        qos["keep"] = list(item.keep)
    return qos


def run_config_of(node: NodeSpec, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Node.node_config()` promises: short sources, or mappings where an option is set.

    ``block``: the node in the descriptor.
    """
    inputs: dict[str, Any] = {}
    for item in sorted(node.inputs, key=lambda item: item.id):
        options: dict[str, Any] = {}
        if item.queue_size != DEFAULT_QUEUE_SIZE and item.queue_policy != "latest":
            options["queue_size"] = item.queue_size
        if item.queue_policy != "drop_oldest":
            options["queue_policy"] = item.queue_policy
        if item.input_timeout is not None:
            options["input_timeout"] = item.input_timeout
        if item.phase_ns:
            options["phase"] = duration_text(item.phase_ns)
        if item.missed_ticks != "skip":
            options["missed_ticks"] = item.missed_ticks
        options.update(qos_of(item))
        source = canonical(item.source)
        inputs[item.id] = {"source": source, **options} if options else source
    further = {name: block[name] for name in _ALSO_IN_NODE_CONFIG if block.get(name)}
    return {"inputs": inputs, "outputs": sorted(node.outputs), **further}
