"""Outputs in YAML, and their rules: the fields, and which fit to the node and the inputs they feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from dora.dataflow.model import NodeOutput
from dora.dataflow.parser.safe_state import SAFE_STATE
from dora.dataflow.problems import Contradiction, ProblemReport
from dora.dataflow.yaml.field_types import (
    DATA,
    ChoiceType,
    FieldType,
    FlagType,
    MapType,
    Reader,
    Schema,
    TextType,
    as_text,
    report_expected,
    shape,
    text_of,
)
from dora.dataflow.yaml.number_types import IntegerType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock, ShortForm
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.wire.output_rules import OUTPUT_RULES, LatchRule, OutputRule, OutputRules

MAX_DEPTH = 1000


class Depth(IntegerType):
    """How many messages a latched output keeps."""

    def read(self, value: YamlNode, reader: Reader) -> int | None:
        text = text_of(value)
        number = value.value if isinstance(value, ScalarNode) else None
        if number is True:
            report_expected(value, reader, "how many messages are kept", "write `1` for the newest one")
            return None
        if text is not None and isinstance(number, int) and not self.minimum <= number <= self.maximum:
            reader.report.error(
                value,
                f"a latched output keeps {self.minimum} to {self.maximum} messages, not {text}",
                "write `latched: 1` for the newest one"
                if number > 0
                else "leave `latched` out, so that nobody gets earlier messages",
            )
            return None
        return super().read(value, reader)


LATCHED = SchemaBlock(
    "`latched`",
    [
        Field("depth", Depth(1, MAX_DEPTH), "How many of the newest messages are kept.", default=1),
        Field(
            "survive_restart",
            FlagType(),
            "Whether they are kept when the sending node is started again, even after a SIGKILL.",
            default=False,
        ),
    ],
)


def _type(rule: OutputRule) -> FieldType[Any]:
    match rule.kind:
        case "latch":
            return ShortForm(LATCHED, "depth")
        case "choice":
            return ChoiceType(rule.choices)
        case "safe_state":
            return SAFE_STATE
        case "text":
            return TextType("a description", may_be_empty=False)


OUTPUT = SchemaBlock(
    "an output",
    [Field(rule.name, _type(rule), rule.description) for rule in OUTPUT_RULES],
    reference="output",
    example="{latched: 1}",
)


def rules_of_outputs(outputs: Mapping[str, CheckedBlock], prefix: str = "") -> dict[str, OutputRules]:
    """Return the rules of the outputs that have any; ``prefix`` comes before their names.

    Safe states are not among them: `dora.dataflow.parser.safe_state` adds them when types and paths are
    known.
    """
    found: dict[str, OutputRules] = {}
    for name, block in outputs.items():
        rules = {
            rule.name: _value(rule, value)
            for rule in OUTPUT_RULES
            if rule.kind != "safe_state" and (value := block.get(rule.name)) is not None
        }
        if rules:
            found[f"{prefix}{name}"] = OutputRules(**rules)
    return found


def _value(rule: OutputRule, read: Any) -> Any:
    if rule.kind == "latch":
        return LatchRule(read.get("depth"), read.get("survive_restart"))
    return read


class _CheckedOutput(NamedTuple):
    """An output, and the program or operator that sends it."""

    name: str  # "the output `x` of node `a`"
    owner: str  # "node `a`"
    block: CheckedBlock  # of the output's rules
    sender: CheckedBlock
    text_field: str  # the field by which it gets lines of text, "" if none

    @property
    def safe_state(self) -> CheckedBlock | None:
        """The block of its safe state, if it can be used."""
        block: CheckedBlock | None = self.block.get("safe_state")
        is_usable = block is not None and block.get("value") is not None and not block.failed("type")
        return block if is_usable and not self.text_field else None


class _FedInput(NamedTuple):
    """An input that an output feeds, and the program or operator that gets it."""

    id: str
    name: str  # "the input `x` of node `b`"
    source: NodeOutput
    block: CheckedBlock
    receiver: CheckedBlock


class OutputChecks:
    """Finds rules of outputs that contradict their node, or an input that they feed."""

    def __init__(self, report: ProblemReport) -> None:
        self._report = report
        self._outputs: dict[NodeOutput, _CheckedOutput] = {}
        self._inputs: list[_FedInput] = []

    def add_outputs(self, sender: CheckedBlock, node: str, prefix: str, owner: str) -> None:
        """Remember the outputs of a program or operator that have rules, and check each alone."""
        texts = {sender.get(field): field for field in ("send_stdout_as", "send_logs_as")}
        for id, block in (sender.get("outputs") or {}).items():
            if not block.nodes:
                continue
            name = f"the output `{id}` of {owner}"
            output = _CheckedOutput(name, owner, block, sender, texts.get(id, ""))
            self._outputs[NodeOutput(node, f"{prefix}{id}")] = output
            for rule in self._rules(output):
                checks = (*_CHECKS_OF_ALL, *_CHECKS.get(rule.name, ()))
                self._report_first(check(rule, output) for check in checks)

    def add_input(
        self, id: str, name: str, source: NodeOutput, block: CheckedBlock, receiver: CheckedBlock
    ) -> None:
        """Remember an input that an output feeds; ``name`` is for messages."""
        self._inputs.append(_FedInput(id, name, source, block, receiver))

    def finish(self) -> None:
        """Check all outputs against the inputs that they feed."""
        for item in self._inputs:
            if (output := self._outputs.get(item.source)) is not None:
                for rule in self._rules(output):
                    checks = (*_LINK_CHECKS_OF_ALL, *_LINK_CHECKS.get(rule.name, ()))
                    self._report_first(check(rule, output, item) for check in checks)

    @property
    def safe_states(self) -> dict[NodeOutput, tuple[CheckedBlock, str]]:
        """The safe states that can be used: their blocks, and the names of their outputs for messages."""
        return {
            source: (block, item.name)
            for source, item in self._outputs.items()
            if (block := item.safe_state) is not None
        }

    @staticmethod
    def _rules(output: _CheckedOutput) -> list[OutputRule]:
        return [rule for rule in OUTPUT_RULES if output.block.has(rule.name)]

    def _report_first(self, found: Iterable[Contradiction | None]) -> None:
        """Report one contradiction of a rule: the others may follow from it."""
        if (first := next(filter(None, found), None)) is not None:
            self._report.error(*first)


def _sends_text(rule: OutputRule, output: _CheckedOutput) -> Contradiction | None:
    """The daemon sends lines of text, and knows few rules."""
    if not rule.not_of_text or not output.text_field:
        return None
    return Contradiction(
        output.block.keys[rule.name],
        f"{output.name} cannot {rule.not_of_text}: `{output.text_field}` sends lines of text there",
        f"remove `{rule.name}`",
    )


def _sends_answers(_: OutputRule, output: _CheckedOutput) -> Contradiction | None:
    """`latched` contradicts a pattern."""
    pattern = output.sender.get("pattern")
    if not pattern:
        return None
    return Contradiction(
        output.block.keys["latched"],
        f"{output.name} cannot be latched, because {output.owner} declares `pattern: {pattern}`: a late "
        "receiver would get the requests or answers of others",
        "remove `latched`, or send the messages to latch from a node without `pattern`",
    )


def _makes_wait(rule: OutputRule, _: _CheckedOutput, item: _FedInput) -> Contradiction | None:
    """Some rules contradict back-pressure."""
    if not rule.no_backpressure or item.block.get("queue_policy") != "backpressure":
        return None
    return Contradiction(
        item.block.place("queue_policy"),
        f"{item.name} makes its sender wait, but `{item.source}` {rule.no_backpressure}",
        "remove `queue_policy: backpressure` and choose a larger `queue_size`, or remove "
        f"`{rule.name}` from the output",
    )


def _waits_for_match(_: OutputRule, output: _CheckedOutput, item: _FedInput) -> Contradiction | None:
    """`safe_state` contradicts a `sync` group."""
    groups = (group.get("inputs") or () for group in item.receiver.get("sync") or ())
    block = output.safe_state
    if block is None or not any(item.id in group for group in groups):
        return None
    return Contradiction(
        block.place("value"),
        f"{output.name} feeds {item.name}, which is in a `sync` group: a safe value would wait there for "
        "its match",
        "add an input for it that is in no group",
    )


_Check = Callable[[OutputRule, _CheckedOutput], Contradiction | None]
_LinkCheck = Callable[[OutputRule, _CheckedOutput, _FedInput], Contradiction | None]
_CHECKS_OF_ALL: Final[tuple[_Check, ...]] = (_sends_text,)
_CHECKS: Final[dict[str, tuple[_Check, ...]]] = {"latched": (_sends_answers,)}
_LINK_CHECKS_OF_ALL: Final[tuple[_LinkCheck, ...]] = (_makes_wait,)
_LINK_CHECKS: Final[dict[str, tuple[_LinkCheck, ...]]] = {"safe_state": (_waits_for_match,)}


_WITH_RULES: Final = MapType(OUTPUT, "outputs")


class Outputs(FieldType[dict[str, CheckedBlock]]):
    """The outputs of a node or operator: their names, and what each has of `OUTPUT`.

    An entry of ``outputs`` is a name, or a mapping of one name to rules::

        outputs:
          - image
          - map: {latched: 1}
    """

    def read(self, value: YamlNode, reader: Reader) -> dict[str, CheckedBlock] | None:
        """Return the options of each output by name; None if any has a problem.

        An output that is listed twice gets a warning, or an error if the second entry has options.
        """
        if not isinstance(value, SequenceNode):
            text = text_of(value)
            hint = f"write `[{text}]`" if text is not None and len(text) < 40 else ""
            if isinstance(value, MappingNode):
                hint = "begin each output with `-`"
            report_expected(value, reader, "a list of output ids", hint)
            return None
        outputs: dict[str, CheckedBlock] = {}
        failed = False
        for item in value.items:
            entry = self._entry(item, reader)
            if entry is None:
                failed = True
                continue
            name, options = entry
            if name not in outputs:
                outputs[name] = options
            elif options.values:
                reader.report.error(item, f"`{name}` is listed twice", "keep the entry with the options")
                failed = True
            else:
                reader.report.warn(item, f"`{name}` is listed twice")
        return None if failed else outputs

    def _entry(self, item: YamlNode, reader: Reader) -> tuple[str, CheckedBlock] | None:
        if not isinstance(item, MappingNode):
            name = DATA.read(item, reader)
            return None if name is None else (name, CheckedBlock(item, OUTPUT.defaults))
        if len(item.entries) != 1:
            reader.report.error(
                item,
                f"an output is a name, or a name with its options, and not {shape(item)} of "
                f"{len(item.entries)} entries",
                "for example `- map: {latched: 1}`",
            )
            return None
        (key, written), *_ = item.entries.values()
        if isinstance(written, ScalarNode) and written.value is None:
            DATA.read(item, reader)  # reports that the colon is too much
            return None
        name = DATA.read(as_text(key), reader)
        options = OUTPUT.read(written, reader)
        return None if name is None or options is None else (name, options)

    def stored(self, value: YamlNode) -> Any:
        if not isinstance(value, SequenceNode):
            return value.plain()
        return [
            _WITH_RULES.stored(item) if isinstance(item, MappingNode) else DATA.stored(item)
            for item in value.items
        ]

    def schema(self) -> Schema:
        options = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": {"pattern": f"^{DATA.pattern}$"},
            "additionalProperties": OUTPUT.schema(),
        }
        return {"type": "array", "items": {"anyOf": [DATA.schema(), options]}}
