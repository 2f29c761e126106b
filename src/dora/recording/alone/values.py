"""Make the values of a message simpler: zeros, and integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dora.recording.alone.minimize import smallest_part
from dora.wire.decode import decode_numpy
from dora.wire.encode import encode
from dora.wire.message import Encoding, Message, pack_head

_MOST: Final = 1024  # values of an array that are tried one by one; of a larger one, so many blocks


def simpler(message: Message, happens: Callable[[Message], bool]) -> Message:
    """Return a message with simpler values with which it still happens; itself if there is none.

    Only arrays of plain numbers change: values become 0, or else integers, where that is possible. Of large
    arrays, blocks of values become 0 together. Lengths stay: an empty array fails in ways of its own.
    ``happens`` may raise `Enough` of `dora.recording.alone.minimize`.
    """
    if message.encoding != Encoding.PLAIN:
        return message
    values = decode_numpy(message).reshape(-1)
    if values.dtype.kind not in "iuf":
        return message

    def still(candidate: Any) -> bool:
        return happens(with_values(message, candidate))

    best = _with_zeros(values, still)
    if len(best) <= _MOST:
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


def _with_zeros(values: Any, still: Callable[[Any], bool]) -> Any:
    block = -(-len(values) // _MOST) or 1
    blocks = [begin for begin in range(0, len(values), block) if values[begin : begin + block].any()]

    def only(kept: list[int]) -> Any:
        changed = values * 0
        for begin in kept:
            changed[begin : begin + block] = values[begin : begin + block]
        return changed

    kept = smallest_part(blocks, lambda part: still(only(part)))
    return values if len(kept) == len(blocks) else only(kept)


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
