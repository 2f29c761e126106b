"""Back-pressure by credit: a sender waits until every receiver that must lose nothing has room.

A receiver publishes on the board how far it has read. So room needs no message back, and a sender that
waits is woken by the doorbell of its output only, and only while it says there that it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from dora.transport.board import (
    CONNECTED,
    CREDIT_WAITING,
    DROPPED,
    FIRST,
    RECEIVED,
    STATE,
    STOPPED,
    WORDS,
)
from dora.transport.doorbell import Doorbell
from dora.transport.fence import fence
from dora.transport.interface import MAX_QUEUE
from dora.wire.node_config import LinkConfig

_CHECK: Final = 0.2  # seconds between two looks at the board: a receiver that was killed rings no more


class Credit:
    """The room of the back-pressured links of one output."""

    def __init__(
        self, slot: int, node_slot: int | None, words: memoryview, make_doorbell: Callable[[str], Doorbell]
    ) -> None:
        """``slot``, ``node_slot``: lines of the output and of its node on the board."""
        self.links: list[tuple[int, int]] = []  # first word and queue size of each; empty: no send waits
        self._words = words
        self._waiting_word = slot * WORDS + CREDIT_WAITING
        self._stopped_word = None if node_slot is None else node_slot * WORDS + STOPPED
        self._make_doorbell = make_doorbell
        self._bell: Doorbell | None = None
        self._is_closed = False

    def apply_links(self, links: Iterable[LinkConfig], bell: str) -> None:
        """Take over the links of the output; ``bell``: the path of its doorbell."""
        self.links = [
            (link.slot * WORDS, min(link.queue_size, MAX_QUEUE))
            for link in links
            if link.queue_policy == "backpressure"
        ]
        if self.links and self._bell is None:
            self._bell = self._make_doorbell(bell)

    def has_room(self, sequence: int) -> bool:
        """Return whether each link has room for the message after this number."""
        words = self._words
        for base, queue_size in self.links:
            if (
                words[base + STATE] == CONNECTED
                and sequence - words[base + FIRST] - words[base + RECEIVED] - words[base + DROPPED]
                >= queue_size
            ):
                return False
        return True

    def wait(self, sequence: int) -> bool:
        """Wait for room for the message after this number, or until the output is closed.

        Returns False if the node was asked to stop meanwhile. The daemon writes that to the board, since
        the thread that waits here may be the one that receives.
        """
        bell, words = self._bell, self._words
        if bell is None:
            return True
        words[self._waiting_word] = 1  # before the look, with a fence: credit given after the look rings
        try:
            fence()
            while not self.has_room(sequence) and not self._is_closed:
                seconds = self._seconds_to_wait()
                if seconds <= 0:
                    return False
                bell.wait(seconds)
                bell.rearm()
        finally:
            words[self._waiting_word] = 0
        return True

    def _seconds_to_wait(self) -> float:
        stopped = 0 if self._stopped_word is None else self._words[self._stopped_word]
        return min((stopped - time.monotonic_ns()) * 1e-9, _CHECK) if stopped else _CHECK

    def close(self) -> None:
        """End the wait of another thread."""
        self._is_closed = True  # without a ring: the other thread looks within `_CHECK`
