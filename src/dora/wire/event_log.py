"""The order in which a node took its events, as entries in bytes: to be recorded, and kept to in a replay.

An entry is 24 bytes, little-endian, and what belongs to it::

    offset  size  field
    0       1     kind (see `EntryKind`)
    1       1     zero
    2       2     which input: its place in the list of the last `BEGIN`
    4       4     length of what follows the entry
    8       8     when it was taken, nanoseconds since the Unix epoch
    16      8     a number, see `EntryKind`

A file of them needs no end: what is cut off in the middle of an entry is read up to there.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

_HEAD = Struct("<BxHIQQ")
_pack = _HEAD.pack
HEAD_SIZE: Final = _HEAD.size


class EntryKind:
    """What an entry tells.

    ``BEGIN``: a process of the node, restarted ``number`` times, takes events from here on; followed by its
    inputs, a msgpack map from id to source. ``MESSAGE``: message ``number`` of the source's output.
    ``TICK``: of a timer, with the time that it told. ``TEXT``: a line, which follows; with its time.
    ``LOCAL``: value ``number`` from an operator of the same runtime. ``EVENT``: any other event, which
    follows as a msgpack map. ``TIMEOUT``: waiting with a timeout ended without an event. ``NOTHING``:
    looking without waiting found nothing, ``number`` times.
    """

    BEGIN: Final = 0
    MESSAGE: Final = 1
    TICK: Final = 2
    TEXT: Final = 3
    LOCAL: Final = 4
    EVENT: Final = 5
    TIMEOUT: Final = 6
    NOTHING: Final = 7


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


def whole(data: bytes) -> int:
    """Return how many bytes are complete entries."""
    position, end = 0, len(data)
    while position + HEAD_SIZE <= end:
        after = position + HEAD_SIZE + int.from_bytes(data[position + 4 : position + 8], "little")
        if after > end:
            break
        position = after
    return position
