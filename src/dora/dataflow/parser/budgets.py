"""The paths of a dataflow file: how long data may take from an output to an input."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple, get_args

from dora.dataflow.durations import duration_text
from dora.dataflow.model import InputSpec, NodeOutput, NodeSpec, OnMiss, PathBudget, TimerSource
from dora.dataflow.paths import DataGraph, Vertex, circles_of, vertex_of
from dora.dataflow.problems import MAX_LISTED, ProblemReport, listed
from dora.dataflow.yaml.field_types import ChoiceType, ListType, TextType
from dora.dataflow.yaml.number_types import DurationType, IntegerType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock

_MOST = 1_000_000

PATH = SchemaBlock(
    "a path",
    [
        Field(
            "from",
            TextType("an output", may_be_empty=False),
            "The output at which the time begins: `node/output`, or `node/operator/output`.",
            required=True,
        ),
        Field(
            "to",
            TextType("an input", may_be_empty=False),
            "The input at which the time ends, when the message is taken: `node/input`, or "
            "`node/operator/input`.",
            required=True,
        ),
        Field("budget", DurationType(), "How long data may take, for example `40ms`.", required=True),
        Field(
            "on_miss",
            ChoiceType(get_args(OnMiss)),
            "What happens if it takes longer: a warning in the log, the event `BUDGET_MISSED` before the "
            "message that is late, the safe state of the input's source instead of it, a warning and a "
            "file of the black box, or the dataflow is stopped.",
            default="warn",
        ),
        Field(
            "after",
            IntegerType(1, _MOST),
            "After how many late messages in a row it happens.",
            default=1,
        ),
    ],
    example="{from: camera/image, to: motor/command, budget: 40ms}",
)

PATHS = ListType(PATH, "paths", "begin each path with `- from:`", keeps_rest=True)


def budgets_of(
    blocks: tuple[CheckedBlock, ...],
    nodes: tuple[NodeSpec, ...],
    report: ProblemReport,
    safe_states: Container[NodeOutput],
) -> tuple[PathBudget, ...]:
    """Return the budgets of paths that exist; report the others, and warn of times that do not fit."""
    graph = DataGraph(nodes)
    found: dict[tuple[NodeOutput, str], tuple[PathBudget, CheckedBlock]] = {}
    for block in blocks:
        budget = _budget(block, graph, report, safe_states)
        if budget is None:
            continue
        key = budget.source, budget.sink
        if key in found:
            report.error(
                block.span,
                f"there are two budgets from `{budget.source}` to `{budget.sink}`",
                "keep the one that is meant",
            )
        found.setdefault(key, (budget, block))
    check_budget_times(dict(found.values()), graph, report)
    return tuple(budget for budget, _ in found.values())


def _budget(
    block: CheckedBlock,
    graph: DataGraph,
    report: ProblemReport,
    safe_states: Container[NodeOutput],
) -> PathBudget | None:
    source, sink = _port(block, "from", graph, report), _port(block, "to", graph, report)
    if source is None or sink is None or block.get("budget") is None:
        return None
    output, (node_id, input_id) = NodeOutput(*source), sink
    if output.output in graph.nodes[output.node].log.outputs:
        report.error(
            block.place("from"),
            f"no time is measured from `{output}`, which carries lines of text",
            "begin the path with an output that the program sends to",
        )
        return None
    item = next(item for item in graph.nodes[node_id].inputs if item.id == input_id)
    if not isinstance(item.source, NodeOutput):
        kind = "a timer feeds it" if isinstance(item.source, TimerSource) else "log entries feed it"
        report.error(
            block.place("to"),
            f"no data gets to `{node_id}/{input_id}`: {kind}",
            "name an input that an output of a node feeds",
        )
        return None
    if not graph.between(output, item.source):
        report.error(
            block.place("to"),
            f"there is no path from `{output}` to `{node_id}/{input_id}`",
            f"data gets there from {listed(_origins(graph, item.source), MAX_LISTED)}",
        )
        return None
    if block.get("on_miss") == "safe_state" and item.source not in safe_states:
        report.error(
            block.place("on_miss"),
            f"the output `{item.source}`, which feeds `{node_id}/{input_id}`, has no safe state",
            f"give it one: `- {item.source.output}: {{safe_state: {{value: [0.0]}}}}`",
        )
    budget, on_miss, after = block.get("budget"), block.get("on_miss"), block.get("after")
    return PathBudget(output, node_id, input_id, budget, on_miss, after)


def _port(
    block: CheckedBlock, field: str, graph: DataGraph, report: ProblemReport
) -> tuple[str, str] | None:
    """Return the node and the id of the output ``from``, or of the input ``to``, if it exists."""
    text = block.get(field)
    if text is None:
        return None
    noun, here = ("output", "where a path begins") if field == "from" else ("input", "where a path ends")
    node_id, slash, port = str(text).partition("/")
    if not slash:
        report.error(
            block.place(field),
            f"`{text}` is no {noun}",
            f"write `<node>/<{noun}>`, for example "
            f"`{'camera/image' if field == 'from' else 'motor/command'}`",
        )
        return None
    node = graph.nodes.get(node_id)
    if node is None:
        hint = report.did_you_mean(node_id, graph.nodes)
        hint = hint or f"its nodes are {listed(graph.nodes, MAX_LISTED)}"
        report.error(block.place(field), f"the dataflow has no node `{node_id}`, {here}", hint)
        return None
    known = node.outputs if field == "from" else tuple(item.id for item in node.inputs)
    if port not in known and len(node.operators) == 1:  # as in a source
        only = node.operators[0]
        port = f"{only.prefix}{port.removeprefix(f'{only.id}/')}"
    if port not in known:
        closest = report.closest(port, known)
        hint = (
            f"did you mean `{node_id}/{closest}`?"
            if closest
            else f"its {noun}s are {listed(known, MAX_LISTED)}"
        )
        report.error(
            block.place(field),
            f"node `{node_id}` has no {noun} `{port}`, {here}",
            hint if known else f"it has no {noun}s",
        )
        return None
    return node_id, port


def _origins(graph: DataGraph, output: NodeOutput) -> list[str]:
    """Return the outputs from which data gets to an output, itself included, the nearest first."""
    found, waiting = {output: None}, [output]
    while waiting:
        for other in sorted(graph.feeds.get(graph.vertex(waiting.pop(0)), ()), key=str):
            if other not in found:
                found[other] = None
                waiting.append(other)
    return [str(other) for other in found]


class _Time(NamedTuple):
    """A time that may pass on a path."""

    time_ns: int
    why: str


def check_budget_times(
    budgets: Mapping[PathBudget, CheckedBlock], graph: DataGraph, report: ProblemReport
) -> None:
    """Warn of budgets that are missed although all is in time on the way, and of those never missed."""
    for budget, block in budgets.items():
        item = _input(graph, budget)
        written = duration_text(budget.budget_ns)
        path = f"from `{budget.source}` to `{budget.sink}`"
        if item.source == budget.source and 0 < item.max_age_ns <= budget.budget_ns and not item.keep:
            report.warn(
                block.place("budget"),
                f"the budget of {written} {path} is never missed, because the input has `max_age: "
                f"{duration_text(item.max_age_ns)}`, and gets no older messages",
                "choose a shorter budget, or a longer `max_age`",
            )
        times = _DeclaredTimes(budget, graph, budgets).longest()
        total = sum(each.time_ns for each in times)
        if total > budget.budget_ns:
            allowed = ", ".join(each.why for each in times)
            allowed += f" add up to {duration_text(total)}" if len(times) > 1 else " are allowed"
            report.warn(
                block.place("budget"),
                f"the budget of {written} {path} may be missed although nothing is late on the way: "
                f"{allowed}",
                "choose a longer budget, or shorter times on the way",
            )


def _input(graph: DataGraph, budget: PathBudget) -> InputSpec:
    return next(item for item in graph.nodes[budget.node].inputs if item.id == budget.input)


class _DeclaredTimes:
    """The times on the way of one path: budgets of its parts, and timeouts of sets."""

    def __init__(self, path: PathBudget, graph: DataGraph, budgets: Iterable[PathBudget]) -> None:
        item = _input(graph, path)
        assert isinstance(item.source, NodeOutput)
        self._path = path
        self._graph = graph
        self._outputs = graph.between(path.source, item.source)
        self._parts: dict[NodeOutput, list[PathBudget]] = {}  # by the output with which they begin
        for part in budgets:
            if part.sink != path.sink or part.source != path.source:
                fed_by = _input(graph, part).source
                if part.source in self._outputs and fed_by in self._outputs:
                    self._parts.setdefault(part.source, []).append(part)
        self._after: dict[Vertex, list[_Time]] = {}

    def longest(self) -> list[_Time]:
        """Return the times of the way on which they add up to most. In a circle they count once."""
        order = [vertex for circle in circles_of(self._graph.behind()) for vertex in circle]
        for vertex in reversed(order):  # against the direction of data
            outputs = [output for output in self._graph.outputs.get(vertex, ()) if output in self._outputs]
            if outputs:
                further = max((self._from(output) for output in outputs), key=_total)
                self._after[vertex] = [*self._timeouts(vertex), *further]
        return self._from(self._path.source)

    def _from(self, output: NodeOutput) -> list[_Time]:
        """Return the times from an output on; the times of its receivers are known."""
        choices = [self._after.get(vertex, []) for vertex in self._graph.fed_by(output)]
        for part in self._parts.get(output, ()):
            why = f"{duration_text(part.budget_ns)} from `{part.source}` to `{part.sink}`"
            reached = vertex_of(self._graph.nodes[part.node], part.input)
            further = [] if part.sink == self._path.sink else self._after.get(reached, [])
            choices.append([_Time(part.budget_ns, why), *further])
        return max(choices, key=_total, default=[])

    def _timeouts(self, vertex: Vertex) -> list[_Time]:
        """Return the longest wait for a set that a message of the path leads."""
        node = self._graph.nodes[vertex.partition("/")[0]]
        sources = {item.id: item.source for item in node.inputs}
        timeouts = [
            _Time(group.timeout_ns, f"{duration_text(group.timeout_ns)} for a set of `{node.id}/{lead}`")
            for group in node.syncs
            if (lead := group.inputs[0])
            and vertex_of(node, lead) == vertex
            and group.timeout_ns
            and sources.get(lead) in self._outputs
        ]
        return [max(timeouts)] if timeouts else []


def _total(times: Iterable[_Time]) -> int:
    return sum(each.time_ns for each in times)
