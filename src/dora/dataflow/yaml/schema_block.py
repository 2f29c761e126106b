"""Read mappings with a fixed set of fields by a table of these fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dora.dataflow.problems import TextSpan, listed
from dora.dataflow.yaml.field_types import (
    FieldType,
    Reader,
    Schema,
    UnsupportedType,
    is_unset,
    report_expected,
)
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode


class Field(msgspec.Struct, frozen=True):
    """One field of a block: a row of the table from which parser, JSON schema and reference are made."""

    name: str
    field_type: Any  # a `FieldType`
    description: str
    default: Any = None  # what `CheckedBlock.get` returns for an unset field
    required: bool = False
    on_runtime: bool = False  # a node with operators may have it, too
    on_module: bool = False  # a node that uses a module may have it


class CheckedBlock:
    """A block that was read: the values of its fields, and their places in the file.

    ``get`` returns the default of a field that is unset or invalid; ``has`` and ``failed`` separate them.
    """

    def __init__(self, span: TextSpan, defaults: Mapping[str, Any]) -> None:
        self.span: TextSpan = span
        self.defaults = defaults  # from the table
        self.values: dict[str, Any] = {}
        self.keys: dict[str, ScalarNode] = {}
        self.nodes: dict[str, YamlNode] = {}
        self.suggested: set[str] = set()  # fields suggested in place of misspelt ones

    def get(self, name: str) -> Any:
        """Return the value of a field; its default, or else None, if it is unset or invalid."""
        return self.values.get(name, self.defaults.get(name))

    def has(self, name: str) -> bool:
        """Return whether the field is set, valid or not."""
        return name in self.nodes

    def failed(self, name: str) -> bool:
        """Return whether the field is set to an invalid value, or its name is probably misspelt."""
        return (name in self.nodes and name not in self.values) or name in self.suggested

    def place(self, name: str, key: str = "", *, of_key: bool = False) -> TextSpan:
        """Return the place of a field's value, or of the block if it has no such field.

        With ``key``: the place of that key's value inside the field, with ``of_key`` of the key; or of the
        item with this text in a list.
        """
        value = self.nodes.get(name, self.span)
        if key and isinstance(value, MappingNode) and key in value.entries:
            return value.entries[key][0 if of_key else 1]
        if key and isinstance(value, SequenceNode):
            scalars = (item for item in value.items if isinstance(item, ScalarNode))
            return next((item for item in scalars if item.text == key), value)
        return value


class SchemaBlock(FieldType[CheckedBlock]):
    """A mapping with the fields of a table."""

    def __init__(
        self,
        noun: str,
        fields: Sequence[Field],
        *,
        reference: str = "",
        notes: bool = False,
        example: str = "",
    ) -> None:
        """``noun`` names the block in messages, ``example`` shows one. ``notes``: accept fields ``x-…``, a
        place for anchors. ``reference``: the name of its definition, for a block with several uses."""
        self.noun = noun
        self.example = example
        self.fields = {field.name: field for field in fields}
        self.defaults = {field.name: field.default for field in fields if field.default is not None}
        self.reference = reference
        self.notes = notes
        self.elsewhere: dict[str, str] = {}  # fields of other blocks → the noun of that block

    def read(self, value: YamlNode, reader: Reader) -> CheckedBlock | None:
        """Return the block with its valid fields, even if others are not; None only if it is no mapping.

        A field that is null counts as absent.
        """
        if not isinstance(value, MappingNode):
            hint = f"for example `{self.example}`" if self.example else ""
            report_expected(value, reader, f"a mapping for {self.noun}", hint)
            return None
        checked = CheckedBlock(value, self.defaults)
        for name, (key, item) in value.entries.items():
            field = self.fields.get(name)
            if field is None:
                if not (self.notes and name.startswith("x-")):
                    self._unknown(name, key, checked, reader)
                continue
            checked.keys[name] = key
            if isinstance(item, ScalarNode) and item.value is None:
                continue  # a null counts as an absent field
            if not is_unset(item) or not isinstance(field.field_type, UnsupportedType):
                checked.nodes[name] = item
            found = field.field_type.read(item, reader)
            if found is not None:
                checked.values[name] = found
        for field in self.fields.values():
            if field.required and not checked.has(field.name) and field.name not in checked.suggested:
                gone = "has no value" if field.name in checked.keys else "is missing"
                reader.report.error(
                    checked.keys.get(field.name, value),
                    f"the field `{field.name}` of {self.noun} {gone}",
                    field.description,
                )
        return checked

    def stored(self, value: YamlNode) -> Any:
        if not isinstance(value, MappingNode):
            return value.plain()
        return {
            name: field.field_type.stored(item) if (field := self.fields.get(name)) else item.plain()
            for name, (_, item) in value.entries.items()
        }

    def _unknown(self, name: str, key: ScalarNode, checked: CheckedBlock, reader: Reader) -> None:
        if name in self.elsewhere:
            hint = f"`{name}` is a field of {self.elsewhere[name]}"
        elif found := reader.report.closest(name, self.fields) or self._longer(name):
            hint = f"did you mean `{found}`?"
            checked.suggested.add(found)
        else:
            hint = f"its fields are {listed(self.fields)}"
        reader.report.error(key, f"{self.noun} has no field `{name}`", hint)

    def _longer(self, name: str) -> str:
        """Return the one field whose first word this is, "" if there is none or there are several."""
        found = [field for field in self.fields if field.startswith(f"{name}_")]
        return found[0] if len(found) == 1 else ""

    def schema(self) -> Schema:
        return {"$ref": f"#/$defs/{self.reference}"} if self.reference else self.definition()

    def definition(self) -> Schema:
        """Return the JSON schema, written out."""
        properties: Schema = {}
        for field in self.fields.values():
            schema: Schema = {"description": field.description, **field.field_type.schema()}
            if not field.required:
                schema = _or_null(schema)
            if field.default is not None:
                schema["default"] = field.default
            properties[field.name] = schema
        result: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if self.notes:
            result["patternProperties"] = {"^x-": {"description": "Yours: a place for YAML anchors."}}
        required = [field.name for field in self.fields.values() if field.required]
        if required:
            result["required"] = required
        return result


class ShortForm(FieldType[CheckedBlock]):
    """A block, or the value of one of its fields alone."""

    def __init__(self, block: SchemaBlock, field: str) -> None:
        self.block = block
        self.field = field
        self.field_type: FieldType[Any] = block.fields[field].field_type

    def read(self, value: YamlNode, reader: Reader) -> CheckedBlock | None:
        if isinstance(value, MappingNode):
            return self.block.read(value, reader)
        found = self.field_type.read(value, reader)
        if found is None:
            return None
        checked = CheckedBlock(value, self.block.defaults)
        checked.values[self.field] = found
        checked.nodes[self.field] = value
        return checked

    def stored(self, value: YamlNode) -> Any:
        return (self.block if isinstance(value, MappingNode) else self.field_type).stored(value)

    def schema(self) -> Schema:
        return {"anyOf": [self.field_type.schema(), self.block.schema()]}


def _or_null(schema: Schema) -> Schema:
    """Return the schema that also accepts null."""
    description = schema.pop("description")
    if "enum" in schema and None in schema["enum"]:
        pass
    elif isinstance(schema.get("type"), list):
        schema = {**schema, "type": [*schema["type"], "null"]}
    elif "anyOf" in schema:
        schema = {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    elif "type" in schema and "enum" not in schema:
        schema = {**schema, "type": [schema["type"], "null"]}
    else:
        schema = {"anyOf": [schema, {"type": "null"}]}
    return {"description": description, **schema}
