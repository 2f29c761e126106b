"""The deadline of an input with `input_timeout`, and its word on the board."""

from __future__ import annotations

import time

from dora.transport.board import WORDS, Board
from dora.wire.counters import SILENT
from dora.wire.node_config import InputConfig

_monotonic = time.monotonic_ns


class DeadlineMonitor:
    """Closes an input if no message comes for ``timeout`` seconds after the last one.

    The first message arms it. The port recovers the input before it gives out the next message.
    ``words[word]`` is 1 while the input is closed for this reason.
    """

    __slots__ = ("_timeout_ns", "_word", "_words", "closed", "due_at")

    def __init__(self, timeout: float, words: memoryview, word: int) -> None:
        self._timeout_ns = int(timeout * 1e9)
        self.due_at: int | None = None  # monotonic nanoseconds
        self._words = words
        self._word = word
        self.closed = False

    def rearm(self) -> None:
        """Start the time again: a message has come."""
        self.due_at = _monotonic() + self._timeout_ns

    def is_due(self) -> bool:
        """Return whether `expired` would be true."""
        return self.due_at is not None and _monotonic() >= self.due_at

    def expired(self) -> bool:
        """Return True once for each deadline that has passed."""
        if not self.is_due():
            return False
        self.due_at = None
        self.closed = True
        self.publish()
        return True

    def recovered(self) -> None:
        """Reopen: messages come again."""
        self.closed = False
        self.publish()

    def source_back(self) -> None:
        """Wait for the next message as for a first one: the source had ended, so its silence was known."""
        self.due_at = None
        self.publish()

    def publish(self) -> None:
        """Write to the board whether the input is closed."""
        self._words[self._word] = self.closed

    def withdraw(self) -> None:
        """Clear the word on the board: the input closed for another reason, or has no deadline now."""
        self._words[self._word] = 0


def deadline_monitor(config: InputConfig, board: Board) -> DeadlineMonitor | None:
    """Return the monitor of an input with a timeout, and clear the word of the former process."""
    word = config.slot * WORDS + SILENT.word
    board.words[word] = 0
    if config.input_timeout is None:
        return None
    return DeadlineMonitor(config.input_timeout, board.words, word)
