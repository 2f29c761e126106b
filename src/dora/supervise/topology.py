"""A running dataflow becomes another one: which nodes there are, and who feeds whom.

The table that decides about closings:

* A mark "this input is closed" belongs to the source. An input that is fed by something else from now on
  has none, unless the new source has ended already: then it closes at once.
* An input that is taken away delivers what was sent so far, and closes. It does not count any more for
  whether all inputs of its node have closed; a node that has none left waits, as a source does, for
  another one or for a stop. (To end with its last input is right for a node whose sources have ended,
  not for one that is just being wired to another camera.)
* If all inputs that are left have closed before, the node's work is done, and it is told so.
"""

from __future__ import annotations

from collections import deque

import msgspec

from dora.dataflow.model import Dataflow, Node, NodeOutput, Source
from dora.supervise import commands as do
from dora.supervise.graph import Graph
from dora.supervise.node_state import NodeState
from dora.supervise.run_state import STORY_LENGTH, RunState
from dora.wire.control import InputsClosed


class Topology(RunState):
    """The rules about nodes and links that come and go. ``revision`` counts the changes."""

    def __init__(self, dataflow: Dataflow) -> None:
        super().__init__(dataflow)
        self.dataflow = dataflow
        self.revision = 0
        self.spans = False  # there are, or were, other machines

    def _become(self, dataflow: Dataflow, connection: int | None = None) -> None:
        """Take over another dataflow; a node that is not in it must have ended.

        ``connection`` is answered once the links are laid.
        """
        sources = {spec.id: _sources(spec) for spec in self.dataflow.nodes}
        dataflow = self._with_present_parameters(dataflow)
        self.dataflow = dataflow
        self.revision += 1
        self.graph = Graph(dataflow)
        present = {spec.id for spec in dataflow.nodes}
        for node_id in [node_id for node_id in self.nodes if node_id not in present]:
            self._forget_deadlines(self.nodes[node_id])
            del self.nodes[node_id]
            del self._stories[node_id]
        for spec in dataflow.nodes:
            if spec.id in self.nodes:
                self.nodes[spec.id].spec = spec
            else:
                self.nodes[spec.id] = NodeState(spec, parameters=dict(spec.parameters))
                self._stories[spec.id] = deque(maxlen=STORY_LENGTH)
        self._commands.append(do.Rewire(dataflow, connection))
        for node in self.nodes.values():
            self._review_inputs(node, sources.get(node.spec.id, {}))

    def _with_present_parameters(self, dataflow: Dataflow) -> Dataflow:
        """Return a dataflow to come as it is to be recorded: with what was set while it ran."""

        def present(spec: Node) -> Node:
            node = self.nodes.get(spec.id)
            if node is None or node.machine:
                return spec
            return msgspec.structs.replace(spec, parameters=dict(node.parameters))

        return msgspec.structs.replace(dataflow, nodes=tuple(map(present, dataflow.nodes)))

    def _take_parameters(self, node: NodeState, replacement: Dataflow) -> None:
        """Let a node whose program is replaced begin with the parameters of the new one, if it has any."""
        if parameters := replacement.node(node.spec.id).parameters:
            self._set_parameters(node, dict(parameters))

    def _review_inputs(self, node: NodeState, before: dict[str, Source]) -> None:
        now = _sources(node.spec)
        node.inputs_closed = {name for name in node.inputs_closed if now.get(name) == before.get(name)}
        ended = [
            name
            for name, source in now.items()
            if before.get(name) != source
            and isinstance(source, NodeOutput)
            and self._has_ended(node, source)
        ]
        node.inputs_closed.update(ended)
        if ended and node.present:
            self._send(node, InputsClosed(sorted(ended)))

    def _has_ended(self, node: NodeState, source: NodeOutput) -> bool:
        inside = source.node == node.spec.id and node.spec.is_runtime
        return not inside and source.output in self.nodes[source.node].outputs_closed


def _sources(spec: Node) -> dict[str, Source]:
    return {item.id: item.source for item in spec.inputs}
