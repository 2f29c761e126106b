"""A graph as text in the language of Mermaid, which GitHub and many editors draw."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dora.dataflow.graph import Box, Edge, Graph, Group
from dora.dataflow.model import DEFAULT_QUEUE_SIZE

_SHAPES = {
    "node": ('["', '"]'),
    "dynamic": ('[/"', '"/]'),
    "shell": ('["', '"]'),
    "operator": ('(["', '"])'),
    "timer": ('(("', '"))'),
    "logs": ('[("', '")]'),
}


def flowchart(graph: Graph) -> str:
    """Return the Mermaid flowchart of a graph, ending in a newline."""
    return "\n".join(_Flowchart(graph).lines()) + "\n"


class _Flowchart:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # Ids of ours may hold characters and words that mean something in Mermaid.
        self._names: dict[str, str] = {}
        items: tuple[Group | Box, ...] = (*graph.groups, *graph.boxes)
        for item in items:
            name = f"{item.kind}_{re.sub(r'[^A-Za-z0-9]+', '_', item.id)}"
            taken = set(self._names.values())
            self._names[item.id] = name if name not in taken else f"{name}_{len(taken)}"

    def lines(self) -> Iterator[str]:
        yield "flowchart LR"
        yield from self._inside(None, "  ")
        for edge in self._graph.edges:
            arrow = "-.->" if edge.kind in ("timer", "text") else "-->"
            label = _quoted(_edge_label(edge))
            yield f'  {self._names[edge.source]} {arrow}|"{label}"| {self._names[edge.target]}'

    def _inside(self, group: str | None, indent: str) -> Iterator[str]:
        for inner in self._graph.groups:
            if inner.group == group:
                yield from self._group(inner, indent)
        for box in self._graph.boxes:
            if box.group == group:
                yield self._box(box, indent)

    def _group(self, group: Group, indent: str) -> Iterator[str]:
        yield f'{indent}subgraph {self._names[group.id]}["{_quoted(group.label)}"]'
        yield from self._inside(group.id, indent + "  ")
        yield f"{indent}end"

    def _box(self, box: Box, indent: str) -> str:
        before, after = _SHAPES[box.kind]
        return f"{indent}{self._names[box.id]}{before}{_quoted(box.label)}{after}"


def _edge_label(edge: Edge) -> str:
    """Return the output, the input if it is called otherwise, and what is not the default."""
    words = edge.input if edge.output in ("", edge.input) else f"{edge.output} → {edge.input}"
    if edge.queue_policy == "backpressure":
        words += ", backpressure"
    if edge.queue_size != DEFAULT_QUEUE_SIZE:
        words += f", queue {edge.queue_size}"
    return words


def _quoted(text: str) -> str:
    """Return text for between double quotes: Mermaid knows entities with `#`, no backslashes."""
    return (
        text.replace("&", "&amp;")
        .replace("#", "#35;")
        .replace('"', "#quot;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\n", " ")
    )
