"""Make the values of a message simpler: shorter arrays, zeros, integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from dora.recording.alone.minimize import smallest_part
from dora.wire.decode import decode_numpy
from dora.wire.encode import encode
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.metadata import decode_metadata

_MOST: Final = 4096  # values of an array that are tried one by one
_SIZES: Final = ("shape", "width", "height", "bbox")  # metadata that tells how long an array is


def simpler(message: Message, happens: Callable[[Message], bool]) -> Message:
    """Return a message with simpler values with which it still happens; itself if there is none.

    Only arrays of plain numbers change, in order: their length, values that can be 0, values that can be
    integers. ``happens`` may raise `Enough` of `dora.recording.alone.minimize`.
    """
    if message.encoding != Encoding.PLAIN:
        return message
    values = decode_numpy(message).reshape(-1)
    if values.dtype.kind not in "iuf":
        return message
    best = values

    def still(candidate: Any) -> bool:
        return happens(with_values(message, candidate))

    if not any(name in decode_metadata(message.metadata) for name in _SIZES):
        best = next((best[:size] for size in _lengths(len(best)) if still(best[:size])), best)
    if len(best) <= _MOST:
        best = _with_zeros(best, still)
        best = _with_integers(best, still)
    return message if best is values else with_values(message, best)


def with_values(message: Message, values: Any) -> Message:
    """Return a message with other values of the same type, and all else as it is."""
    payload = encode(values)
    head = pack_head(
        payload.encoding,
        payload.schema,
        message.metadata,
        payload.size,
        message.sequence,
        message.time_ns,
        trail=message.trail,
    )
    return Message(head + payload.to_bytes())


def _lengths(length: int) -> Iterator[int]:
    size = 0
    while size < length:
        yield size
        size = size * 2 or 1


def _with_zeros(values: Any, still: Callable[[Any], bool]) -> Any:
    places = [place for place, value in enumerate(values.tolist()) if value]

    def only(kept: list[int]) -> Any:
        changed = values * 0
        changed[kept] = values[kept]
        return changed

    kept = smallest_part(places, lambda part: still(only(part)))
    return values if len(kept) == len(places) else only(kept)


def _with_integers(values: Any, still: Callable[[Any], bool]) -> Any:
    if values.dtype.kind != "f":
        return values
    for place, value in enumerate(values.tolist()):
        if value != value or value in (float("inf"), float("-inf")) or value == round(value):
            continue
        changed = values.copy()
        changed[place] = round(value)
        if still(changed):
            values = changed
    return values
