"""Which nodes of a dataflow a recording stands in for, and which run again.

A node runs again if all that it gets from other nodes is there: recorded, or sent by a node that runs again
too. The others, so cameras and everything else without inputs, are replaced by what was recorded of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from dora.dataflow.links import text_outputs
from dora.dataflow.model import Dataflow, NodeOutput, NodeSpec
from dora.dataflow.report import did_you_mean, listed
from dora.errors import DoraError


class ReplayRoles(NamedTuple):
    """Ids of nodes. ``left_out``: they can neither run nor be replaced."""

    replaced: tuple[str, ...]
    live: tuple[str, ...]
    left_out: tuple[str, ...]


def roles(
    dataflow: Dataflow, recorded: Collection[str], replace: Collection[str] | None = None
) -> ReplayRoles:
    """Divide the nodes. ``recorded``: outputs, ``node/output``. ``replace``: these, and no others.

    Raises `DoraError` for a node in ``replace`` that is not there, or of which nothing was recorded.
    """
    if replace is not None:
        return _as_told(dataflow, recorded, replace)
    live = {node.id for node in dataflow.nodes if not node.is_dynamic and any(_sources(dataflow, node))}
    while gone := {node_id for node_id in live if not _is_fed(dataflow, node_id, live, recorded)}:
        live -= gone
    nodes_recorded = {topic.partition("/")[0] for topic in recorded}
    return ReplayRoles(
        replaced=tuple(node.id for node in dataflow.nodes if node.id in nodes_recorded - live),
        live=tuple(node.id for node in dataflow.nodes if node.id in live),
        left_out=tuple(node.id for node in dataflow.nodes if node.id not in nodes_recorded | live),
    )


def _as_told(dataflow: Dataflow, recorded: Collection[str], replace: Collection[str]) -> ReplayRoles:
    ids = [node.id for node in dataflow.nodes]
    for node_id in replace:
        if node_id not in ids:
            hint = did_you_mean(node_id, ids) or f"it has {listed(ids)}"
            raise DoraError(f"the dataflow has no node `{node_id}`; {hint}")
        node = dataflow.node(node_id)
        if node.outputs and not any(f"{node_id}/{output}" in recorded for output in node.outputs):
            raise DoraError(f"nothing of `{node_id}` is in the recording, so nothing can replace it")
    return ReplayRoles(
        replaced=tuple(node_id for node_id in ids if node_id in replace and dataflow.node(node_id).outputs),
        live=tuple(node_id for node_id in ids if node_id not in replace),
        left_out=tuple(
            node_id for node_id in ids if node_id in replace and not dataflow.node(node_id).outputs
        ),
    )


def _sources(dataflow: Dataflow, node: NodeSpec) -> Iterator[NodeOutput]:
    """Yield the outputs of other nodes that a node gets messages from."""
    for item in node.inputs:
        source = item.source
        if not isinstance(source, NodeOutput) or source.node == node.id:
            continue
        if source.output not in text_outputs(dataflow.node(source.node)):
            yield source


def _is_fed(dataflow: Dataflow, node_id: str, live: Collection[str], recorded: Collection[str]) -> bool:
    return all(
        source.node in live or str(source) in recorded
        for source in _sources(dataflow, dataflow.node(node_id))
    )


def in_cycles(dataflow: Dataflow, live: Collection[str]) -> set[tuple[str, str]]:
    """Return the pairs (producer, consumer) of nodes that run again and wait for each other."""
    after: dict[str, set[str]] = {node_id: set() for node_id in live}
    for node_id in live:
        for source in _sources(dataflow, dataflow.node(node_id)):
            if source.node in after:
                after[source.node].add(node_id)

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            new = after[todo.pop()] - found
            found |= new
            todo += new
        return found

    reach = {node_id: reachable(node_id) for node_id in live}
    return {(a, b) for a in live for b in after[a] if a in reach[b]}
