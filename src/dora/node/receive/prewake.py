"""Prewake: a node is woken before its message comes, by the node before its sender.

In a chain of nodes that each pass on what they get, a message reaches a node some 50 µs after it reached
the node before. To wake a sleeping process takes as long. So a sender rings, besides its receivers, the
receivers of its receivers, if these ask for it. They are awake when the message arrives. The sender is idle
at that time, and the message does not wait for it.

A node in the middle that takes longer, or passes on only a few messages, makes prewakes worthless. A node
asks for no more after a few without a message, and tries again much later.
"""

from __future__ import annotations

from typing import Final

_MAX_FAILURES: Final = 4  # prewakes without a message until the node asks for no more
_FIRST_RETRY: Final = 256  # messages until one more is tried
_LAST_RETRY: Final = 16_384  # messages; each failed trial doubles them, up to this
_MAX_WITHOUT: Final = 64  # messages without a prewake until prewakes count as over


class Prewake:
    """A node's experience with prewakes. They are wanted until a few in a row have failed.

    >>> prewake = Prewake()
    >>> for _ in range(4):
    ...     prewake.observe(False)
    >>> prewake.wanted
    False
    """

    __slots__ = ("_failures_left", "_retry", "_retry_in", "_without", "useful", "wanted")

    def __init__(self) -> None:
        self.wanted = True
        self.useful = False  # messages do come after prewakes
        self._failures_left = _MAX_FAILURES
        self._retry = _FIRST_RETRY
        self._retry_in = 0  # messages until the next trial
        self._without = 0  # messages since the last one after a prewake

    def observe(self, message_followed: bool) -> None:
        """Learn whether a message came soon after a prewake."""
        if message_followed:
            self.useful = True
            self._failures_left = _MAX_FAILURES
            self._retry = _FIRST_RETRY
            self._without = 0
            return
        self._failures_left -= 1
        if self._failures_left <= 0:
            self.wanted = self.useful = False
            self._retry_in = self._retry
            self._retry = min(2 * self._retry, _LAST_RETRY)

    def message_arrived(self) -> None:
        """Count a message, after a prewake or not."""
        if not self.wanted:
            self._retry_in -= 1
            if self._retry_in <= 0:
                self.wanted = True
                self._failures_left = 1
        elif self.useful:
            self._without += 1
            if self._without > _MAX_WITHOUT:
                self.useful = False
