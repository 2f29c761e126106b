"""Message types from the definitions in a bag.

A bag holds the definition of each type as one text, with all types in it: ``ros2msg`` has the texts of
`.msg` files, ``ros2idl`` the texts of IDL files. https://mcap.dev/spec/registry describes both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from dora.ros2.types.definition import MessageDefinition, full_name
from dora.ros2.types.errors import DefinitionError
from dora.ros2.types.idl_text import read_idl
from dora.ros2.types.message_type import MessageType
from dora.ros2.types.msg_text import read_message

__all__ = ["bag_type"]

_HEAD: Final = re.compile(r"^={3,}\n(MSG|IDL): *(\S+)[^\n]*\n", re.MULTILINE)
_MOST_FIELDS: Final = 100_000  # with the fields of nested types; few lines of text could mean billions
_MOST_DEPTH: Final = 64  # each level is a call; a deeper type would end in a `RecursionError`


def bag_type(name: str, text: str, definition_of: Callable[[str], MessageDefinition]) -> MessageType:
    """Return the type ``name`` that a definition in a bag describes.

    ``definition_of`` gives the types that the text lacks; with the text "", all.

    Raises `DefinitionError` for a text that cannot be read, or that describes a type of more than 100,000
    fields, and what ``definition_of`` raises.
    """
    full = full_name(name, "msg")
    own = _definitions(full, text.replace("\r\n", "\n")) if text else {}

    def find(wanted: str) -> MessageDefinition:
        found = own.get(wanted)
        return definition_of(wanted) if found is None else found

    _count_fields(full, find, {}, 0)
    return MessageType(full, find)


def _definitions(name: str, text: str) -> dict[str, MessageDefinition]:
    found: dict[str, MessageDefinition] = {}
    heads = list(_HEAD.finditer(text))
    first = text[: heads[0].start()] if heads else text
    if first.strip() or not heads:
        found[name] = read_message(first, name)
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=False):  # without heads, there is one end more
        part = text[head.end() : end]
        part_name = full_name(head[2], "msg")
        definitions = read_idl(part, head[2]) if head[1] == "IDL" else [read_message(part, part_name)]
        for definition in definitions:
            found.setdefault(definition.name, definition)
    return found


def _count_fields(
    name: str, find: Callable[[str], MessageDefinition], known: dict[str, int], depth: int
) -> int:
    """Return how many fields a type has, with the fields of nested ones; raises if they are too many."""
    if name in known:
        return known[name]
    if depth > _MOST_DEPTH:
        raise DefinitionError(f"types are nested more than {_MOST_DEPTH} levels deep, down to {name}")
    known[name] = 0  # a type in itself is refused when its layout is made
    count = 0
    for one in find(name).fields:
        count += _count_fields(one.type.nested, find, known, depth + 1) if one.type.nested else 1
    if count > _MOST_FIELDS:
        raise DefinitionError(f"{name} has more than {_MOST_FIELDS:,} fields")
    known[name] = count
    return count
