"""Read the texts of `.msg`, `.srv` and `.action` files.

The form is the one of https://docs.ros.org/en/rolling/Concepts/Basic/About-Interfaces.html. Libraries that
read it leave out default values, wide strings and services, so it is read here.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from dora.ros2.types.definition import (
    FLOATS,
    INTEGERS,
    PRIMITIVES,
    STRINGS,
    Constant,
    MessageDefinition,
    MessageField,
    MessageFieldType,
    Shape,
    Value,
)
from dora.ros2.types.errors import DefinitionError

_TYPE = re.compile(
    r"(?P<base>[A-Za-z][\w/]*)(?:<=(?P<bound>\d+))?(?P<brackets>\[(?:(?P<most><=)?(?P<count>\d+))?\])?",
    re.ASCII,
)
_LINE = re.compile(r"(?P<type>\S+)\s+(?P<name>[A-Za-z]\w*)\s*(?P<rest>.*)", re.ASCII)
_QUOTED = re.compile(r""" '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" """, re.VERBOSE)
_ITEM = re.compile(r"""\s*( '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | [^,]*? )\s*(,|$)""", re.VERBOSE)

# The names of the parts of a file end so: `SetBool_Request`.
SECTIONS: Final = {
    "msg": ("",),
    "srv": ("_Request", "_Response"),
    "action": ("_Goal", "_Result", "_Feedback"),
}


def read_interface(text: str, name: str) -> list[MessageDefinition]:
    """Return the messages of a file: one of a `.msg`, two of a `.srv`, three of an `.action`.

    ``name`` is the full name of the interface. Raises `DefinitionError`.
    """
    kind = name.split("/")[1]
    suffixes = SECTIONS[kind]
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip() == "---" and kind != "msg":
            parts.append([])
        else:
            parts[-1].append(line)
    if len(parts) != len(suffixes):
        raise DefinitionError(
            f"{name} has {len(parts) - 1} lines '---', but a .{kind} has {len(suffixes) - 1}"
        )
    return [
        read_message("\n".join(part) + "\n", name + ending)
        for part, ending in zip(parts, suffixes, strict=True)
    ]


def read_message(text: str, name: str) -> MessageDefinition:
    """Return the message of a `.msg` text. Raises `DefinitionError` with the number of the line."""
    fields: list[MessageField] = []
    constants: list[Constant] = []
    for number, full in enumerate(text.splitlines(), 1):
        line = _without_comment(full).strip()
        if not line:
            continue
        try:
            _read_line(line, name, fields, constants)
        except ValueError as error:
            raise DefinitionError(f"{name}, line {number}: {error}: {line!r}") from None
    for name_of_field, count in Counter(field.name for field in fields).items():
        if count > 1:
            raise DefinitionError(f"{name} has two fields with the name {name_of_field!r}")
    return MessageDefinition(name, tuple(fields), tuple(constants), text)


def _without_comment(line: str) -> str:
    if "#" not in line:
        return line
    masked = _QUOTED.sub(lambda found: "x" * len(found[0]), line)
    at = masked.find("#")
    return line if at < 0 else line[:at]


def _read_line(line: str, name: str, fields: list[MessageField], constants: list[Constant]) -> None:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("neither a field nor a constant")
    kind = read_type(found["type"], name)
    rest = found["rest"]
    if rest.startswith("="):
        if kind.kind == "message" or kind.shape != "one":
            raise ValueError("only a number, a bool or a string can be a constant")
        constants.append(Constant(found["name"], kind.kind, read_value(rest[1:].strip(), kind)))
    elif rest:
        fields.append(MessageField(found["name"], kind, _read_default(rest, kind)))
    else:
        fields.append(MessageField(found["name"], kind))


def read_type(text: str, owner: str) -> MessageFieldType:
    """Return the type that a `.msg` text names. ``owner`` is the message with the field.

    Raises `ValueError`.
    """
    found = _TYPE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no type")
    base, bound = found["base"], int(found["bound"] or 0)
    shape: Shape = "one"
    count = int(found["count"] or 0)
    if found["brackets"]:
        shape = "array" if found["count"] and not found["most"] else "sequence"
        if found["count"] and not count:
            raise ValueError("an array needs at least one element")
    if base in PRIMITIVES:
        if found["bound"] and (base not in STRINGS or not bound):
            raise ValueError("only a string can have a limit, of at least one character")
        # ROS 2 sends `char` as uint8, and says so in its hash.
        return MessageFieldType("uint8" if base == "char" else base, "", bound, shape, count)
    if found["bound"]:
        raise ValueError("only a string can have a limit")
    parts = base.split("/")
    if len(parts) == 1:
        nested = f"{owner.split('/')[0]}/msg/{base}"
    elif len(parts) == 2:
        nested = f"{parts[0]}/msg/{parts[1]}"
    elif len(parts) == 3:
        nested = base
    else:
        raise ValueError(f"{text!r} is no type")
    return MessageFieldType("message", nested, 0, shape, count)


def read_value(text: str, kind: MessageFieldType) -> Value:
    """Return one value of a primitive type. Raises `ValueError`."""
    if kind.kind in STRINGS:
        value = _unquoted(text)
        if kind.bound and len(value) > kind.bound:
            raise ValueError(f"the string is longer than {kind.bound}")
        return value
    if kind.kind == "bool":
        if text.lower() in ("true", "1"):
            return True
        if text.lower() in ("false", "0"):
            return False
        raise ValueError(f"{text!r} is neither true nor false")
    if kind.kind in FLOATS:
        return float(text)
    low, high = INTEGERS[kind.kind]
    try:
        number = int(text)  # ROS takes leading zeros, which `int(text, 0)` refuses
    except ValueError:
        number = int(text, 0)
    if not low <= number <= high:
        raise ValueError(f"{number} does not fit into {kind.kind}")
    return number


def _read_default(text: str, kind: MessageFieldType) -> Value | tuple[Value, ...]:
    if kind.kind == "message":
        raise ValueError("a field of a message type cannot have a default")
    if kind.shape == "one":
        return read_value(text, kind)
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError("the default of an array or a sequence is a list in brackets")
    inner = text[1:-1].strip()
    values: list[Value] = []
    at = 0
    while inner and at <= len(inner):
        found = _ITEM.match(inner, at)
        if found is None:
            raise ValueError("the list cannot be read")
        values.append(read_value(found[1], kind))
        if not found[2]:
            break
        at = found.end()
    if (kind.shape == "array" and len(values) != kind.size) or (kind.size and len(values) > kind.size):
        raise ValueError(f"the default has {len(values)} values, but the type is {kind}")
    return tuple(values)


def _unquoted(text: str) -> str:
    quote = text[:1]
    if quote in ("'", '"') and len(text) > 1 and text.endswith(quote):
        return text[1:-1].replace("\\" + quote, quote)
    return text
