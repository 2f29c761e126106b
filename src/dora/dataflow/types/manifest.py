"""The manifest of a node: ``dora-node.yml`` beside a program describes its inputs and outputs."""

from __future__ import annotations

import os

import msgspec

from dora.dataflow.problems import ProblemReport, TextSpan
from dora.dataflow.types.contracts import TYPE_NAME
from dora.dataflow.yaml.compose import compose_mapping
from dora.dataflow.yaml.field_types import (
    ChoiceType,
    CommandsType,
    FieldType,
    FlagType,
    ListType,
    MapType,
    Reader,
    Schema,
    TextType,
)
from dora.dataflow.yaml.files import MANIFEST_FILE, Unreadable, is_file, read_text
from dora.dataflow.yaml.number_types import IntegerType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import YamlNode


class _Anything(FieldType[object]):
    """Content for people, or for other programs."""

    def read(self, value: YamlNode, reader: Reader) -> object:  # noqa: ARG002 - a parameter of all types
        return value.plain()

    def schema(self) -> Schema:
        return {}


_DESCRIPTION = Field("description", TextType(), "What it is; for people.")

MANIFEST_PORT = SchemaBlock(
    "an input or output of a manifest",
    [
        Field("type", TYPE_NAME, "The type of its messages."),
        Field("required", FlagType(), "Whether the input has to be connected.", default=True),
        _DESCRIPTION,
    ],
)

MANIFEST = SchemaBlock(
    "the manifest of a node",
    [
        Field("apiVersion", IntegerType(1, 1), "The version of this format: 1.", required=True),
        Field(
            "namespace", TextType("a name", may_be_empty=False), "Who publishes the node.", required=True
        ),
        Field(
            "runtime", ChoiceType(("python", "rust", "c", "cpp")), "What it is written in.", required=True
        ),
        Field(
            "entrypoint",
            TextType("a path", may_be_empty=False),
            "The program, relative to the manifest, or the name of its command.",
            required=True,
        ),
        Field("name", TextType(), "What the node is called."),
        _DESCRIPTION,
        Field("inputs", MapType(MANIFEST_PORT, "inputs"), "The inputs that the program reads."),
        Field("outputs", MapType(MANIFEST_PORT, "outputs"), "The outputs that the program sends to."),
        Field("build", CommandsType(), "Commands that make the program, one a line."),
        Field("dora", TextType(), "The versions of dora that it works with."),
        Field("env", _Anything(), "Environment variables that the program reads; for people."),
        Field("categories", ListType(TextType(), "categories"), "What the node is for; for people."),
        Field("keywords", ListType(TextType(), "keywords"), "Words to find it by; for people."),
        Field("platforms", ListType(TextType(), "platforms"), "Where it runs; for people."),
        Field("requirements", _Anything(), "Hardware and programs that it needs; for people."),
        Field("types", _Anything(), "Types that come with the node; for other programs."),
        Field("example", _Anything(), "A dataflow that shows it; for people."),
    ],
    notes=True,
)


class NodeManifest(msgspec.Struct, frozen=True):
    """A manifest, checked."""

    file: str  # as messages call it
    entrypoint: str
    required: tuple[str, ...]  # inputs
    types: dict[
        str, dict[str, tuple[str, TextSpan]]
    ]  # "input_types", "output_types" → name → type, and where


def manifest_of(path: str, project: str, shown: str, reader: Reader) -> NodeManifest | None:
    """Return the manifest of a program, from its folder; None if there is none. Problems go to the report.

    ``path`` is relative to ``project``, the folder of the dataflow file, which messages call ``shown``.
    """
    folder, name = os.path.split(path)
    file = os.path.join(project, folder, MANIFEST_FILE)
    if not is_file(file):
        return None
    shown_file = os.path.normpath(os.path.join(shown, folder, MANIFEST_FILE))
    try:
        own = ProblemReport(read_text(file, shown_file), shown_file, reader.report)
    except Unreadable as error:
        reader.report.warn(TextSpan(0, 0, 0, 1), str(error), error.hint)
        return None
    manifest = read_manifest(Reader(own, reader.environ))
    reader.report.take(own)
    return manifest if manifest is not None and os.path.normpath(manifest.entrypoint) == name else None


def read_manifest(reader: Reader) -> NodeManifest | None:
    """Read the text of a report as a manifest; None after reporting what is wrong with it."""
    report = reader.report
    root = compose_mapping(report, "the manifest of a node is a mapping", "it begins with `apiVersion: 1`")
    checked = None if root is None else MANIFEST.read(root, reader)
    if checked is None or report.failed:
        return None
    ports: dict[str, dict[str, CheckedBlock]] = {
        field: checked.get(field) or {} for field in ("inputs", "outputs")
    }
    types: dict[str, dict[str, tuple[str, TextSpan]]] = {
        f"{field[:-1]}_types": {
            name: (port.get("type"), port.place("type")) for name, port in found.items() if port.has("type")
        }
        for field, found in ports.items()
    }
    for found in types.values():
        for _, span in found.values():
            span.origin = report.origin
    return NodeManifest(
        file=report.file,
        entrypoint=checked.get("entrypoint"),
        required=tuple(name for name, port in ports["inputs"].items() if port.get("required") is not False),
        types=types,
    )
