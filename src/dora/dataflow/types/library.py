"""All types that a dataflow may name, and the Arrow types that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from dora.dataflow.problems import ProblemReport, TextSpan
from dora.dataflow.types.own_types import MAX_TYPE, STANDARD, TypeDefinition, TypeName

# The standard library of types: plain data, in the notation of users' own type files.
#
# A type is an Arrow type by name, or a struct: a mapping of fields to types. Names without a slash are
# Arrow types, or types of the same part of the library, or else of any other part.

ARROW: Final = (
    *("Null", "Boolean", "Utf8", "LargeBinary", "Float16", "Float32", "Float64"),
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
)
"""Arrow types that a type may be made of, besides ``List<…>``."""

_NUMBERS = ("Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")

TYPES: Final[dict[str, dict[str, str | dict[str, str]]]] = {
    "std/core/v1": {
        **{name: name for name in _NUMBERS},
        "String": "Utf8",
        "Bytes": "LargeBinary",
        "Bool": "Boolean",
        "Null": "Null",  # what a timer sends
    },
    "std/math/v1": {
        "Vector3": {"x": "Float64", "y": "Float64", "z": "Float64"},
        "Quaternion": {"x": "Float64", "y": "Float64", "z": "Float64", "w": "Float64"},
        "Pose": {"position": "Vector3", "orientation": "Quaternion"},
        "Transform": {"translation": "Vector3", "rotation": "Quaternion"},
    },
    "std/control/v1": {
        "Twist": {"linear": "Vector3", "angular": "Vector3"},
        "JointState": {
            "names": "List<Utf8>",
            "positions": "List<Float64>",
            "velocities": "List<Float64>",
            "efforts": "List<Float64>",
        },
        "Odometry": {"pose": "Pose", "twist": "Twist", "frame_id": "Utf8"},
    },
    "std/media/v1": {
        "Image": {"width": "UInt32", "height": "UInt32", "encoding": "Utf8", "data": "LargeBinary"},
        "CompressedImage": "LargeBinary",
        "PointCloud": {"points": "LargeBinary", "width": "UInt32", "height": "UInt32"},
        "AudioFrame": {"sample_rate": "UInt32", "channels": "UInt32", "data": "LargeBinary"},
    },
    "std/vision/v1": {
        "BoundingBox": {
            **dict.fromkeys(("x", "y", "width", "height", "confidence"), "Float32"),
            "label": "Utf8",
        },
        "Detection": {"boxes": "List<BoundingBox>"},
        "Segmentation": {
            "width": "UInt32",
            "height": "UInt32",
            "num_classes": "UInt32",
            "mask": "LargeBinary",
            "class_names": "List<Utf8>",
        },
    },
}

WIDENING: Final = (
    ("Int8", "Int16"),
    ("Int16", "Int32"),
    ("Int32", "Int64"),
    ("UInt8", "UInt16"),
    ("UInt8", "UInt32"),
    ("UInt16", "UInt32"),
    ("UInt32", "UInt64"),
    ("Float32", "Float64"),
)
"""Conversions that keep every value: from the first type to the second."""

Shape = Any
"""An Arrow type as plain data: ``"Float32"``, ``{"list": shape}``, ``{"struct": {field: shape}}``."""

CORE = "std/core/v1/"
ANYTHING = f"{CORE}Bytes"
TEXT = TypeName(f"{CORE}String")
NOTHING = TypeName(f"{CORE}Null")
TIMER = (NOTHING, TypeName(f"{CORE}UInt64"))
"""Types that an input fed by a timer may declare: the real one, and the one that dora-rs names."""

MAX_DEPTH = 8  # of types made of types
MAX_PARTS = 10_000  # of one type, with all its fields written out
MAX_STEPS = 3  # of conversions, one after the other

_list = re.compile(r"List<(.+)>").fullmatch
_steps: dict[str, list[str]] = {}
for _narrow, _wide in WIDENING:
    _steps.setdefault(CORE + _narrow, []).append(CORE + _wide)


class TypeLibrary:
    """The standard types and the user's, which are read when a name is not a standard one."""

    def __init__(
        self, report: ProblemReport, read_users: Callable[[], Mapping[str, Mapping[str, TypeDefinition]]]
    ) -> None:
        self._report = report
        self._read_users = read_users
        self._users: dict[str, TypeDefinition] | None = None
        self._shapes: dict[str, Shape] = {}
        self._parts = 0

    def shape(self, name: TypeName) -> Shape | None:
        """Return the Arrow type of a type; None if there is no such type, or it is broken (reported)."""
        base = name.base
        if base not in self._shapes:
            self._shapes[base] = self._resolved(base, ())
        return self._shapes[base]

    def exists(self, name: TypeName) -> bool:
        """Return whether there is such a type; parameters do not matter. May read the types of users."""
        return name.base in _standard() or (
            not name.base.startswith(STANDARD) and name.base in self._all_users()
        )

    def hint(self, name: TypeName) -> str:
        """Return the hint for a name that does not exist."""
        if not self._report.suggests:
            return ""
        known = [*_standard(), *(self._users or ())]
        by_short = [base for base in known if base.rpartition("/")[2] == name.short]
        if len(by_short) == 1:
            return f"did you mean `{by_short[0]}`?"
        found = self._report.did_you_mean(name.base, known)
        if found or name.base.startswith(STANDARD):
            return found
        return "types of your own are defined in files `types/**/*.yml` beside the dataflow"

    def _all_users(self) -> dict[str, TypeDefinition]:
        if self._users is None:
            self._users = {
                f"{part}/{name}": definition
                for part, types in self._read_users().items()
                for name, definition in types.items()
            }
            for base in self._users:
                self._shapes[base] = self._resolved(base, ())
        return self._users

    def _resolved(self, base: str, chain: tuple[str, ...]) -> Shape | None:
        """Return the Arrow type of a type; ``chain``: the types that contain it, from the outside in."""
        if not chain:
            self._parts = 0
        definition = _standard().get(base) or (
            None if base.startswith(STANDARD) else self._all_users().get(base)
        )
        if definition is None:
            return None
        if base in chain or len(chain) >= MAX_DEPTH:
            fault = "contains itself" if base in chain else f"is nested more than {MAX_DEPTH} deep"
            self._report.error(definition.span, f"the type `{chain[0]}` {fault}")
            return None
        part = base.rpartition("/")[0]
        inner = (*chain, base)
        if isinstance(definition.meaning, str):
            return self._part(definition.meaning, part, definition.span, inner)
        fields = {
            name: self._part(text, part, definition.span, inner)
            for name, text in definition.meaning.items()
        }
        return None if None in fields.values() else {"struct": fields}

    def _part(self, text: str, part: str, span: TextSpan, chain: tuple[str, ...]) -> Shape | None:
        """Return the Arrow type that ``text`` names in a type of ``part``."""
        self._parts += 1
        if self._parts == MAX_PARTS:
            self._report.error(
                span, f"with all its fields written out, the type `{chain[0]}` grows too large"
            )
        if self._parts >= MAX_PARTS:
            return None
        text = text.strip()
        if len(text) > MAX_TYPE:
            self._report.error(span, f"the name of a type has at most {MAX_TYPE} characters")
            return None
        if found := _list(text):
            item = self._part(found[1], part, span, chain)
            return None if item is None else {"list": item}
        if text in ARROW:
            return text
        users = self._users or {}
        candidates = [text] if "/" in text else [f"{part}/{text}"]
        candidates += [base for base in _standard() if "/" not in text and base.endswith(f"/{text}")]
        for base in candidates:
            if base in _standard() or base in users:
                return self._resolved(base, chain)
        names = [*ARROW, *(base.rpartition("/")[2] for base in (*_standard(), *users))]
        hint = self._report.did_you_mean(text, names)
        self._report.error(span, f"there is no type `{text}`, which `{chain[-1]}` is made of", hint)
        return None


@cache
def _standard() -> dict[str, TypeDefinition]:
    nowhere = TextSpan(0, 0, 0, 1)
    return {
        f"{part}/{name}": TypeDefinition(meaning, nowhere)
        for part, types in TYPES.items()
        for name, meaning in types.items()
    }


def accepts(expected: TypeName, sent: TypeName, rules: tuple[tuple[TypeName, TypeName], ...] = ()) -> bool:
    """Return whether an input of one type may get messages of another.

    ``rules`` are further conversions (from, to); at most `MAX_STEPS` are done one after the other.
    """
    if expected.base == ANYTHING:
        return True
    reached = [sent]
    for _ in range(MAX_STEPS + 1):
        if any(found.agrees(expected) for found in reached):
            return True
        further = (
            step
            for found in reached
            for step in (
                *(TypeName(base) for base in _steps.get(found.base, ())),
                *(to for start, to in rules if start.agrees(found)),
            )
        )
        reached = list(dict.fromkeys(further))
    return False
