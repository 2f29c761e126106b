"""Blocks: mappings with a fixed set of fields, read by a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dora.dataflow.parser import tree
from dora.dataflow.parser.tree import Scalar, YamlNode
from dora.dataflow.parser.values import FieldType, Reader, Schema, UnsupportedType, is_unset, shape
from dora.dataflow.problems import TextSpan, listed


class Field(msgspec.Struct, frozen=True):
    """One field of a block: a row of the table that parser, JSON schema and reference share."""

    name: str
    kind: Any  # a `FieldType`
    description: str
    default: Any = None  # shown to readers; None: unset
    required: bool = False
    on_runtime: bool = False  # a node with operators may have it, too
    on_module: bool = False  # a node that uses a module may have it


class Checked:
    """A block that was read: the values of its fields, and where they stand.

    ``get`` returns None for a field that is unset or was refused; ``failed`` tells the two apart.
    """

    def __init__(self, span: TextSpan) -> None:
        self.span: TextSpan = span
        self.values: dict[str, Any] = {}
        self.keys: dict[str, Scalar] = {}
        self.nodes: dict[str, YamlNode] = {}
        self.meant: set[str] = set()  # fields that misspelt ones were probably meant to be

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def has(self, name: str) -> bool:
        """Tell whether the field says something (possibly something wrong)."""
        return name in self.nodes

    def failed(self, name: str) -> bool:
        """Tell whether the field is there but was refused."""
        return name in self.nodes and name not in self.values

    def place(self, name: str, key: str = "", *, of_key: bool = False) -> TextSpan:
        """Return where the field's value stands, or the block if it has no such field.

        With ``key``: where the value of that key in the field stands, or the key itself.
        """
        value = self.nodes.get(name, self.span)
        if key and isinstance(value, tree.Mapping) and key in value.entries:
            return value.entries[key][0 if of_key else 1]
        return value


class Block(FieldType[Checked]):
    """A mapping with the fields of a table. ``noun`` names the block in messages, ``example`` shows one."""

    def __init__(
        self,
        noun: str,
        fields: Sequence[Field],
        notes: bool = False,
        example: str = "",
    ) -> None:
        self.noun = noun
        self.example = example
        self.fields = {field.name: field for field in fields}
        self.notes = notes  # accept `x-...` fields, a place for anchors
        self.elsewhere: dict[str, str] = {}  # fields of other blocks → the noun of that block

    def read(self, value: YamlNode, reader: Reader) -> Checked | None:
        if not isinstance(value, tree.Mapping):
            hint = f"for example `{self.example}`" if self.example else ""
            reader.report.error(value, f"expected a mapping for {self.noun}, found {shape(value)}", hint)
            return None
        checked = Checked(value)
        for name, (key, item) in value.entries.items():
            field = self.fields.get(name)
            if field is None:
                if not (self.notes and name.startswith("x-")):
                    self._unknown(name, key, checked, reader)
                continue
            checked.keys[name] = key
            if isinstance(item, Scalar) and item.value is None and not item.quoted:
                continue  # a null is as good as an absent field
            if not is_unset(item) or not isinstance(field.kind, UnsupportedType):
                checked.nodes[name] = item
            found = field.kind.read(item, reader)
            if found is not None:
                checked.values[name] = found
        for field in self.fields.values():
            if field.required and not checked.has(field.name) and field.name not in checked.meant:
                gone = "has no value" if field.name in checked.keys else "is missing"
                reader.report.error(
                    checked.keys.get(field.name, value),
                    f"the field `{field.name}` of {self.noun} {gone}",
                    field.description,
                )
        return checked

    def _unknown(self, name: str, key: Scalar, checked: Checked, reader: Reader) -> None:
        if name in self.elsewhere:
            hint = f"`{name}` is a field of {self.elsewhere[name]}"
        elif found := reader.report.closest(name, self.fields):
            hint = f"did you mean `{found}`?"
            checked.meant.add(found)
        else:
            hint = f"its fields are {listed(self.fields)}"
        reader.report.error(key, f"{self.noun} has no field `{name}`", hint)

    def schema(self) -> Schema:
        properties: Schema = {}
        for field in self.fields.values():
            schema: Schema = {"description": field.description, **field.kind.schema()}
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
