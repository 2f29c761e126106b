"""The silence that `input_timeout` watches, and what the board tells of it."""

from __future__ import annotations

import time

from dora.transport.board import TIMED_OUT, WORDS, Board
from dora.wire.node_config import InputConfig

_monotonic = time.monotonic_ns


class DeadlineMonitor:
    """Watches an input with `input_timeout`: armed by the first message, it closes the input after
    that much silence; the port recovers it before it gives out the next message.

    ``words[word]`` tells everybody whether the input is closed for that.
    """

    __slots__ = ("_deadline", "_timeout_ns", "_word", "_words", "closed")

    def __init__(self, timeout: float, words: memoryview, word: int) -> None:
        self._timeout_ns = int(timeout * 1e9)
        self._deadline: int | None = None
        self._words = words
        self._word = word
        self.closed = False

    def heard(self) -> None:
        """Note a message."""
        self._deadline = _monotonic() + self._timeout_ns

    def is_due(self) -> bool:
        """Tell whether `expired` would be true."""
        return self._deadline is not None and _monotonic() >= self._deadline

    def expired(self) -> bool:
        """True once per silence that lasted too long."""
        if not self.is_due():
            return False
        self._deadline = None
        self.closed = True
        self.show()
        return True

    def recovered(self) -> None:
        """Note that messages come again."""
        self.closed = False
        self.show()

    def show(self) -> None:
        """Tell on the board how it is."""
        self._words[self._word] = self.closed

    def hide(self) -> None:
        """Tell of no silence on the board: the input is closed for another reason, or no longer watched."""
        self._words[self._word] = 0

    def wake_at(self) -> int | None:
        return self._deadline


def watch(config: InputConfig, board: Board) -> DeadlineMonitor | None:
    """Return what watches an input, if it has a timeout. What an earlier process told of it is over."""
    word = config.slot * WORDS + TIMED_OUT
    board.words[word] = 0
    if config.input_timeout is None:
        return None
    return DeadlineMonitor(config.input_timeout, board.words, word)
