"""A dataflow as a graph for drawings: boxes with ports, and the edges between them.

`graph_of` is pure. Its result becomes JSON unchanged (`msgspec.json.encode`), which the page of
``dora graph`` draws; `flowchart` writes it as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal

import msgspec

from dora.dataflow.durations import duration_text, rate_text
from dora.dataflow.layout import link_kind
from dora.dataflow.model import (
    Dataflow,
    InputSpec,
    LogSource,
    NodeOutput,
    NodeSpec,
    TimerSource,
    asks_for_drops,
)
from dora.dataflow.parser.sync import described
from dora.dataflow.rules import input_rules_in_yaml, label_of, output_rules_in_words
from dora.wire.input_rules import DEFAULT_QUEUE_SIZE, INPUT_RULES, QueuePolicy
from dora.wire.node_config import InputKind

BoxKind = Literal["node", "dynamic", "shell", "operator", "timer", "logs"]
GroupKind = Literal["runtime", "module"]

_UNITS = {"secs": "s", "millis": "ms", "micros": "µs", "nanos": "ns"}


class Box(msgspec.Struct, frozen=True):
    """A sender or receiver: a node, an operator, or a source that dora itself provides.

    Ids are as in the YAML: ``camera``, ``numbers/square`` for an operator among several,
    ``dora/timer/hz/30``.
    """

    id: str
    label: str
    kind: BoxKind
    group: str | None = None  # id of the group around it
    program: str = ""  # as written: a path, a command with its arguments
    description: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """Boxes that belong together: the operators of a runtime, the nodes of a module."""

    id: str
    label: str
    kind: GroupKind
    group: str | None = None
    description: str = ""


class EdgeRule(msgspec.Struct, frozen=True):
    """A rule of an output or input: its name, in a few words ("": drawings leave the rule out), and as a
    sentence.
    """

    name: str
    label: str
    sentence: str


class Edge(msgspec.Struct, frozen=True):
    """One output → input edge. ``source`` and ``target`` are ids of boxes."""

    source: str
    output: str  # "" for timers and logs
    target: str
    input: str
    kind: InputKind
    queue_size: int
    queue_policy: QueuePolicy
    rules: tuple[EdgeRule, ...] = ()  # of the output, then the others of the input, as in their tables
    type: str = ""  # of the messages, for example "std/media/v1/Image"; "" if none is declared
    sync: str = ""  # the input that leads its group, and how it matches; "" if it is in no group
    asks_for_drops: bool = False  # the input does without older messages
    budgets: tuple[str, ...] = ()  # of the paths that end here: "40ms from camera/image"


class Graph(msgspec.Struct, frozen=True):
    boxes: tuple[Box, ...]
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]


def graph_of(dataflow: Dataflow) -> Graph:
    """Return the graph of a dataflow.

    Every timer and every source of logs is one box, however many inputs listen to it, and however they
    write it. A runtime with one unnamed operator is a box like a node's; other runtimes are groups.
    """
    boxes: list[Box] = []
    groups = _modules(dataflow)
    for node in dataflow.nodes:
        if node.is_runtime and not _stands_alone(node):
            label = node.name or _short(node.id, node.module)
            groups.append(Group(node.id, label, "runtime", node.module or None, node.description or ""))
        boxes += _boxes(node)
    makers = {
        NodeOutput(node.id, full): (box, output)
        for node in dataflow.nodes
        for box, output, full in _outputs(node)
    }
    given: dict[tuple[int | str | None, ...], Box] = {}  # by what makes two sources the same
    edges: list[Edge] = []
    nodes = {node.id: node for node in dataflow.nodes}
    for node in dataflow.nodes:
        for target, name, full, item in _inputs(node):
            if isinstance(item.source, NodeOutput):
                source, output = makers[item.source]
            else:
                source, output = given.setdefault(_identity(item.source), _given(item.source)).id, ""
            edges.append(
                Edge(
                    source=source,
                    output=output,
                    target=target,
                    input=name,
                    kind=link_kind(nodes, node, item),
                    queue_size=item.queue_size,
                    queue_policy=item.queue_policy,
                    rules=(*_output_rules(nodes, item), *_input_rules(item)),
                    type=_type(dataflow, f"{node.id}/{full}", str(item.source)),
                    sync=_sync(node, full),
                    asks_for_drops=asks_for_drops(item.queue_policy, item.queue_size),
                    budgets=tuple(
                        f"{duration_text(path.budget_ns)} from {path.source}"
                        for path in dataflow.paths
                        if path.sink == f"{node.id}/{full}"
                    ),
                )
            )
    return Graph((*given.values(), *boxes), tuple(groups), tuple(edges))


def _output_rules(nodes: Mapping[str, NodeSpec], item: InputSpec) -> Iterator[EdgeRule]:
    """Yield the rules of the output that feeds an input."""
    if isinstance(item.source, NodeOutput):
        rules = nodes[item.source.node].rules_of_output(item.source.output)
        for rule, words in output_rules_in_words(rules):
            yield EdgeRule(rule.name, label_of(rule, rules), _with_stop(rule.sentence.format(words)))


def _input_rules(item: InputSpec) -> tuple[EdgeRule, ...]:
    """Return the rules of an input beside its queue, which every edge has."""
    given = input_rules_in_yaml(item)
    return tuple(
        EdgeRule(rule.name, rule.label.format(value), _with_stop(rule.sentence.format(value)))
        for rule in INPUT_RULES
        if rule.name in given and rule.name not in ("queue_size", "queue_policy")
        for value in [_written(given[rule.name])]
    )


def _with_stop(sentence: str) -> str:
    """Return a sentence that ends with a stop: a description may lack it, or end in a line break.

    >>> _with_stop("Description: Is it on?"), _with_stop("Description: The road ahead")
    ('Description: Is it on?', 'Description: The road ahead.')
    """
    sentence = sentence.rstrip()
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."


def _written(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _modules(dataflow: Dataflow) -> list[Group]:
    ids = dict.fromkeys(node.module for node in dataflow.nodes if node.module)
    groups = []
    for module in ids:
        outer = accumulate(module.split(".")[:-1], "{}.{}".format)
        around = max((name for name in outer if name in ids), key=len, default=None)
        groups.append(Group(module, _short(module, around or ""), "module", around))
    return groups


def _short(id: str, module: str) -> str:
    """Return the id of a node as its module calls it."""
    return id.removeprefix(f"{module}.") if module else id


def _label(node: NodeSpec) -> str:
    """Return the label of a node without a name; one that connects with ROS 2 says with what."""
    short = _short(node.id, node.module)
    return f"{short}: ROS 2 {', '.join(node.ros2.names)}" if node.ros2 else short


def _stands_alone(node: NodeSpec) -> bool:
    return len(node.operators) == 1 and node.operators[0].alone


def _box_id(node: NodeSpec, operator_id: str) -> str:
    return node.id if _stands_alone(node) else f"{node.id}/{operator_id}"


def _boxes(node: NodeSpec) -> Iterator[Box]:
    if not node.is_runtime:
        kind: BoxKind = "dynamic" if node.is_dynamic else "shell" if node.is_shell else "node"
        words = node.args if node.is_shell else (node.path or "", *node.args)
        yield Box(
            id=node.id,
            label=node.name or _label(node),
            kind=kind,
            group=node.module or None,
            program=node.ros2.in_words() if node.ros2 else "" if node.is_dynamic else " ".join(words),
            description=node.description or "",
            inputs=tuple(item.id for item in node.inputs),
            outputs=node.outputs,
        )
    for operator in node.operators:
        alone = _stands_alone(node)
        short = _short(node.id, node.module)
        names = (operator.name, node.name, short) if alone else (operator.name, operator.id)
        yield Box(
            id=_box_id(node, operator.id),
            label=next(name for name in names if name),
            kind="operator",
            group=(node.module or None) if alone else node.id,
            program=operator.python,
            description=operator.description or (node.description if alone else "") or "",
            inputs=tuple(item.id for item in operator.inputs),
            outputs=operator.outputs,
        )


def _outputs(node: NodeSpec) -> Iterator[tuple[str, str, str]]:
    """Yield (id of the box, output as the box calls it, output as the node calls it)."""
    if not node.is_runtime:
        for output in node.outputs:
            yield node.id, output, output
    for operator in node.operators:
        for output in operator.outputs:
            yield _box_id(node, operator.id), output, f"{operator.prefix}{output}"


def _inputs(node: NodeSpec) -> Iterator[tuple[str, str, str, InputSpec]]:
    """Yield (id of the box, input as the box calls it, input as the node calls it, the input)."""
    if not node.is_runtime:
        for item in node.inputs:
            yield node.id, item.id, item.id, item
    for operator in node.operators:
        for item in operator.inputs:
            yield _box_id(node, operator.id), item.id, f"{operator.prefix}{item.id}", item


def _type(dataflow: Dataflow, input_id: str, output_id: str) -> str:
    declared = dataflow.types.inputs.get(input_id) or dataflow.types.outputs.get(output_id)
    return declared.name if declared else ""


def _sync(node: NodeSpec, input_id: str) -> str:
    for group in node.syncs:
        if input_id in group.inputs:
            return f"{group.inputs[0].rpartition('/')[2]}: {described(group)}"
    return ""


def _identity(source: TimerSource | LogSource) -> tuple[int | str | None, ...]:
    return (source.interval_ns,) if isinstance(source, TimerSource) else (source.level, source.node)


def _given(source: TimerSource | LogSource) -> Box:
    if isinstance(source, TimerSource):
        *_, unit, number = source.text.split("/")
        if unit == "timer":  # "30hz" or "50ms"
            label = rate_text(source.interval_ns) if number.lower().endswith("hz") else f"every {number}"
        else:
            label = f"{number} Hz" if unit == "hz" else f"every {number} {_UNITS[unit]}"
        return Box(source.text, label, "timer", outputs=("",))
    label = "all logs" if source.level == "stdout" else f"logs: {source.level} and worse"
    return Box(source.text, f"{label} of {source.node}" if source.node else label, "logs", outputs=("",))


# A graph as text in the language of Mermaid, which GitHub and many editors draw.

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
    if edge.queue_policy != "drop_oldest":
        words += f", {edge.queue_policy}"
    if edge.queue_size != DEFAULT_QUEUE_SIZE and edge.queue_policy != "latest":
        words += f", queue {edge.queue_size}"
    for rule in edge.rules:
        words += f", {rule.label}" if rule.label else ""
    if edge.sync:
        words += f", sync {edge.sync}"
    for budget in edge.budgets:
        words += f", budget {budget}"
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
