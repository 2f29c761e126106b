"""Delta debugging: find a small part of a list with which something still happens. Pure.

The algorithm is *ddmin* of Andreas Zeller and Ralf Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", IEEE Transactions on Software Engineering 28 (2002), https://doi.org/10.1109/32.988498. In front of
it, ends of the list are tried: what leads to a failure is most often among the last events.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

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
