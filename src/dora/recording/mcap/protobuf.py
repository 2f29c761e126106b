"""As much of Protobuf as a recording needs: fields one after another, and descriptions of messages.

A recording is written in this form because viewers read it without help, and because a Protobuf message may
have fields that its reader does not know. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack
from typing import NamedTuple

DOUBLE, FLOAT, FIXED64, FIXED32, STRING, MESSAGE, BYTES, ENUM = 1, 2, 6, 7, 9, 11, 12, 14
SFIXED32, SFIXED64 = 15, 16
INT64, INT32 = 3, 5


class Enum(NamedTuple):
    """The type of a field that has one of these values, numbered from 0; it belongs to its message."""

    name: str
    values: tuple[str, ...]


Field = tuple[str, int, int | str | Enum, bool]
"""Name, number, type (the name of a message, an enum, or a number above), whether it is repeated."""


_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


def varint(value: int) -> bytes:
    """Return a number from 0 on in groups of seven bits, the lowest first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Return a number and where it ends; raises ``IndexError`` if it does not end."""
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise IndexError("a number has more than 64 bits")


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def integer(number: int, value: int) -> bytes:
    """Return a field of an integer from 0 on (int32, int64, enum)."""
    return tag(number, 0) + varint(value)


def fixed32(number: int, value: int) -> bytes:
    return tag(number, 5) + pack("<I", value)


def double(number: int, value: float) -> bytes:
    return tag(number, 1) + pack("<d", value)


def section(number: int, content: bytes) -> bytes:
    """Return a field of bytes, of a message or of packed numbers."""
    return tag(number, 2) + varint(len(content)) + content


def text(number: int, content: str) -> bytes:
    return section(number, content.encode())


def timestamp(number: int, time_ns: int) -> bytes:
    """Return a field of the type ``google.protobuf.Timestamp``."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return section(number, integer(1, seconds) + integer(2, nanos))


def descriptor_set(messages: Mapping[str, tuple[Field, ...]]) -> bytes:
    """Return a ``FileDescriptorSet`` of messages, by their full names; the first is made of the others."""
    files: dict[str, bytes] = {}
    for name, fields in messages.items():
        package, _, short = name.rpartition(".")
        body = text(1, short) + b"".join(section(2, _field(field, name)) for field in fields)
        body += b"".join(section(4, _enum(kind)) for _, _, kind, _ in fields if isinstance(kind, Enum))
        files[name] = text(2, package) + section(4, body)
    out = []
    for name, content in files.items():
        needs = dict.fromkeys(kind for _, _, kind, _ in messages[name] if isinstance(kind, str))
        head = text(1, _file(name)) + b"".join(text(3, _file(need)) for need in needs)
        out.append(section(1, head + content + text(12, "proto3")))
    return b"".join(reversed(out))  # what is needed goes first


def _file(name: str) -> str:
    return f"{name.replace('.', '/')}.proto"


def _enum(enum: Enum) -> bytes:
    values = (text(1, value) + integer(2, number) for number, value in enumerate(enum.values))
    return text(1, enum.name) + b"".join(section(2, value) for value in values)


def _field(field: Field, message: str) -> bytes:
    name, number, kind, repeated = field
    out = text(1, name) + integer(3, number) + integer(4, 3 if repeated else 1)
    if isinstance(kind, str):
        return out + integer(5, MESSAGE) + text(6, f".{kind}")
    if isinstance(kind, Enum):
        return out + integer(5, ENUM) + text(6, f".{message}.{kind.name}")
    return out + integer(5, kind)
