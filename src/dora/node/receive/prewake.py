"""Heads-ups: to be woken before the message comes, by the node before the last.

In a row of nodes that each pass on what they get, a message reaches a node some 50 µs after it reached the
node before. Waking takes as long; so whoever sends rings, besides its receivers, those that get what its
receivers send, if they wish so. They are awake then when the message arrives. The sender has nothing else
to do at that time, and the message does not wait for it.

A node in the middle that takes longer, or passes on only a few messages, makes heads-ups worthless: who
stays awake in vain a few times wishes no more of them, and tries again much later.
"""

from __future__ import annotations

from typing import Final

_TRUST: Final = 4  # heads-ups in vain until there is no wish for more
_RETRY: Final = 256  # messages until one more is tried
_LAST_RETRY: Final = 16_384  # messages; each trial in vain doubles them, up to this
_PATIENCE: Final = 64  # messages without one until they count as over


class Prewake:
    """What a node has learned of heads-ups. They work until a few in a row were in vain.

    >>> heads_ups = Prewake()
    >>> for _ in range(4):
    ...     heads_ups.came(False)
    >>> heads_ups.wanted
    False
    """

    __slots__ = ("_left", "_retry", "_trust", "_without", "useful", "wanted")

    def __init__(self) -> None:
        self.wanted = True
        self.useful = False  # messages do come after heads-ups
        self._trust = _TRUST
        self._retry = _RETRY
        self._left = 0  # messages until the next trial
        self._without = 0  # messages since the last one that was announced

    def came(self, message: bool) -> None:
        """Note whether a message came soon after a heads-up."""
        if message:
            self.useful = True
            self._trust = _TRUST
            self._retry = _RETRY
            self._without = 0
            return
        self._trust -= 1
        if self._trust <= 0:
            self.wanted = self.useful = False
            self._left = self._retry
            self._retry = min(2 * self._retry, _LAST_RETRY)

    def arrived(self) -> None:
        """Note that a message came, announced or not."""
        if not self.wanted:
            self._left -= 1
            if self._left <= 0:
                self.wanted = True
                self._trust = 1
        elif self.useful:
            self._without += 1
            if self._without > _PATIENCE:
                self.useful = False
