"""Safe states of outputs: their block, and whether value, type and conditions fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from typing import Any, Final, NamedTuple, get_args

from msgspec import structs

from dora.dataflow.model import NodeOutput, NodeSpec, PathBudget, PortType, Types
from dora.dataflow.problems import Contradiction, ProblemReport
from dora.dataflow.yaml.field_types import (
    ChoiceType,
    FieldType,
    ListType,
    Reader,
    Schema,
    report_expected,
    shape,
)
from dora.dataflow.yaml.number_types import DurationType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.wire.output_rules import SafeState, SafeStateCondition

_CONDITIONS: Final[tuple[SafeStateCondition, ...]] = get_args(SafeStateCondition)
_BITS: Final = (8, 16, 32, 64)
_INTEGERS: Final = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in _BITS},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in _BITS},
}
_FLOATS: Final = {"float16": 65504.0, "float32": 3.4028234e38, "float64": 1.7976931348623157e308}
_TYPES: Final = (*_FLOATS, *_INTEGERS, "bool", "string")
_KEYS_OF_DORA: Final = {"safe_state": "the reason", "timestamp": "the time at which it is given"}
_OF_DECLARED: Final = {"Boolean": "bool", "Utf8": "string"}  # the others are the same in lower case
Scalar = bool | int | float | str


class ValuesType(FieldType[tuple[Scalar, ...]]):
    """The values of a message: a list of numbers, flags or texts, or one of them."""

    def read(self, value: YamlNode, reader: Reader) -> tuple[Scalar, ...] | None:
        """Return the values; one without a list is a list of one. Infinite numbers and NaN are refused."""
        items = value.items if isinstance(value, SequenceNode) else [value]
        found: list[Scalar] = []
        for item in items:
            scalar = item.value if isinstance(item, ScalarNode) else None
            if not isinstance(scalar, Scalar) or (isinstance(scalar, float) and not isfinite(scalar)):
                report_expected(
                    item, reader, "a finite number, a flag or a text", "for example `value: [0.0, 0.0]`"
                )
                return None
            found.append(scalar)
        return tuple(found)

    def schema(self) -> Schema:
        scalar = {"type": ["number", "boolean", "string"]}
        return {"anyOf": [scalar, {"type": "array", "items": scalar}]}


class MetadataType(FieldType[dict[str, Any]]):
    """The metadata of a message: values of any kind that JSON knows, by name."""

    def read(self, value: YamlNode, reader: Reader) -> dict[str, Any] | None:
        """Return the metadata; None also for a name that dora itself sets."""
        if not isinstance(value, MappingNode):
            report_expected(value, reader, "a mapping of metadata", "for example `metadata: {mode: hold}`")
            return None
        metadata = value.plain()
        for name, meaning in _KEYS_OF_DORA.items():
            if name in metadata:
                problem = f"in the metadata of a safe value, `{name}` is {meaning}, which dora sets"
                reader.report.error(value.entries[name][0], problem, "choose another name")
                return None
        return metadata

    def schema(self) -> Schema:
        return {"type": "object"}


SAFE_STATE: Final = SchemaBlock(
    "`safe_state`",
    [
        Field(
            "value",
            ValuesType(),
            "The value that receivers get: a list of numbers, flags or texts, such as `[0.0, 0.0]`.",
            required=True,
        ),
        Field(
            "type",
            ChoiceType(_TYPES),
            "The Arrow type of the value, such as `float32`. Default: the declared type of the output, or "
            "else `int64`, `float64`, `bool` or `string`, as the values are.",
        ),
        Field(
            "metadata", MetadataType(), "Metadata of the safe value, beside `safe_state` with the reason."
        ),
        Field(
            "when",
            ListType(ChoiceType(_CONDITIONS), "conditions"),
            "The conditions: `deadline` (an input has missed its deadline), `budget` (a path with "
            "`on_miss: safe_state` has), `failed` (the node has ended), "
            "`silent` (no message for as long as `silence` says). Default: all that are possible.",
        ),
        Field("silence", DurationType(), "The pause between messages that counts as `silent`: `100ms`."),
    ],
)


class _Case(NamedTuple):
    """A safe state that is checked, with the rest of the dataflow that it depends on."""

    block: CheckedBlock
    name: str  # of the output, "the output `x` of node `a`"
    declared: PortType | None  # the type of the output
    has_deadline: bool  # an input that it feeds has one
    budget: PathBudget | None  # of a path with `on_miss: safe_state` that ends at such an input

    @property
    def when(self) -> tuple[SafeStateCondition, ...] | None:
        """The conditions that are given, None if none are."""
        found: tuple[SafeStateCondition, ...] | None = self.block.get("when")
        return found

    @property
    def type(self) -> str:
        """The Arrow type of the value: the declared one, the given one, or the type of its values."""
        return self.declared_type or self.block.get("type") or _type_of(self.block.get("value"))

    @property
    def declared_type(self) -> str | None:
        """The declared type, "" if a safe value cannot have it; None if none is declared."""
        if self.declared is None or len(self.declared.shapes) != 1:
            return None
        shape = self.declared.shapes[0]
        name = _OF_DECLARED.get(shape, shape.lower()) if isinstance(shape, str) else ""
        return name if name in _TYPES else ""

    @property
    def possible(self) -> tuple[SafeStateCondition, ...]:
        """The conditions that can hold."""
        possible = {
            "deadline": self.has_deadline,
            "budget": self.budget is not None,
            "failed": True,
            "silent": bool(self.block.get("silence")),
        }
        return tuple(condition for condition in _CONDITIONS if possible[condition])

    def names_impossible(self, condition: SafeStateCondition) -> bool:
        """Return whether `when` names a condition that cannot hold."""
        return condition in (self.when or ()) and condition not in self.possible

    def leaves_out(self, condition: SafeStateCondition) -> bool:
        """Return whether `when` is given without a condition that the rest of the file prepares."""
        return self.when is not None and condition not in self.when and condition in self.possible

    def when_with(self, condition: SafeStateCondition) -> str:
        """Return `when` with one more condition, as YAML has it."""
        return f"`when: [{', '.join((*(self.when or ()), condition))}]`"


def with_safe_states(
    nodes: tuple[NodeSpec, ...],
    declared: Mapping[NodeOutput, tuple[CheckedBlock, str]],
    types: Types,
    paths: tuple[PathBudget, ...],
    report: ProblemReport,
) -> tuple[NodeSpec, ...]:
    """Return the nodes with the safe states of their outputs; report what does not fit.

    ``declared``: the blocks of the safe states, and the names of their outputs for messages.
    """
    if not declared:
        return nodes
    deadlines = {item.source for node in nodes for item in node.inputs if item.deadline_ns}
    ends = {path.sink: path for path in paths if path.on_miss == "safe_state"}
    budgets = {
        item.source: ends[sink]
        for node in nodes
        for item in node.inputs
        if (sink := f"{node.id}/{item.id}") in ends
    }

    def with_own(node: NodeSpec) -> NodeSpec:
        rules = dict(node.output_rules)
        for output in node.outputs:
            source = NodeOutput(node.id, output)
            if source not in declared:
                continue
            case = _Case(
                *declared[source], types.outputs.get(str(source)), source in deadlines, budgets.get(source)
            )
            if contradictions := _contradictions(case):
                for contradiction in contradictions:
                    report.error(*contradiction)
                continue
            get = case.block.get
            when = case.possible if case.when is None else case.when
            safe = SafeState(get("value"), case.type, when, get("metadata") or {}, get("silence") or 0)
            rules[output] = structs.replace(node.rules_of_output(output), safe_state=safe)
        return structs.replace(node, output_rules=rules)

    return tuple(with_own(node) for node in nodes)


def _no_such_value(case: _Case) -> Contradiction | None:
    """The value contradicts an output whose messages have fields or lists."""
    if case.declared is None or case.declared_type != "":
        return None
    return Contradiction(
        case.block.place("value"),
        f"{case.name} sends `{case.declared.name}`, and a safe value consists of numbers, flags or texts",
        "send such values on an output of their own",
    )


def _other_type(case: _Case) -> Contradiction | None:
    """`type` contradicts another declared type of the output."""
    given, name = case.block.get("type"), case.declared_type
    if case.declared is None or given is None or name in (None, given):
        return None
    return Contradiction(
        case.block.place("type"),
        f"{case.name} sends `{case.declared.name}`, and that is `{name}`",
        f"write `{name}`",
    )


def _no_condition(case: _Case) -> Contradiction | None:
    """`when` contradicts the safe state if it is empty."""
    if case.when != ():
        return None
    message = f"the safe state of {case.name} has no condition"
    return Contradiction(case.block.place("when"), message, "leave out `when`")


_NEEDS: Final[dict[SafeStateCondition, tuple[str, str]]] = {
    "budget": (
        "no path with `on_miss: safe_state` ends at an input that {name} feeds",
        "give the dataflow one: `paths: [{from: …, to: …, budget: 40ms, on_miss: safe_state}]`",
    ),
    "deadline": (
        "no input that {name} feeds has a `deadline`",
        "give one to an input: `{source: …, deadline: 50ms}`; or write `silence: 50ms` here",
    ),
    "silent": ("`silent` needs the time that counts as silence", "add `silence: 100ms`"),
}
"""Why a condition cannot hold, as a message with the name of the output, and a hint."""


def _impossible(condition: SafeStateCondition, case: _Case) -> Contradiction | None:
    """A condition that `when` names needs what makes it possible."""
    if not case.names_impossible(condition):
        return None
    message, hint = _NEEDS[condition]
    return Contradiction(case.block.place("when", condition), message.format(name=case.name), hint)


def _unused_budget(case: _Case) -> Contradiction | None:
    """A path with `on_miss: safe_state` contradicts a `when` without `budget`."""
    if case.budget is None or not case.leaves_out("budget"):
        return None
    return Contradiction(
        case.block.place("when"),
        f"the path from `{case.budget.source}` to `{case.budget.sink}` has `on_miss: safe_state`, but "
        f"`when` of {case.name} lacks `budget`",
        f"write {case.when_with('budget')}, or another `on_miss`",
    )


def _unused_silence(case: _Case) -> Contradiction | None:
    """`silence` contradicts a `when` without `silent`."""
    if not case.leaves_out("silent"):
        return None
    return Contradiction(
        case.block.keys["silence"],
        "`silence` is for the condition `silent`, which `when` does not have",
        f"write {case.when_with('silent')}",
    )


def _other_value(case: _Case) -> Contradiction | None:
    """A value contradicts the type."""
    written = case.block.nodes["value"]
    items = written.items if isinstance(written, SequenceNode) else [written]
    for item, value in zip(items, case.block.get("value"), strict=True):
        if not _is_of(value, case.type):
            hint = "" if "type" not in case.block.keys else "change the value, or choose another `type`"
            return Contradiction(item, f"{shape(item)} is not a value of the type `{case.type}`", hint)
    return None


_Check = Callable[[_Case], Contradiction | None]
_TYPE_CHECKS: Final[tuple[_Check, ...]] = (_no_such_value, _other_type)
_CONDITION_CHECKS: Final[tuple[_Check, ...]] = (
    _no_condition,
    partial(_impossible, "budget"),
    _unused_budget,
    partial(_impossible, "deadline"),
    partial(_impossible, "silent"),
    _unused_silence,
)


def _contradictions(case: _Case) -> list[Contradiction]:
    """Return the first contradiction of the type and of the conditions; the others may follow from it."""
    first = (
        next(filter(None, (check(case) for check in checks)), None)
        for checks in (_TYPE_CHECKS, _CONDITION_CHECKS)
    )
    found = [contradiction for contradiction in first if contradiction is not None]
    if not found and (contradiction := _other_value(case)) is not None:
        found.append(contradiction)
    return found


def _type_of(values: tuple[Scalar, ...]) -> str:
    """Return the type that Arrow would choose; for mixed values, the type of the first.

    >>> _type_of((0, 1.5)), _type_of((0, 1)), _type_of((True,)), _type_of(("hold",))
    ('float64', 'int64', 'bool', 'string')
    """
    if values and isinstance(values[0], bool):
        return "bool"
    if values and isinstance(values[0], str):
        return "string"
    return "float64" if any(isinstance(value, float) for value in values) else "int64"


def _is_of(value: Scalar, kind: str) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "string" or isinstance(value, str):
        return kind == "string" and isinstance(value, str)
    if kind in _INTEGERS:
        lowest, highest = _INTEGERS[kind]
        return isinstance(value, int) and lowest <= value <= highest
    return abs(value) <= _FLOATS[kind]
