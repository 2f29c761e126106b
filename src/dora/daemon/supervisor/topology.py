"""Applies another dataflow to the state of a run: its nodes, and the links between them.

The rules for closed inputs:

* The mark "this input is closed" belongs to the source. An input that gets another source loses the
  mark, unless the new source has ended already: then the input closes at once.
* An input that is taken away delivers what was sent so far, and closes. It no longer counts when
  dora asks whether all inputs of its node have closed. A node without inputs waits, like a source,
  for another input or for a stop. (To end with its last input is right for a node whose sources
  have ended, but not for one that is just being connected to another camera.)
* If all inputs that are left had closed before, the work of the node is done, and the node is
  informed.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.consumer_graph import NodeGraph
from dora.daemon.supervisor.state import NodeState, RunState
from dora.dataflow.model import Dataflow, NodeOutput, NodeSpec, Source
from dora.wire.node_protocol import InputsClosed


def apply_dataflow(
    run: RunState,
    dataflow: Dataflow,
    connection: int | None = None,
    added: Collection[str] = (),
) -> None:
    """Change to another dataflow; a node that is not in it must have ended.

    ``connection`` gets an answer once the links exist. ``added`` are the nodes that are new in the state,
    even if the present dataflow has others of these names.
    """
    sources = {spec.id: _sources(spec) for spec in run.dataflow.nodes if spec.id not in added}
    dataflow = with_present_parameters(run, dataflow)
    run.dataflow = dataflow
    run.revision += 1
    run.graph = NodeGraph(dataflow)
    present = {spec.id for spec in dataflow.nodes}
    for node_id in [node_id for node_id in run.nodes if node_id not in present]:
        run.disarm_all(run.nodes[node_id])
        del run.nodes[node_id]
    for spec in dataflow.nodes:
        run.nodes[spec.id].spec = spec
    run.emit(do.ApplyDataflow(dataflow, connection))  # first: an input exists before it closes
    for node in run.nodes.values():
        _review_inputs(run, node, sources.get(node.id, {}))


def with_present_parameters(run: RunState, dataflow: Dataflow) -> Dataflow:
    """Return a dataflow to come with the parameters that were set while the present one ran."""

    def present(spec: NodeSpec) -> NodeSpec:
        node = run.nodes.get(spec.id)
        if node is None or node.machine:
            return spec
        return msgspec.structs.replace(spec, parameters=dict(node.parameters))

    return msgspec.structs.replace(dataflow, nodes=tuple(map(present, dataflow.nodes)))


def take_parameters(run: RunState, node: NodeState, dataflow: Dataflow) -> None:
    """Give a node that runs another program the parameters of that program, if it has any."""
    if parameters := dataflow.node(node.id).parameters:
        run.set_parameters(node, dict(parameters))


def _review_inputs(run: RunState, node: NodeState, before: dict[str, Source]) -> None:
    now = _sources(node.spec)
    node.inputs_closed = {name for name in node.inputs_closed if now.get(name) == before.get(name)}
    ended = [
        name
        for name, source in now.items()
        if before.get(name) != source and isinstance(source, NodeOutput) and _has_ended(run, node, source)
    ]
    node.inputs_closed.update(ended)
    if ended and node.present:
        run.send(node, InputsClosed(sorted(ended)))


def _has_ended(run: RunState, node: NodeState, source: NodeOutput) -> bool:
    inside = source.node == node.id and node.spec.is_runtime
    return not inside and source.output in run.nodes[source.node].outputs_closed


def _sources(spec: NodeSpec) -> dict[str, Source]:
    return {item.id: item.source for item in spec.inputs}
