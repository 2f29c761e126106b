"""Delta debugging: find a small part of a list, or simple values, with which a thing still happens. Pure.

The algorithm is *ddmin* of Andreas Zeller and Ralf Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", IEEE Transactions on Software Engineering 28 (2002), https://doi.org/10.1109/32.988498. In front of
it, ends of the list are tried: what leads to a failure is most often among the last events.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from dora.recording.alone.recorded_node import altered
from dora.wire.decode import decode_numpy
from dora.wire.message import Encoding, Message

T = TypeVar("T")


class Enough(Exception):
    """Raised by a test that has no time left: the smallest part so far is the result."""


def smallest_part(items: Sequence[T], happens: Callable[[list[T]], bool]) -> list[T]:
    """Return a part of ``items``, in order, from which no single item can be removed.

    ``happens`` tells whether it happens with a part, and always says the same of the same part; with all
    of ``items`` it does. It may raise `Enough`.

    >>> smallest_part(range(1000), lambda part: {3, 700} <= set(part))
    [3, 700]
    """
    best = list(items)
    try:
        if not best or happens([]):
            return []
        size = 1
        while size < len(best):
            if happens(best[-size:]):
                best = best[-size:]
                break
            size *= 2
        pieces = 2
        while len(best) >= 2:
            shorter = _without_a_piece(best, pieces, happens)
            if shorter is not None:
                best = shorter
                pieces = max(pieces - 1, 2)
            elif pieces >= len(best):
                break
            else:
                pieces = min(pieces * 2, len(best))
    except Enough:
        pass
    return best


def _without_a_piece(items: list[T], pieces: int, happens: Callable[[list[T]], bool]) -> list[T] | None:
    """Return the list without one of its pieces, the first that is not needed; None: all are."""
    edges = [len(items) * place // pieces for place in range(pieces + 1)]
    for begin, end in itertools.pairwise(edges):
        rest = items[:begin] + items[end:]
        if begin < end and happens(rest):
            return rest
    return None


# ------------------------------------------------------------------------------ simple values

_MOST: Final = 1024  # values of an array that are tried one by one; of a larger one, so many blocks


def simpler(message: Message, happens: Callable[[Message], bool]) -> Message:
    """Return a message with simpler values with which it still happens; itself if there is none.

    Only arrays of plain numbers change: values become 0, or else integers, where that is possible. Of large
    arrays, blocks of values become 0 together. Lengths stay: an empty array fails in ways of its own.
    ``happens`` may raise `Enough`.
    """
    if message.encoding != Encoding.PLAIN:
        return message
    values = decode_numpy(message).reshape(-1)
    if values.dtype.kind not in "iuf":
        return message

    def still(candidate: Any) -> bool:
        return happens(altered(message, candidate.tobytes(), message.metadata))

    best = _with_zeros(values, still)
    if len(best) <= _MOST:
        best = _with_integers(best, still)
    return message if best is values else altered(message, best.tobytes(), message.metadata)


def _with_zeros(values: Any, still: Callable[[Any], bool]) -> Any:
    block = -(-len(values) // _MOST) or 1
    blocks = [begin for begin in range(0, len(values), block) if values[begin : begin + block].any()]

    def only(kept: list[int]) -> Any:
        changed = values.copy()
        changed[:] = 0  # not `values * 0`: it leaves NaN, and makes it of infinity
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
