"""Event log: the order in which a node received its events, for recordings and replays.

An entry is 24 bytes, little-endian, and its content::

    offset  size  field
    0       1     kind (see `EntryKind`)
    1       1     zero
    2       2     input: its index in the list of the last `BEGIN`
    4       4     length of the content, which follows
    8       8     time of receiving, nanoseconds since the Unix epoch
    16      8     a number, see `EntryKind`

A file of entries has no end mark: one that is cut off in the middle of an entry is read up to that entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

_HEAD = Struct("<BxHIQQ")
_pack = _HEAD.pack
HEAD_SIZE: Final = _HEAD.size


class EntryKind:
    """Kinds of entries.

    ``BEGIN``: a process of the node, restarted ``number`` times, receives the events from here on; its
    content are its inputs, a msgpack map from id to source. ``MESSAGE``: message ``number`` of the
    source's output. ``TICK``: of a timer, with its time; the content is the number of missed ticks that its
    metadata tells, in decimal digits, or nothing. ``TEXT``: a line, with its time; the content is
    the line. ``LOCAL``: value ``number`` from an operator of the same runtime. ``EVENT``: any other
    event; the content is a msgpack map. ``TIMEOUT``: a wait ended by its timeout. ``NOTHING``: polling
    found no event, ``number`` times. ``SYNC``: a set of the group that the input leads; the content
    are the entries of its messages, in the order of the inputs. ``SAFE``: the safe value of an input, with
    its time; the content is the reason.
    """

    BEGIN: Final = 0
    MESSAGE: Final = 1
    TICK: Final = 2
    TEXT: Final = 3
    LOCAL: Final = 4
    EVENT: Final = 5
    TIMEOUT: Final = 6
    NOTHING: Final = 7
    SYNC: Final = 8
    SAFE: Final = 9


class Entry(NamedTuple):
    kind: int
    input: int
    time_ns: int
    number: int
    content: bytes = b""


def pack_entry(kind: int, input_: int, time_ns: int, number: int, content: bytes = b"") -> bytes:
    """Return the bytes of an entry.

    >>> [entry.number for entry in entries(pack_entry(EntryKind.MESSAGE, 0, 5, 7) + b"cut off")]
    [7]
    """
    return _pack(kind, input_, len(content), time_ns, number) + content


def entries(data: bytes | memoryview) -> Iterator[Entry]:
    """Yield the entries, up to one that is cut off."""
    position, end = 0, len(data)
    while position + HEAD_SIZE <= end:
        kind, input_, size, time_ns, number = _HEAD.unpack_from(data, position)
        position += HEAD_SIZE
        if position + size > end:
            return
        yield Entry(kind, input_, time_ns, number, bytes(data[position : position + size]))
        position += size


def complete_size(data: bytes) -> int:
    """Return the number of bytes that are complete entries."""
    position, end = 0, len(data)
    while position + HEAD_SIZE <= end:
        after = position + HEAD_SIZE + int.from_bytes(data[position + 4 : position + 8], "little")
        if after > end:
            break
        position = after
    return position
