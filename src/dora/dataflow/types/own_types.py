"""Types of the user's own: ``types/my/sensors/v1.yml`` beside the dataflow defines ``my/sensors/v1/…``."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import msgspec

from dora.dataflow.problems import ProblemReport, TextSpan
from dora.dataflow.yaml.compose import compose_mapping
from dora.dataflow.yaml.field_types import ListType, MapType, Reader, TextType
from dora.dataflow.yaml.files import Unreadable, read_text, yaml_files_below
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock

# Names of types: ``std/media/v1/Image``, ``my/v1/Reading``, ``…/AudioFrame[sample_type=f32]``.
#
# The part before the last slash is the place of the definition: a part of the standard library, or a file
# ``types/my/v1.yml`` beside the dataflow. Parameters narrow a type; one that is not given matches any
# value.

STANDARD = "std/"
MAX_TYPE = 1000  # characters of a name

_word = r"[A-Za-z0-9_.\-]+"
_type = re.compile(rf"((?:{_word}/)*)({_word})(?:\[(.*)\])?").fullmatch
_parameter = re.compile(rf" *({_word}) *= *([^=,\[\]]*[^=,\[\] ]) *").fullmatch


class TypeFault(ValueError):
    """A text that is no type: the message, and the hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TypeName(msgspec.Struct, frozen=True):
    base: str  # "std/media/v1/Image"
    parameters: tuple[tuple[str, str], ...] = ()  # sorted

    def __str__(self) -> str:
        if not self.parameters:
            return self.base
        return f"{self.base}[{','.join(f'{name}={value}' for name, value in self.parameters)}]"

    @property
    def short(self) -> str:
        """The name without the part."""
        return self.base.rpartition("/")[2]

    def agrees(self, other: TypeName) -> bool:
        """Return whether both are the same type, and no parameter that both give differs."""
        if self.base != other.base:
            return False
        mine = dict(self.parameters)
        return all(mine.get(name, value) == value for name, value in other.parameters)


def parse_type(text: str) -> TypeName:
    """Return the type that a text names, whether it exists or not; raises `TypeFault`.

    >>> str(parse_type("std/media/v1/AudioFrame[sample_type=f32, channels=2]"))
    'std/media/v1/AudioFrame[channels=2,sample_type=f32]'
    """
    if len(text) > MAX_TYPE:
        raise TypeFault(f"the name of a type has at most {MAX_TYPE} characters")
    match = _type(text.strip())
    if match is None:
        raise TypeFault(f"`{text}` is not the name of a type", "types look like `std/core/v1/Float32`")
    parameters: dict[str, str] = {}
    for part in match[3].split(",") if match[3] else ():
        found = _parameter(part)
        if found is None:
            raise TypeFault(
                f"`{part.strip()}` is not a parameter of a type",
                f"write `{match[2]}[name=value]`, with commas between several",
            )
        parameters[found[1]] = found[2]
    return TypeName(match[1] + match[2], tuple(sorted(parameters.items())))


FOLDER = "types"

_NAME = Field("name", TextType("a name", may_be_empty=False), "What it is called.", required=True)
_DESCRIPTION = Field("description", TextType(), "What it means; for people.")

TYPE_FIELD = SchemaBlock(
    "a field of a type",
    [
        _NAME,
        Field(
            "type",
            TextType("a type", may_be_empty=False),
            "An Arrow type (`Float32`, `Utf8`, `List<Float64>`), a type of the same file, or another.",
            required=True,
        ),
        _DESCRIPTION,
    ],
)
TYPE_PARAMETER = SchemaBlock(
    "a parameter of a type",
    [_NAME, Field("default", TextType(), "What it usually is; for people."), _DESCRIPTION],
)
TYPE = SchemaBlock(
    "a type",
    [
        Field(
            "arrow",
            TextType("an Arrow type", may_be_empty=False),
            "The Arrow type: `Struct` (with `fields`), `Float32`, `Utf8`, `LargeBinary`, `List<Float32>`.",
            required=True,
        ),
        _DESCRIPTION,
        Field("fields", ListType(TYPE_FIELD, "fields"), "The fields of a `Struct`."),
        Field("params", ListType(TYPE_PARAMETER, "parameters"), "Parameters that narrow the type."),
    ],
)


TYPE_FILE = SchemaBlock(
    "a file of types",
    [
        Field(
            "types",
            MapType(
                TYPE,
                "types",
                "write the name of each type, then `arrow:` and the rest below it",
                key=TextType("the name of a type", may_be_empty=False),
                keeps_rest=True,
            ),
            "The types by name.",
            required=True,
        )
    ],
    notes=True,
)


class TypeDefinition(NamedTuple):
    """The meaning of a type, an Arrow type by name or a struct of fields, and its place in a file."""

    meaning: str | dict[str, str]
    span: TextSpan


def read_types(project: str, shown: str, reader: Reader) -> dict[str, dict[str, TypeDefinition]]:
    """Return part → type → definition of all types of a project; problems go to the report.

    ``project`` is the folder of the dataflow file, which messages call ``shown``.
    """
    parts: dict[str, dict[str, TypeDefinition]] = {}
    for path in yaml_files_below(os.path.join(project, FOLDER)):
        part = os.path.splitext(path)[0].replace(os.sep, "/")
        file = os.path.join(shown, FOLDER, path)
        try:
            own = ProblemReport(read_text(os.path.join(project, FOLDER, path), file), file, reader.report)
        except Unreadable as error:
            reader.report.error(TextSpan(0, 0, 0, 1), str(error), error.hint)
            continue
        parts[part] = _read_file(part, Reader(own, reader.environ))
        reader.report.take(own)
    return parts


def _read_file(part: str, reader: Reader) -> dict[str, TypeDefinition]:
    report = reader.report
    root = compose_mapping(report, "a file of types is a mapping", "it begins with `types:`")
    if root is None:
        return {}
    if f"{part}/".startswith(STANDARD):
        message = f"`{part}` would be a part of the standard library"
        report.error(root, message, f"move the file out of `{FOLDER}/std`")
        return {}
    checked = TYPE_FILE.read(root, reader)
    found: dict[str, CheckedBlock] = (checked.get("types") if checked else None) or {}
    definitions = {
        name: TypeDefinition(_meaning(block, report), block.place("arrow")) for name, block in found.items()
    }
    for definition in definitions.values():
        definition.span.origin = report.origin
    return definitions


def _meaning(block: CheckedBlock, report: ProblemReport) -> str | dict[str, str]:
    arrow: str | None = block.get("arrow")
    fields: tuple[CheckedBlock, ...] = block.get("fields") or ()
    if arrow == "Struct" or arrow is None:
        return {field.get("name"): field.get("type") for field in fields if field.get("type")}
    if fields:
        report.error(
            block.keys["fields"], f"a type that is `{arrow}` has no fields", "write `arrow: Struct`"
        )
    return arrow
