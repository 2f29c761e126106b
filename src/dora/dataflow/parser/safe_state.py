"""Safe states of outputs: their block, and whether value, type and conditions fit together."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, get_args

import msgspec

from dora.dataflow.model import (
    NodeOutput,
    NodeSpec,
    OutputOptions,
    PathBudget,
    SafeState,
    SafeStateCondition,
    Types,
)
from dora.dataflow.parser.field_types import (
    ChoiceType,
    DurationType,
    FieldType,
    ListType,
    Reader,
    Schema,
    report_expected,
    shape,
)
from dora.dataflow.parser.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.parser.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.dataflow.problems import ProblemReport, TextSpan

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


class SafeStates:
    """Collects the safe states of a dataflow; with the types of outputs, it checks them."""

    def __init__(self, report: ProblemReport) -> None:
        self._report = report
        self._blocks: dict[NodeOutput, tuple[CheckedBlock, str]] = {}
        self._deadlines: set[Any] = set()  # sources of inputs with a deadline
        self._budgets: dict[Any, PathBudget] = {}  # paths whose miss begins it, by the source of their end

    def add_outputs(self, checked: CheckedBlock, node: str, prefix: str, owner: str) -> None:
        """Remember the safe states of a program or operator."""
        texts = {checked.get(field): field for field in ("send_stdout_as", "send_logs_as")}
        for name, options in (checked.get("outputs") or {}).items():
            block = options.get("safe_state")
            if block is None:
                continue
            what = f"the output `{name}` of {owner}"
            if name in texts:
                self._report.error(
                    options.keys["safe_state"],
                    f"{what} cannot have a safe state: `{texts[name]}` sends lines of text there",
                    "remove `safe_state`",
                )
            elif block.get("value") is not None and not block.failed("type"):
                self._blocks[NodeOutput(node, f"{prefix}{name}")] = (block, what)

    def has(self, source: NodeOutput) -> bool:
        """Return whether an output has a safe state."""
        return source in self._blocks

    def apply(
        self, nodes: tuple[NodeSpec, ...], types: Types, paths: tuple[PathBudget, ...]
    ) -> tuple[NodeSpec, ...]:
        """Return the nodes with the safe states of their outputs; report what does not fit."""
        if not self._blocks:
            return nodes
        self._check_groups(nodes)
        self._deadlines = {item.source for node in nodes for item in node.inputs if item.deadline_ns}
        ends = {path.sink: path for path in paths if path.on_miss == "safe_state"}
        self._budgets = {
            item.source: ends[sink]
            for node in nodes
            for item in node.inputs
            if (sink := f"{node.id}/{item.id}") in ends
        }
        return tuple(self._with_safe_states(node, types) for node in nodes)

    def _with_safe_states(self, node: NodeSpec, types: Types) -> NodeSpec:
        options = dict(node.output_options)
        for output in node.outputs:
            source = NodeOutput(node.id, output)
            if source not in self._blocks:
                continue
            block, what = self._blocks[source]
            kind = self._type(block, what, types, source)
            when = self._conditions(block, what, source)
            if kind is None or when is None or not self._fits(block, kind):
                continue
            former = options.get(output, OutputOptions())
            options[output] = msgspec.structs.replace(
                former,
                safe_state=SafeState(
                    block.get("value"), kind, when, block.get("metadata") or {}, block.get("silence") or 0
                ),
            )
        return msgspec.structs.replace(node, output_options=options)

    def _check_groups(self, nodes: tuple[NodeSpec, ...]) -> None:
        """Report safe states of outputs that feed a group of synchronised inputs."""
        for node in nodes:
            sources = {item.id: item.source for item in node.inputs}
            for input_id in (input_id for group in node.syncs for input_id in group.inputs):
                source = sources.get(input_id)
                if isinstance(source, NodeOutput) and source in self._blocks:
                    block, what = self._blocks[source]
                    self._report.error(
                        block.place("value"),
                        f"{what} feeds the input `{input_id}` of node `{node.id}`, which is in a `sync` "
                        "group: a safe value would wait there for its match",
                        "add an input for it that is in no group",
                    )

    def _type(self, block: CheckedBlock, what: str, types: Types, source: NodeOutput) -> str | None:
        """Return the Arrow type of a value: the given, the declared, or that of its values."""
        given: str | None = block.get("type")
        port = types.outputs.get(str(source))
        if port is not None and len(port.shapes) == 1:
            declared = port.shapes[0]
            name = _OF_DECLARED.get(declared, declared.lower()) if isinstance(declared, str) else ""
            if name not in _TYPES:
                self._report.error(
                    block.place("value"),
                    f"{what} sends `{port.name}`, and a safe value consists of numbers, flags or texts",
                    "send such values on an output of their own",
                )
                return None
            if given is not None and given != name:
                self._report.error(
                    block.place("type"),
                    f"{what} sends `{port.name}`, and that is `{name}`",
                    f"write `{name}`",
                )
                return None
            return name
        return given or _type_of(block.get("value"))

    def _conditions(
        self, block: CheckedBlock, what: str, source: NodeOutput
    ) -> tuple[SafeStateCondition, ...] | None:
        when: tuple[SafeStateCondition, ...] | None = block.get("when")
        silence = block.get("silence")
        possible = {
            "deadline": source in self._deadlines,
            "budget": source in self._budgets,
            "failed": True,
            "silent": bool(silence),
        }
        if when is None:
            return tuple(condition for condition in _CONDITIONS if possible[condition])
        if not when:
            self._report.error(
                block.place("when"), f"the safe state of {what} has no condition", "leave out `when`"
            )
            return None
        place = _place_of(block, when)
        if "budget" in when and not possible["budget"]:
            self._report.error(
                place("budget"),
                f"no path with `on_miss: safe_state` ends at an input that {what} feeds",
                "give the dataflow one: `paths: [{from: …, to: …, budget: 40ms, on_miss: safe_state}]`",
            )
            return None
        if possible["budget"] and "budget" not in when:
            path = self._budgets[source]
            self._report.error(
                block.place("when"),
                f"the path from `{path.source}` to `{path.sink}` has `on_miss: safe_state`, but `when` of "
                f"{what} lacks `budget`",
                f"write `when: [{', '.join((*when, 'budget'))}]`, or another `on_miss`",
            )
            return None
        if "deadline" in when and not possible["deadline"]:
            self._report.error(
                place("deadline"),
                f"no input that {what} feeds has a `deadline`",
                "give one to an input: `{source: …, deadline: 50ms}`; or write `silence: 50ms` here",
            )
            return None
        if "silent" in when and not silence:
            self._report.error(
                place("silent"), "`silent` needs the time that counts as silence", "add `silence: 100ms`"
            )
            return None
        if silence and "silent" not in when:
            self._report.error(
                block.keys["silence"],
                "`silence` is for the condition `silent`, which `when` does not have",
                f"write `when: [{', '.join((*when, 'silent'))}]`",
            )
            return None
        return when

    def _fits(self, block: CheckedBlock, kind: str) -> bool:
        """Report the first value that is not of the type; return whether all are."""
        written = block.nodes["value"]
        items = written.items if isinstance(written, SequenceNode) else [written]
        for item, value in zip(items, block.get("value"), strict=True):
            if not _is_of(value, kind):
                hint = "" if "type" not in block.keys else "change the value, or choose another `type`"
                self._report.error(item, f"{shape(item)} is not a value of the type `{kind}`", hint)
                return False
        return True


def _place_of(block: CheckedBlock, when: tuple[str, ...]) -> Any:
    written = block.nodes["when"]
    items: list[TextSpan] = list(written.items) if isinstance(written, SequenceNode) else []

    def place(condition: str) -> TextSpan:
        index = when.index(condition)
        return items[index] if index < len(items) else block.place("when")

    return place


def _type_of(values: tuple[Scalar, ...]) -> str:
    """Return the type that Arrow would choose; of values that are mixed, that of the first.

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
