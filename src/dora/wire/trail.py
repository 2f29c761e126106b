"""The trail of a message: the data that it follows from, and the nodes that have passed it on.

A message that follows from no other one is an *origin*. A message that a node sends while it handles an
event follows from that event: it carries the origins of the event. The header of a message
(`dora.wire.message`) has its oldest origin: the output that made it, and when. The trail section has what
does not fit there, as entries of 20 bytes, little-endian::

    offset  size  further origin        hop
    0       4     the output            the output that passed it on
    4       8     oldest message        when its node took the event
    12      8     newest message        when it sent the message

First come the origins, whose number is in the header, then the hops. Only outputs on a path with a budget
write hops. Times are nanoseconds since the Unix epoch, on the clock of the machine that has the message: a
receiver corrects those from another machine. The number of entries is limited; the oldest and the newest
origin are always kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from dora.wire.message import ONE_ORIGIN, ONE_PASS, ONE_TRAIL_BYTE, ORIGIN, ORIGIN_NS, Header

_ENTRY = Struct("<IQQ")
ENTRY_SIZE: Final = _ENTRY.size
pack_entry = _ENTRY.pack
MAX_ORIGINS: Final = 16  # in the trail of a message; of more, the oldest ones and the newest stay
MAX_HOPS: Final = 64  # likewise; the last ones stay
MOST_PASSES: Final = 255  # the field of the header has a byte
_LARGEST: Final = 2**64 - 1

Trailed = tuple[Header, bytes]
"""The header of a message, and its trail section."""


class DataOrigin(NamedTuple):
    """The messages of one output that a message follows from."""

    output: int  # see `origin_id`
    oldest_ns: int
    newest_ns: int


class Hop(NamedTuple):
    """A node that has passed an origin on, by one of its outputs."""

    output: int
    taken_ns: int
    sent_ns: int


def origin_id(output: str) -> int:
    """Return the number of an output "node/output": the CRC-32 of its name, never 0.

    >>> origin_id("camera/image")
    2986340185
    """
    return crc32(output.encode()) or 1


def output_of(header: Header) -> int:
    """Return the number of the output that made the oldest origin."""
    return header[ORIGIN] & 0xFFFF_FFFF


def passes_of(header: Header) -> int:
    """Return how many nodes have passed the origin on."""
    return header[ORIGIN] >> 32 & 0xFF


def count_origins(header: Header) -> int:
    """Return how many entries of the trail section are origins."""
    return header[ORIGIN] >> 40 & 0xFF


def origins_of(header: Header, trail: bytes) -> list[DataOrigin]:
    """Return the origins of a message; the oldest one is first."""
    output, time_ns = output_of(header), header[ORIGIN_NS]
    found = {output: DataOrigin(output, time_ns, time_ns)}
    for entry in _entries(trail[: count_origins(header) * ENTRY_SIZE]):
        _merge(found, DataOrigin(*entry))
    return list(found.values())


def hops_of(header: Header, trail: bytes) -> list[Hop]:
    """Return the hops of a message, in the order in which they were written."""
    return [Hop(*entry) for entry in _entries(trail[count_origins(header) * ENTRY_SIZE :])]


def join(followed: Iterable[Trailed]) -> Trailed:
    """Return header and trail of a message that follows from several messages, at least one.

    Only the fields of the origin are set in the header.
    """
    origins: dict[int, DataOrigin] = {}
    hops: dict[Hop, None] = {}
    passes = 0
    for header, trail in followed:
        for origin in origins_of(header, trail):
            _merge(origins, origin)
        hops.update(dict.fromkeys(hops_of(header, trail)))
        passes = max(passes, passes_of(header))
    ordered = sorted(origins.values(), key=lambda origin: origin.oldest_ns)
    first = ordered[0]
    # The header has no room for a second time of the oldest origin.
    further = ordered[1:] if first.oldest_ns == first.newest_ns else ordered
    if len(further) > MAX_ORIGINS:
        newest = max(further, key=lambda origin: origin.newest_ns)
        kept = [origin for origin in further if origin is not newest][: MAX_ORIGINS - 1]
        further = [*kept, newest]
    entries = [*further, *list(hops)[-MAX_HOPS:]]
    trail = b"".join(_ENTRY.pack(*entry) for entry in entries)
    return synthetic(first.oldest_ns, first.output, passes, len(further), len(trail)), trail


def synthetic(origin_ns: int, output: int, passes: int, origins: int, trail_size: int) -> Header:
    """Return a header that has the fields of the origin alone."""
    origin = output + passes * ONE_PASS + origins * ONE_ORIGIN + trail_size * ONE_TRAIL_BYTE
    return (b"", 0, 0, 0, 0, 0, 0, 0, origin_ns, origin)


def fit(origin: int, trail: bytes, room: int) -> tuple[int, bytes]:
    """Return the field of the origin, and the trail section, as far as it fits into ``room`` bytes."""
    if len(trail) <= room:
        return origin, trail
    size = max(room, 0) // ENTRY_SIZE * ENTRY_SIZE
    origins = min(origin >> 40 & 0xFF, size // ENTRY_SIZE)
    return origin % ONE_ORIGIN + origins * ONE_ORIGIN + size * ONE_TRAIL_BYTE, trail[:size]


def shift(header: Header, trail: bytes, offset_ns: int) -> Trailed:
    """Return header and trail with their times on another clock, which is ``offset_ns`` ahead."""
    shifted = b"".join(
        _ENTRY.pack(output, _moved(first, offset_ns), _moved(second, offset_ns))
        for output, first, second in _entries(trail)
    )
    moved = _moved(header[ORIGIN_NS], offset_ns)
    return (*header[:ORIGIN_NS], moved, header[ORIGIN]), shifted


def _entries(trail: bytes) -> Iterator[tuple[int, int, int]]:
    return _ENTRY.iter_unpack(trail[: len(trail) // ENTRY_SIZE * ENTRY_SIZE])


def _moved(time_ns: int, offset_ns: int) -> int:
    return min(max(time_ns + offset_ns, 0), _LARGEST)


def _merge(origins: dict[int, DataOrigin], origin: DataOrigin) -> None:
    known = origins.get(origin.output)
    if known is not None:
        origin = DataOrigin(
            origin.output,
            min(known.oldest_ns, origin.oldest_ns),
            max(known.newest_ns, origin.newest_ns),
        )
    origins[origin.output] = origin
