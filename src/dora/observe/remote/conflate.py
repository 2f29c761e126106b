"""A queue for a client that is slower than the data it observes: newer items replace older ones. Pure."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Final

import msgspec

from dora.observe.remote.protocol import encode

MOST_BYTES: Final = 256 << 10  # that wait, beside one item of each key
REST: Final = 1.0  # a delivery is followed by a pause that many times as long as it took
LONGEST_REST: Final = 2.0  # seconds


class ConflatedQueue:
    """Items by key, in the order in which they came; new ones replace the oldest of their key.

    >>> waiting = ConflatedQueue()
    >>> for number in range(5):
    ...     waiting.put("a", number, keep=2)
    >>> waiting.lost["a"], msgspec.msgpack.decode(waiting.take()), waiting.is_empty
    (3, [3, 4], True)
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[int, bytes]]] = {}
        self._bytes = 0
        self._number = 0
        self.lost: Counter[str] = Counter()  # key → items that were replaced

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def put(self, key: str, item: Any, keep: int = 1) -> None:
        """Add an item, of which at most ``keep`` wait under this key."""
        data = encode(item)
        waiting = self._waiting.setdefault(key, deque())
        self._number += 1
        waiting.append((self._number, data))
        self._bytes += len(data)
        while len(waiting) > keep or (self._bytes > MOST_BYTES and len(waiting) > 1):
            self._bytes -= len(waiting.popleft()[1])
            self.lost[key] += 1

    def take(self) -> bytes:
        """Return all waiting items as one delivery, or as many as fit into one."""
        first = sorted((number, key) for key, some in self._waiting.items() for number, _ in some)
        items: list[bytes] = []
        size = 0
        for _, key in first:
            waiting = self._waiting[key]
            data = waiting[0][1]
            if items and size + len(data) > MOST_BYTES:
                break
            size += len(data)
            items.append(data)
            waiting.popleft()
            if not waiting:
                del self._waiting[key]
        self._bytes -= size
        return encode([msgspec.Raw(data) for data in items])


def rest_after(seconds: float) -> float:
    """Return how long to pause after a delivery: half of a slow network is left to others.

    >>> rest_after(0.02), rest_after(30.0)
    (0.02, 2.0)
    """
    return min(seconds * REST, LONGEST_REST)
