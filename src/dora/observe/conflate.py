"""A queue for a client that is slower than the data it observes: newer items replace older ones. Pure."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Final, Generic, TypeVar

MOST_BYTES: Final = 256 << 10  # that wait for another machine, beside one item of each key
REST: Final = 1.0  # a delivery is followed by a pause that many times as long as it took
LONGEST_REST: Final = 2.0  # seconds: after a very slow delivery the client still gets something soon

_Item = TypeVar("_Item")


class ConflatedQueue(Generic[_Item]):
    """Items by key, in the order in which they came; new ones replace the oldest of their key.

    >>> waiting = ConflatedQueue()
    >>> for number in range(5):
    ...     waiting.put("a", number, keep=2)
    >>> waiting.lost["a"], waiting.take(), waiting.is_empty
    (3, [('a', 3), ('a', 4)], True)
    """

    def __init__(self, most_bytes: float = math.inf) -> None:
        """``most_bytes`` may wait, beside one item of each key."""
        self._most_bytes = most_bytes
        self._waiting: dict[str, deque[tuple[int, int, _Item]]] = {}  # number, size, item
        self._bytes = 0  # of all but the newest item of each key: a large one displaces none of the others
        self._number = 0
        self.lost: Counter[str] = Counter()  # key → items that were replaced

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def __contains__(self, key: str) -> bool:
        return key in self._waiting

    def put(self, key: str, item: _Item, *, keep: int = 1, size: int = 0) -> None:
        """Add an item of ``size`` bytes; at most ``keep`` wait under this key."""
        waiting = self._waiting.setdefault(key, deque())
        self._number += 1
        if waiting:
            self._bytes += waiting[-1][1]
        waiting.append((self._number, size, item))
        # Room is short only with an older one of this key: before it counted, there was enough.
        while len(waiting) > keep or self._bytes > self._most_bytes:
            self._bytes -= waiting.popleft()[1]
            self.lost[key] += 1

    def take(self) -> list[tuple[str, _Item]]:
        """Return all waiting items with their keys, or so many that the last one exceeds ``most_bytes``."""
        first = sorted((number, key) for key, some in self._waiting.items() for number, _, _ in some)
        taken: list[tuple[str, _Item]] = []
        total = 0
        for _, key in first:
            waiting = self._waiting[key]
            _, size, item = waiting[0]
            if total > self._most_bytes:
                break
            total += size
            taken.append((key, item))
            waiting.popleft()
            if waiting:
                self._bytes -= size
            else:
                del self._waiting[key]
        return taken


def rest_after(seconds: float) -> float:
    """Return how long to pause after a delivery: half of a slow network is left to others.

    >>> rest_after(0.02), rest_after(30.0)
    (0.02, 2.0)
    """
    return min(seconds * REST, LONGEST_REST)
