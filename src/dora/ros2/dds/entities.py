"""Messages that ROS adds to the discovery of DDS: the endpoints of each node, and hashes of types.

DDS knows participants and their readers and writers, but no nodes. So each participant publishes its nodes
on the topic ``ros_discovery_info``, with the ids of their readers and writers (package ``rmw_dds_common``).
The hash of a type is in the user data of each endpoint.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from dora.ros2.graph import NodeName

TOPIC: Final = "ros_discovery_info"
TYPE: Final = "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_"

_GID_SIZE: Final = 16
_GID_SIZES: Final = (16, 24)  # Iron and later, Humble
_HEADER: Final = b"\x00\x01\x00\x00"  # CDR, little endian
_HASH_KEY: Final = b"typehash="
_END: Final = b";"


@dataclass(frozen=True, slots=True)
class NodeEntities:
    """A node, and the ids of its readers and writers: 16 bytes each."""

    node: NodeName
    readers: tuple[bytes, ...]
    writers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ParticipantEntities:
    """The nodes of a participant, which has an id of 16 bytes."""

    gid: bytes
    nodes: tuple[NodeEntities, ...]


def write_entities(entities: ParticipantEntities) -> bytes:
    """Return the message for ``ros_discovery_info``, as Iron and later write it."""
    body = bytearray(entities.gid)
    _write_number(body, len(entities.nodes))
    for item in entities.nodes:
        _write_text(body, item.node.namespace)
        _write_text(body, item.node.name)
        for gids in (item.readers, item.writers):
            _write_number(body, len(gids))
            body += b"".join(gids)
    return _HEADER + bytes(body)


def read_entities(data: bytes) -> ParticipantEntities:
    """Return what a message of ``ros_discovery_info`` says; raises `ValueError`."""
    error: Exception | None = None
    for size in _GID_SIZES:
        try:
            return _read_entities(data, size)
        except (ValueError, struct.error) as problem:
            error = problem
    raise ValueError("a message of ros_discovery_info that cannot be read") from error


def user_data(type_hash: str) -> bytes:
    """Return the user data of an endpoint.

    >>> user_data("RIHS01_df66"), type_hash_of(b"typehash=RIHS01_df66;"), type_hash_of(b"else")
    (b'typehash=RIHS01_df66;', 'RIHS01_df66', '')
    """
    return _HASH_KEY + type_hash.encode() + _END if type_hash else b""


def type_hash_of(data: bytes) -> str:
    """Return the hash in the user data of an endpoint, empty if there is none."""
    for part in data.split(_END):
        if part.startswith(_HASH_KEY):
            return part.removeprefix(_HASH_KEY).decode("ascii", "replace")
    return ""


class _EntitiesReader:
    """Reads CDR from its beginning; raises `ValueError` or ``struct.error`` at its end."""

    def __init__(self, data: bytes) -> None:
        if len(data) < len(_HEADER) or data[0] != 0 or data[1] > 1:
            raise ValueError("no CDR")
        self._number = struct.Struct("<I" if data[1] else ">I")
        self._data = data
        self._at = len(_HEADER)

    def number(self) -> int:
        self._at = (self._at + 3) & ~3  # the header does not shift the alignment: it has 4 bytes
        (value,) = self._number.unpack_from(self._data, self._at)
        self._at += 4
        return int(value)

    def count(self, size: int) -> int:
        """Return the length of a sequence whose items have at least ``size`` bytes."""
        value = self.number()
        if value * size > len(self._data) - self._at:
            raise ValueError("a sequence beyond the end")
        return value

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise ValueError("a value beyond the end")
        self._at += size
        return part

    def text(self) -> str:
        return self.take(self.count(1)).rstrip(b"\0").decode()

    def end(self) -> None:
        """Raise `ValueError` if more than padding is left."""
        if len(self._data) - self._at > 3 or self._data[self._at :].strip(b"\0"):
            raise ValueError("more than one message")


def _read_entities(data: bytes, size: int) -> ParticipantEntities:
    reader = _EntitiesReader(data)
    gid = reader.take(size)[:_GID_SIZE]
    nodes: list[NodeEntities] = []
    for _ in range(reader.count(16)):  # the lengths of two texts and two sequences
        namespace, name = reader.text(), reader.text()
        readers = tuple(reader.take(size)[:_GID_SIZE] for _ in range(reader.count(size)))
        writers = tuple(reader.take(size)[:_GID_SIZE] for _ in range(reader.count(size)))
        nodes.append(NodeEntities(NodeName(name, namespace), readers, writers))
    reader.end()
    return ParticipantEntities(gid, tuple(nodes))


def _write_number(body: bytearray, value: int) -> None:
    body += bytes(-len(body) % 4) + struct.pack("<I", value)


def _write_text(body: bytearray, text: str) -> None:
    data = text.encode() + b"\0"
    _write_number(body, len(data))
    body += data
