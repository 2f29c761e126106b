"""Type descriptions and their hashes, RIHS01, as REP 2016 defines them.

https://github.com/ros-infrastructure/rep/pull/381; the numbers are the constants of
`type_description_interfaces/msg/MessageFieldType`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dora.ros2.types.definition import DUMMY, MessageField, MessageFieldType

_NUMBERS: Final = {
    "message": 1,
    "int8": 2,
    "uint8": 3,
    "int16": 4,
    "uint16": 5,
    "int32": 6,
    "uint32": 7,
    "int64": 8,
    "uint64": 9,
    "float32": 10,
    "float64": 11,
    "char": 13,
    "bool": 15,
    "byte": 16,
    "string": 17,
    "wstring": 18,
}
_BOUNDED_STRINGS: Final = {"string": 21, "wstring": 22}
_ARRAY, _BOUNDED_SEQUENCE, _SEQUENCE = 48, 96, 144

Fields = Iterable[MessageField]


def describe(name: str, fields_of: Callable[[str], Fields]) -> dict[str, Any]:
    """Return the description of a type and of all types in it: a `TypeDescription` as a dictionary.

    ``fields_of`` gives the fields of a type by its full name.
    """
    described: dict[str, dict[str, Any]] = {}

    def add(one: str) -> None:
        fields = tuple(fields_of(one)) or (MessageField(DUMMY, MessageFieldType("uint8")),)
        described[one] = {"type_name": one, "fields": [_describe_field(field) for field in fields]}
        for field in fields:
            if field.type.nested and field.type.nested not in described:
                add(field.type.nested)

    add(name)
    own = described.pop(name)
    return {
        "type_description": own,
        "referenced_type_descriptions": [described[one] for one in sorted(described)],
    }


def _describe_field(field: MessageField) -> dict[str, Any]:
    kind = field.type
    number = _BOUNDED_STRINGS[kind.kind] if kind.bound else _NUMBERS[kind.kind]
    if kind.shape == "array":
        number += _ARRAY
    elif kind.shape == "sequence":
        number += _BOUNDED_SEQUENCE if kind.size else _SEQUENCE
    return {
        "name": field.name,
        "type": {
            "type_id": number,
            "capacity": kind.size,
            "string_capacity": kind.bound,
            "nested_type_name": kind.nested,
        },
    }


def hash_of(description: Mapping[str, Any]) -> str:
    """Return the hash of a description, as ``RIHS01_`` and 64 hexadecimal digits.

    Default values, constants and comments do not count: messages with other ones can still be read.
    """
    # The separators are part of the standard: ", " and ": ".
    text = json.dumps(description, ensure_ascii=True, separators=(", ", ": "))
    return "RIHS01_" + hashlib.sha256(text.encode()).hexdigest()
