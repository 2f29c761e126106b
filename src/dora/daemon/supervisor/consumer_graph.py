"""Graph of a dataflow: which node feeds which, as closing and ending need it."""

from __future__ import annotations

from collections.abc import Collection

from dora.dataflow.layout import text_outputs
from dora.dataflow.model import Dataflow, LogSource, NodeOutput, TimerSource


class NodeGraph:
    """Precomputed edges between nodes, without those inside one runtime.

    ``consumers[node][output]`` lists the (consumer, input id) pairs that an output feeds.
    ``work[node]`` holds the inputs that must close before the node's work is done; it is empty for
    a source, and also for a node whose inputs can never all close.
    ``text[node]`` holds the outputs that carry captured lines: they end with the process.
    """

    def __init__(self, dataflow: Dataflow) -> None:
        self.consumers: dict[str, dict[str, list[tuple[str, str]]]] = {
            node.id: {output: [] for output in node.outputs} for node in dataflow.nodes
        }
        self.work: dict[str, frozenset[str]] = {}
        self._reached: dict[str, set[str]] = {}  # node → those that its messages reach
        self.text: dict[str, frozenset[str]] = {
            node.id: frozenset(text_outputs(node)) for node in dataflow.nodes
        }
        for node in dataflow.nodes:
            data: set[str] = set()
            endless = False
            for item in node.inputs:
                match item.source:
                    case TimerSource() | LogSource():
                        endless = True
                    case NodeOutput(node=source, output=output):
                        if source == node.id and node.is_runtime:
                            continue
                        data.add(item.id)
                        self.consumers[source].setdefault(output, []).append((node.id, item.id))
            if endless and not dataflow.exit_when_nodes_finish:
                data.clear()
            self.work[node.id] = frozenset(data)

    def inputs_fed_by(self, node_id: str, outputs: Collection[str] | None = None) -> dict[str, list[str]]:
        """Return consumer → its inputs that this node feeds. ``outputs``: only by these; None: by all."""
        fed: dict[str, list[str]] = {}
        consumers = self.consumers.get(node_id, {})
        for output in consumers if outputs is None else sorted(outputs):
            for consumer, input_id in consumers.get(output, ()):
                fed.setdefault(consumer, []).append(input_id)
        return fed

    def feeds(self, node_id: str, other_id: str) -> bool:
        """Return whether messages of a node reach another one, directly or through others."""
        reached = self._reached.get(node_id)
        if reached is None:
            reached = self._reached[node_id] = set()
            waiting = [node_id]
            while waiting:
                for consumer in self.inputs_fed_by(waiting.pop()):
                    if consumer not in reached:
                        reached.add(consumer)
                        waiting.append(consumer)
        return other_id in reached
