"""Paths through a dataflow: how data gets from an output to an input.

A *vertex* is what takes events and sends messages: a node, or an operator of a runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dora.dataflow.model import Dataflow, NodeOutput, NodeSpec, Source
from dora.wire.node_config import BudgetConfig, HopConfig
from dora.wire.trail import MOST_PASSES, origin_id

Vertex = str
"""The id of a node, or "node/operator"."""


def vertex_of(node: NodeSpec, port: str) -> Vertex:
    """Return the vertex that an input or output of a node belongs to.

    ``port`` is its id; in a runtime it begins with the id of the operator, if the operator has one.
    """
    return f"{node.id}/{node.split_port(port)[0]}" if node.is_runtime else node.id


class DataGraph:
    """The vertices of a dataflow and how data goes from one to the next."""

    def __init__(self, nodes: Iterable[NodeSpec]) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.outputs: dict[Vertex, list[NodeOutput]] = {}
        self.feeds: dict[Vertex, set[NodeOutput]] = {}  # the outputs that a vertex gets data from
        for node in self.nodes.values():
            for output in node.outputs:
                self.outputs.setdefault(vertex_of(node, output), []).append(NodeOutput(node.id, output))
            for item in node.inputs:
                if isinstance(item.source, NodeOutput) and item.source.node in self.nodes:
                    self.feeds.setdefault(vertex_of(node, item.id), set()).add(item.source)

    def source_of(self, node_id: str, input_id: str) -> Source | None:
        """Return what feeds an input; None if there is no such input."""
        node = self.nodes.get(node_id)
        return next((item.source for item in node.inputs if item.id == input_id), None) if node else None

    def vertex(self, output: NodeOutput) -> Vertex:
        """Return the vertex that sends on an output."""
        return vertex_of(self.nodes[output.node], output.output)

    def behind(self) -> dict[Vertex, set[Vertex]]:
        """Return for each vertex those that get data from it directly."""
        found: dict[Vertex, set[Vertex]] = {vertex: set() for vertex in {*self.outputs, *self.feeds}}
        for vertex, sources in self.feeds.items():
            for source in sources:
                found.setdefault(self.vertex(source), set()).add(vertex)
        return found

    def between(self, source: NodeOutput, last: NodeOutput) -> set[NodeOutput]:
        """Return the outputs of all paths from one output to another, these two included; or nothing."""
        if source == last:
            return {source}
        behind = self.behind()
        after = _reached(behind, self.fed_by(source))
        before = _reached(_turned(behind), [self.vertex(last)])
        if self.vertex(last) not in after:
            return set()
        on_the_way = {
            output
            for vertex in after & before
            for output in self.outputs.get(vertex, ())
            if output != source
            and (output == last or any(vertex in before for vertex in self.fed_by(output)))
        }
        return {source, last, *on_the_way}

    def fed_by(self, output: NodeOutput) -> list[Vertex]:
        """Return the vertices that get data from an output directly."""
        return [vertex for vertex, sources in self.feeds.items() if output in sources]


def budgets_of(dataflow: Dataflow) -> tuple[dict[str, list[BudgetConfig]], set[NodeOutput]]:
    """Return the budgets of the paths to each input, and the outputs on any of these paths.

    A path that a change of the running dataflow has cut has none; it is back with its links.
    """
    found: dict[str, list[BudgetConfig]] = {}
    stamped: set[NodeOutput] = set()
    if not dataflow.paths:
        return found, stamped
    graph = DataGraph(dataflow.nodes)
    for path in dataflow.paths:
        last = graph.source_of(path.node, path.input)
        if not isinstance(last, NodeOutput) or not (between := graph.between(path.source, last)):
            continue
        stamped |= between
        hops = [
            HopConfig(
                origin_id(str(output)),
                str(output),
                [
                    origin_id(str(other))
                    for other in sorted(graph.feeds.get(graph.vertex(output), ()), key=str)
                    if other in between
                ],
            )
            # The output that feeds the input is last.
            for output in sorted(between, key=lambda each: (each == last, str(each)))
        ]
        found.setdefault(path.sink, []).append(
            BudgetConfig(str(path.source), path.budget_ns, hops, path.on_miss, path.after)
        )
    return found, stamped


def most_passes(nodes: Iterable[NodeSpec]) -> dict[Vertex, int]:
    """Return how often an origin is passed on at most, for each vertex that is in a circle.

    Without this, an origin would go round in a circle forever. A message that was passed on as often as the
    longest way to the vertex has vertices, each once, has been there before.
    """
    behind = DataGraph(nodes).behind()
    circles = circles_of(behind)
    circle_of = {vertex: number for number, circle in enumerate(circles) for vertex in circle}
    before = _turned(behind)
    longest: list[int] = []  # by circle, in the order of data: the vertices on the way to its last vertex
    for number, circle in enumerate(circles):
        outside = [
            longest[circle_of[vertex]] + 1
            for member in circle
            for vertex in before.get(member, ())
            if circle_of[vertex] != number
        ]
        longest.append(max(outside, default=0) + len(circle) - 1)
    return {
        vertex: min(longest[circle_of[vertex]], MOST_PASSES)
        for vertex, following in behind.items()
        if len(circles[circle_of[vertex]]) > 1 or vertex in following
    }


def _reached(following: Mapping[Vertex, Iterable[Vertex]], begin: Iterable[Vertex]) -> set[Vertex]:
    """Return the vertices that are reached from some, these included."""
    found = set(begin)
    waiting = list(found)
    while waiting:
        for vertex in following.get(waiting.pop(), ()):
            if vertex not in found:
                found.add(vertex)
                waiting.append(vertex)
    return found


def _turned(following: Mapping[Vertex, Iterable[Vertex]]) -> dict[Vertex, set[Vertex]]:
    turned: dict[Vertex, set[Vertex]] = {vertex: set() for vertex in following}
    for vertex, others in following.items():
        for other in others:
            turned.setdefault(other, set()).add(vertex)
    return turned


def circles_of(following: Mapping[Vertex, Iterable[Vertex]]) -> list[list[Vertex]]:
    """Return the strongly connected components, in the order of data (Kosaraju's algorithm)."""
    order: list[Vertex] = []
    seen: set[Vertex] = set()
    for root in following:
        if root in seen:
            continue
        seen.add(root)
        path = [(root, iter(following.get(root, ())))]
        while path:
            vertex, rest = path[-1]
            for other in rest:
                if other not in seen:
                    seen.add(other)
                    path.append((other, iter(following.get(other, ()))))
                    break
            else:
                order.append(vertex)
                path.pop()
    turned = _turned(following)
    circles: list[list[Vertex]] = []
    taken: set[Vertex] = set()
    for root in reversed(order):
        if root in taken:
            continue
        circle, waiting = [], [root]
        taken.add(root)
        while waiting:
            vertex = waiting.pop()
            circle.append(vertex)
            for other in turned.get(vertex, ()):
                if other not in taken:
                    taken.add(other)
                    waiting.append(other)
        circles.append(circle)
    return circles
