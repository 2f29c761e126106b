"""The quick way of a link: a second connection, for messages of moderate size that go alone.

Zenoh's usual transport hands what is sent to a thread that has to be woken. The one for low latency writes
in the thread that sends, but takes nothing above 64 KiB (`dora.transport.parts`), and lets the sender wait
when the network does. So it gets what fits into the buffers of the system in any case. And none
while something that went the usual way is under way: it would only wait for that at the receiver.

The way is open once the receiver has told that a question came through on it. After a loss, it is asked
anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dora.transport.remote_link import QUESTION, nonce

SMALL: Final = 200_000  # bytes of a message; of a larger one, more goes into copies than into waking
FAST_PATH_BYTES: Final = (
    320_000  # bytes that may fly: they fit into `mailbox.QUICK_BUFFER` with what the system adds
)
ASK_FROM: Final = FAST_PATH_BYTES // 2  # bytes that fly when the receiver is asked how far they have come
MOST: Final = 32  # messages that may fly


class FastPath:
    """What the sender of a link knows of it; ``ask`` sends a question. Not safe for several threads."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._question = nonce()
        self._open = False
        self._usual = 0  # the number of the last message that went the usual way
        self._arrived = 0

    def takes(self, number: int, size: int, flying: int, *, alone: bool) -> bool:
        """Tell whether a message goes the quick way; if not, note that it goes the usual one.

        ``flying`` are the bytes that have not been acknowledged, its own included.
        """
        arrived = self._arrived
        fits = alone and size <= SMALL and flying <= FAST_PATH_BYTES and number - arrived <= MOST
        if self._open and fits and self._usual <= arrived:
            return True
        self._usual = number
        return False

    def on_progress(self, arrived: int, answered: int) -> None:
        """Note how far messages have come, and which question the receiver heard last."""
        self.on_report(arrived)
        if not self._open:
            self._open = answered == self._question
            if not self._open:
                self._ask(QUESTION.pack(self._question))

    def on_report(self, arrived: int) -> None:
        """Note how far messages have come, at least."""
        self._arrived = max(self._arrived, arrived)

    def close(self) -> None:
        """Let messages go the usual way until a new question is answered."""
        self._question = nonce()
        self._open = False
