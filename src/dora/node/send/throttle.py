"""Lets another machine catch up with a sender that is megabytes ahead of it.

A link without back-pressure takes whatever a node sends, and its queue may hold thousands of messages. But
memory that nobody has used before costs more than the network: the system clears each page, and a gateway
copies what is too much for shared memory. So a sender of large messages that runs ahead gives the network a
moment, as the system does with a program that writes faster than its disk (``balance_dirty_pages``).

Rejected: to wait until there is room. That is back-pressure, and an arm would stand still behind a network
that is cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from dora.transport.board import FORWARDED, WORDS
from dora.wire.node_config import LinkConfig

# Bytes that may wait for the network. More would not stay in the caches of a processor. Fewer would leave
# the network idle now and then, and so would 4 MiB of large messages, which are a few.
_AHEAD: Final = 4 << 20  # of messages up to `_LARGE`
_AHEAD_OF_LARGE: Final = 16 << 20  # for these, 4 MiB are too few messages
_LARGE: Final = 256 << 10  # bytes of a message
_LONGEST: Final = 900_000  # nanoseconds of a wait; with the rest of a send, it stays below 1 ms
_NAP: Final = 0.0002  # seconds; a message of 1 MiB needs longer on any network
# Nanoseconds in which nothing arrives, after which the network counts as cut. Several messages are
# acknowledged together, so a few milliseconds without any say nothing.
_CUT_AFTER: Final = 20_000_000


class Throttle:
    """Of one output. Used by one thread at a time. No message waits behind a network that is cut."""

    def __init__(
        self,
        depth: int,
        slot: int,
        words: memoryview,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """``depth``: the length of the longest queue. ``slot``: line of the output on the board."""
        self._depth = depth
        self._words = words
        self._word = slot * WORDS + FORWARDED
        self._sleep = sleep
        self._clock = clock
        self._arrived = -1  # the last message that had arrived when a message waited
        self._since = 0  # when that was first seen

    def wait(self, sequence: int, size: int) -> None:
        """Wait before the message with this number, of ``size`` bytes, while too much is ahead of it."""
        words, word = self._words, self._word
        arrived = words[word]
        ahead = _AHEAD if size <= _LARGE else _AHEAD_OF_LARGE
        # Messages that a queue has dropped are not ahead.
        if min(sequence - arrived, self._depth) * size <= ahead:
            return
        begin = self._clock()
        if arrived != self._arrived:
            self._arrived, self._since = arrived, begin
        elif begin - self._since > _CUT_AFTER:
            return
        while self._clock() < begin + _LONGEST:
            self._sleep(_NAP)
            if min(sequence - words[word], self._depth) * size <= ahead:
                return


def throttle_for(links: Iterable[LinkConfig], slot: int, words: memoryview) -> Throttle | None:
    """Return the throttle of an output; None if no message to another machine may run ahead."""
    lengths = [each.queue_size for each in links if each.machine and each.queue_policy != "backpressure"]
    return Throttle(max(lengths), slot, words) if lengths else None
