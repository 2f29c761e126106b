"""Packages imported before a node starts: the field ``preload`` of a node, and of the dataflow."""

from __future__ import annotations

import keyword
import re
from typing import Literal

from dora.dataflow.model import PreloadedPackage
from dora.dataflow.problems import ProblemReport
from dora.dataflow.yaml.field_types import (
    FieldType,
    ListType,
    Reader,
    RuledTextType,
    Schema,
    flag_hint,
    report_expected,
    shorten,
    text_of,
)
from dora.dataflow.yaml.schema_block import CheckedBlock
from dora.dataflow.yaml.tree import ScalarNode, SequenceNode, YamlNode

_NAME = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"


def _package_fault(text: str) -> tuple[str, str] | None:
    shown = shorten(text)
    if "/" in text or text.endswith(".py"):
        return (
            f"`{shown}` is a file, and only installed packages can be imported before a node starts",
            "leave it out: the node imports its own files itself",
        )
    if text.startswith("."):
        return f"`{shown}` is a relative name", "write the whole name, as in `package.module`"
    if not re.fullmatch(_NAME, text) or any(keyword.iskeyword(part) for part in text.split(".")):
        return (
            f"`{shown}` cannot be the name of a package in an `import`",
            "write the name that programs import: `cv2`, not `opencv-python`",
        )
    return None


_PACKAGES = ListType(
    RuledTextType("the name of a package", _package_fault, {"type": "string", "pattern": f"^{_NAME}$"}),
    "packages",
)


class Preload(FieldType[tuple[PreloadedPackage, ...] | Literal[False]]):
    """Packages to import beside those that a program imports; none for ``true``; False: import nothing."""

    def read(self, value: YamlNode, reader: Reader) -> tuple[PreloadedPackage, ...] | Literal[False] | None:
        if isinstance(value, ScalarNode) and isinstance(value.value, bool):
            return () if value.value else False
        if not isinstance(value, SequenceNode):
            text, hint = text_of(value), flag_hint(value)
            if text and not hint and _package_fault(text) is None:
                hint = f"write `[{shorten(text)}]`"
            report_expected(value, reader, "`true`, `false` or a list of packages", hint)
            return None
        names = _PACKAGES.read(value, reader)
        if names is None:
            return None
        places = {text_of(item): reader.report.place(item) for item in reversed(value.items)}
        return tuple(PreloadedPackage(name, places[name]) for name in names)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, _PACKAGES.schema()]}


def preload_of(
    checked: CheckedBlock, default: tuple[PreloadedPackage, ...] | None
) -> tuple[PreloadedPackage, ...] | None:
    """Return `NodeSpec.preload` of a node, or with the dataflow's block the default for its nodes."""
    found: tuple[PreloadedPackage, ...] | Literal[False] | None = checked.get("preload")
    if found is None:
        return default
    return None if found is False else found


def warn_without_effect(checked: CheckedBlock, report: ProblemReport, owner: str) -> None:
    """Warn of packages for a node that runs a command of the shell."""
    if checked.get("preload"):
        message = f"`preload` has no effect on {owner}, because it runs a command of the shell"
        report.warn(checked.keys["preload"], message)
