"""Definitions of ROS messages: names, fields and constants."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from dora.ros2.types.errors import DefinitionError

Shape = Literal["one", "array", "sequence"]
InterfaceKind = Literal["msg", "srv", "action"]

STRINGS: Final = ("string", "wstring")
INTEGERS: Final = {
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "byte": (0, 2**8 - 1),
    "char": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}
FLOATS: Final = ("float32", "float64")
PRIMITIVES: Final = ("bool", *INTEGERS, *FLOATS, *STRINGS)

# The field of a message without fields: C has no empty structs.
DUMMY: Final = "structure_needs_at_least_one_member"

Value = bool | int | float | str


class MessageFieldType(NamedTuple):
    """The type of a field."""

    kind: str  # an entry of PRIMITIVES, or "message"
    nested: str = ""  # the full name, if kind is "message"
    bound: int = 0  # the most characters of a string; 0: no limit
    shape: Shape = "one"
    size: int = 0  # elements of an array; the most elements of a sequence, 0: no limit

    def __str__(self) -> str:
        name = self.nested or self.kind
        if self.bound:
            name += f"<={self.bound}"
        if self.shape == "array":
            return f"{name}[{self.size}]"
        if self.shape == "sequence":
            return f"{name}[<={self.size}]" if self.size else f"{name}[]"
        return name


class MessageField(NamedTuple):
    """A field of a message."""

    name: str
    type: MessageFieldType
    default: Value | tuple[Value, ...] | None = None  # None: zero, False or empty


class Constant(NamedTuple):
    """A named value in a definition. It is not sent."""

    name: str
    kind: str
    value: Value


class MessageDefinition(NamedTuple):
    """One message, as its definition says."""

    name: str  # "std_msgs/msg/String"
    fields: tuple[MessageField, ...] = ()
    constants: tuple[Constant, ...] = ()
    text: str = ""  # as it stands in the file; "" if it was not made from a .msg text


_NAME = re.compile(r"(?:(\w+)(?:/|::))(?:(msg|srv|action)(?:/|::))?(\w+)", re.ASCII)


def full_name(name: str, kind: InterfaceKind) -> str:
    """Return a name with its kind: ROS users leave it out where only one makes sense.

    A message may be a part of a service or an action: ``std_srvs/srv/SetBool_Request``.

    Raises `DefinitionError` for a name of another form or kind.

    >>> full_name("std_msgs/String", "msg")
    'std_msgs/msg/String'
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise DefinitionError(
            f"{name!r} is no name of a type: write it as package/Name or package/{kind}/Name"
        )
    package, written, last = found.groups()
    if kind == "msg" and written is not None:
        return f"{package}/{written}/{last}"  # perhaps a part of a service or an action
    if written not in (None, kind):
        raise DefinitionError(f"{name!r} has the kind {written!r}, but {kind!r} is needed here")
    return f"{package}/{kind}/{last}"


def dds_name(name: str) -> str:
    """Return the name that the type has on the wire.

    >>> dds_name("std_msgs/msg/String")
    'std_msgs::msg::dds_::String_'
    """
    package, kind, last = name.split("/")
    return f"{package}::{kind}::dds_::{last}_"
