"""Outputs in a dataflow file: their names, and the options of those that have any.

An entry of ``outputs`` is a name, or a mapping of one name to options::

    outputs:
      - image
      - map: {latched: 1}
"""

from __future__ import annotations

from typing import get_args

from dora.dataflow.model import LatchSpec, NodeOutput, OutputOptions
from dora.dataflow.parser.field_types import (
    DATA,
    ChoiceType,
    FieldType,
    FlagType,
    IntegerType,
    Reader,
    Schema,
    as_text,
    report_expected,
    shape,
    text_of,
)
from dora.dataflow.parser.safe_state import SAFE_STATE
from dora.dataflow.parser.schema_block import CheckedBlock, Field, SchemaBlock, ShortForm
from dora.dataflow.parser.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.dataflow.problems import ProblemReport, TextSpan
from dora.wire.node_config import Priority

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

OUTPUT = SchemaBlock(
    "an output",
    [
        Field(
            "latched",
            ShortForm(LATCHED, "depth"),
            "A receiver that joins late first gets the newest messages, so many as this says: `1`, or "
            "`{depth: 1, survive_restart: true}`.",
        ),
        Field(
            "priority",
            ChoiceType(get_args(Priority)),
            "Which messages go first where they share a network to another machine: `control`, then "
            "`normal`, then `bulk`. Without it, messages of at most 8 KiB are `control`, and others are "
            "`normal`.",
        ),
        Field(
            "safe_state",
            SAFE_STATE,
            "The value that receivers get while the node does not send, even if its process is dead or "
            "stopped: `{value: [0.0, 0.0], when: [failed]}`.",
        ),
    ],
    reference="output",
    example="{latched: 1}",
)


class Outputs(FieldType[dict[str, CheckedBlock]]):
    """The outputs of a node or operator: their names, and what each has of `OUTPUT`."""

    def read(self, value: YamlNode, reader: Reader) -> dict[str, CheckedBlock] | None:
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

    def schema(self) -> Schema:
        options = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": {"pattern": f"^{DATA.pattern}$"},
            "additionalProperties": OUTPUT.schema(),
        }
        return {"type": "array", "items": {"anyOf": [DATA.schema(), options]}}


def options_of(outputs: dict[str, CheckedBlock], prefix: str = "") -> dict[str, OutputOptions]:
    """Return the options of the outputs that have any; ``prefix`` comes before their names."""
    found: dict[str, OutputOptions] = {}
    for name, block in outputs.items():
        latched, priority = block.get("latched"), block.get("priority")
        if latched is not None or priority is not None:
            found[f"{prefix}{name}"] = OutputOptions(
                LatchSpec(latched.get("depth"), latched.get("survive_restart"))
                if latched is not None
                else None,
                priority,
            )
    return found


class LatchChecks:
    """Finds latched outputs that cannot be: in exchanges, of lines of text, or where senders wait."""

    def __init__(self, report: ProblemReport) -> None:
        self._report = report
        self._latched: set[NodeOutput] = set()
        self._waiting: list[tuple[NodeOutput, TextSpan, str]] = []

    def add_outputs(self, checked: CheckedBlock, node: str, prefix: str, owner: str) -> None:
        """Check the latched outputs of a program or operator, each alone."""
        texts = {checked.get(field): field for field in ("send_stdout_as", "send_logs_as")}
        for name, block in (checked.get("outputs") or {}).items():
            if not block.has("latched"):
                continue
            self._latched.add(NodeOutput(node, f"{prefix}{name}"))
            place = block.keys["latched"]
            what = f"the output `{name}` of {owner} cannot be latched"
            if name in texts:
                self._report.error(
                    place, f"{what}: `{texts[name]}` sends lines of text there", "remove `latched`"
                )
            elif pattern := checked.get("pattern"):
                self._report.error(
                    place,
                    f"{what}, because {owner} declares `pattern: {pattern}`: a late receiver would get the "
                    "requests or answers of others",
                    "remove `latched`, or send the messages to latch from a node without `pattern`",
                )

    def add_input(self, source: NodeOutput, place: TextSpan, owner: str) -> None:
        """Remember an input whose sender waits; ``owner`` names it in messages."""
        self._waiting.append((source, place, owner))

    def finish(self) -> None:
        """Report the inputs whose sender waits although the output is latched."""
        for source, place, owner in self._waiting:
            if source in self._latched:
                self._report.error(
                    place,
                    f"{owner} makes its sender wait, but `{source}` is latched: a late receiver would get "
                    "messages that the sender has no credit for",
                    "remove `queue_policy: backpressure` and choose a larger `queue_size`, "
                    "or remove `latched` from the output",
                )
