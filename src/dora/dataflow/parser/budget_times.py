"""Budgets that do not fit to the other times that a dataflow file declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dora.dataflow.durations import duration_text
from dora.dataflow.model import InputSpec, NodeOutput, PathBudget
from dora.dataflow.paths import DataGraph, Vertex, circles_of, vertex_of
from dora.dataflow.problems import ProblemReport
from dora.dataflow.yaml.schema_block import CheckedBlock


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
