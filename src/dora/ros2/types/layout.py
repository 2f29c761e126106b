"""The layout of a message in CDR: the steps in which it is read and written, made once for each type.

CDR (OMG DDSI-RTPS, plain XCDR version 1) has no tags: the fields follow one another, each number at a
multiple of its own size, counted from the first byte after the header of four bytes. Nested messages add
nothing of their own, so a message becomes a flat row of items. Neighbouring numbers are one item, that one
call of `struct` reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dora.ros2.types.definition import STRINGS, MessageField, MessageFieldType, Value
from dora.ros2.types.errors import DefinitionError

HEADER: Final = 4
"""Bytes before the fields: the encoding, and options that XCDR version 1 does not use."""

CODES: Final = {
    "bool": "B",
    "byte": "B",
    "char": "B",
    "uint8": "B",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}
"""Characters of the `struct` module."""

DTYPES: Final = {
    kind: {"b": "i", "B": "u", "h": "i", "H": "u", "i": "i", "I": "u", "q": "i", "Q": "u"}.get(code, "f")
    + str(struct.calcsize("=" + code))
    for kind, code in CODES.items()
}
"""NumPy's names, without the order of bytes. A bool is a byte here, as on the wire."""

MAX_BYTES: Final = 1 << 30
"""Bytes of the smallest message of a type: a few characters of a definition could ask for all memory."""

MAX_LENGTH: Final = 2**31 - 1
"""Elements of a list in Arrow, whose offsets have 32 bits."""


@dataclass
class NumberItem:
    """A number in a group."""

    path: str  # the field, from the message with the items: "header.stamp.sec"
    kind: str
    default: Value


@dataclass
class NumberGroup:
    """Numbers that follow one another."""

    leaves: list[NumberItem] = field(default_factory=list)

    def structs(self, order: str) -> tuple[struct.Struct, ...]:
        """Return how to read the group at each position modulo 8. ``order`` is ``<`` or ``>``."""
        return tuple(self._struct(order, start) for start in range(8))

    def _struct(self, order: str, start: int) -> struct.Struct:
        at, text = start, order
        for leaf in self.leaves:
            code = CODES[leaf.kind]
            size = struct.calcsize("=" + code)
            text += "x" * (-at % size) + code
            at += -at % size + size
        return struct.Struct(text)

    @property
    def least(self) -> int:
        return sum(struct.calcsize("=" + CODES[leaf.kind]) for leaf in self.leaves)


@dataclass
class TextItem:
    """A string."""

    path: str
    wide: bool
    bound: int  # the most characters; 0: no limit
    default: str
    least: int = 4


@dataclass
class ListItem:
    """An array or a sequence."""

    path: str
    count: int  # elements of an array; 0: a sequence
    most: int  # the most elements of a sequence; 0: no limit

    def __str__(self) -> str:
        if self.count:
            return f"{self.count} elements"
        return f"at most {self.most} elements" if self.most else "a sequence"

    def refuses(self, number: int) -> bool:
        """Return whether the type has another number of elements than this."""
        if self.count:
            return number != self.count
        return number > (self.most or MAX_LENGTH)


@dataclass
class NumberList(ListItem):
    """An array or a sequence of numbers or bools."""

    kind: str
    default: Sequence[Value]  # empty: zeros

    @property
    def width(self) -> int:
        return int(DTYPES[self.kind][1:])

    @property
    def least(self) -> int:
        return self.count * self.width or 4


@dataclass
class TextList(ListItem):
    """An array or a sequence of strings."""

    wide: bool
    bound: int
    default: Sequence[str]  # empty: empty strings

    @property
    def least(self) -> int:
        return 4 * self.count or 4


@dataclass
class RecordList(ListItem):
    """An array or a sequence of messages."""

    layout: CdrLayout

    @property
    def least(self) -> int:
        return self.count * self.layout.least or 4


Item = NumberGroup | TextItem | NumberList | TextList | RecordList


@dataclass
class FieldNode:
    """A place in the tree of fields: a message with children, or where its value is among the items."""

    name: str
    item: int = -1
    leaf: int = -1  # in a group
    children: list[FieldNode] | None = None


class CdrLayout:
    """The items of a message, and the tree of its fields.

    ``fields_of`` gives the fields of nested messages. Raises `DefinitionError` for a message in itself, and
    for one that cannot be smaller than 1 GiB.
    """

    def __init__(
        self, name: str, fields_of: Callable[[str], Sequence[MessageField]], outer: tuple[str, ...] = ()
    ) -> None:
        if name in outer:
            raise DefinitionError(
                f"{name} has a field of its own type, by way of {' → '.join((*outer, name))}"
            )
        self.name = name
        self.items: list[Item] = []
        self._fields_of, self._outer = fields_of, (*outer, name)
        self.root = self._message("", "", name)
        self.fixed = all(
            isinstance(item, NumberGroup) or (isinstance(item, NumberList) and item.count)
            for item in self.items
        )
        """Whether all values have the same bytes, so that a sequence of them needs no loop."""
        self.least = sum(item.least for item in self.items)
        """The fewest bytes of a value, without gaps."""
        if self.least > MAX_BYTES:
            raise DefinitionError(
                f"each {name} has at least {self.least:,} bytes, but a message may have {MAX_BYTES:,}"
            )

    def _message(self, name: str, path: str, kind: str) -> FieldNode:
        fields = self._fields_of(kind)
        node = FieldNode(name, children=[self._field(one, path) for one in fields])
        if not fields:
            # It is sent, but is no field of the message: the C of ROS has no empty structs.
            self._number(NumberItem(path, "uint8", 0))
        return node

    def _field(self, one: MessageField, outer: str) -> FieldNode:
        path = f"{outer}.{one.name}" if outer else one.name
        kind = one.type
        if kind.shape == "one":
            if kind.kind == "message":
                outers = self._outer
                if kind.nested in outers:
                    raise DefinitionError(
                        f"{kind.nested} has a field of its own type: {path} of {self.name}"
                    )
                self._outer = (*outers, kind.nested)
                node = self._message(one.name, path, kind.nested)
                self._outer = outers
                return node
            if kind.kind in STRINGS:
                return self._item(
                    one, TextItem(path, kind.kind == "wstring", kind.bound, str(one.default or ""))
                )
            value: Any = one.default or 0
            group = self._number(NumberItem(path, kind.kind, bool(value) if kind.kind == "bool" else value))
            return FieldNode(one.name, len(self.items) - 1, len(group.leaves) - 1)
        return self._item(one, self._many(one, path, kind))

    def _many(self, one: MessageField, path: str, kind: MessageFieldType) -> Item:
        count, most = (kind.size, 0) if kind.shape == "array" else (0, kind.size)
        if kind.kind == "message":
            return RecordList(path, count, most, CdrLayout(kind.nested, self._fields_of, self._outer))
        default: Any = one.default if isinstance(one.default, tuple) else ()
        if kind.kind in STRINGS:
            return TextList(path, count, most, kind.kind == "wstring", kind.bound, default)
        return NumberList(path, count, most, kind.kind, default)

    def _item(self, one: MessageField, item: Item) -> FieldNode:
        self.items.append(item)
        return FieldNode(one.name, len(self.items) - 1)

    def _number(self, leaf: NumberItem) -> NumberGroup:
        last = self.items[-1] if self.items else None
        if not isinstance(last, NumberGroup):
            last = NumberGroup()
            self.items.append(last)
        last.leaves.append(leaf)
        return last
