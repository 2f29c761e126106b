"""Outputs in a dataflow file: their names, and the rules of the outputs that have any.

An entry of ``outputs`` is a name, or a mapping of one name to rules::

    outputs:
      - image
      - map: {latched: 1}
"""

from __future__ import annotations

from dora.dataflow.parser.output_rules import OUTPUT
from dora.dataflow.yaml.field_types import (
    DATA,
    FieldType,
    Reader,
    Schema,
    as_text,
    report_expected,
    shape,
    text_of,
)
from dora.dataflow.yaml.schema_block import CheckedBlock
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode


class Outputs(FieldType[dict[str, CheckedBlock]]):
    """The outputs of a node or operator: their names, and what each has of `OUTPUT`."""

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

    def schema(self) -> Schema:
        options = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": {"pattern": f"^{DATA.pattern}$"},
            "additionalProperties": OUTPUT.schema(),
        }
        return {"type": "array", "items": {"anyOf": [DATA.schema(), options]}}
