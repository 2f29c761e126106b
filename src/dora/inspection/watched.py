"""One output under a tap, and how to look at a flood without slowing it down.

Whatever waits in a tap is memory that the sender cannot use again meanwhile. A sender of large messages
lives on using the same few again and again while they are in its cache; one or two more of them cost it
some ten percent, however seldom somebody looks. Of many thousand small ones a second, each costs its
sender another receiver, a third of the rate. So there is a tap on floods for a tenth of the time only. In
that time everything is as always: neighbours are seen as neighbours, and numbers and times of sending tell
how often messages come.
"""

from __future__ import annotations

import time
from typing import Final

from dora.dataflow.links import TAP_QUEUE
from dora.errors import TransportError
from dora.inspection.topics import Topic
from dora.transport.board import BYTES, SENT, TAPPED, WORDS
from dora.transport.taps import Tap, TapEngine
from dora.wire.message import Message

# What may wait in a tap: with 16 messages of 1 MiB, the sender would be a quarter slower.
_WAITING_BYTES: Final = 2 << 20
_FLOOD_OF_BYTES: Final = (200, 500_000_000)  # messages and bytes a second, both
_FLOOD_OF_MESSAGES: Final = 5_000  # a second
_NEAR_NS: Final = 30_000_000  # how long a flood is looked at
_AWAY_NS: Final = 270_000_000  # and how long it is left alone then
_JUDGE_NS: Final = 500_000_000  # how long others are looked at until it is judged whether they are a flood


class AdaptiveTap:
    """One topic under a tap. ``received`` counts messages, ``missed`` those that were not looked at, which
    says nothing about the dataflow's own links."""

    def __init__(self, topic: Topic, engine: TapEngine, words: memoryview) -> None:
        """Attach; raises `TransportError`."""
        self.topic = topic
        self.received = 0
        self.missed = 0
        self._engine = engine
        self._words = words
        self._sent_word = topic.output.slot * WORDS + SENT
        self._bytes_word = topic.output.slot * WORDS + BYTES
        self._tapped_word = topic.output.slot * WORDS + TAPPED
        self._seen = 0  # sequence number of the last message
        self._tap: Tap | None = engine.tap(topic.output, self._queue_size())
        self._judged = self._reading()
        self._judge_at = self._judged[0] + _NEAR_NS

    def _queue_size(self) -> int:
        sent, size = self._words[self._sent_word], self._words[self._bytes_word]
        mean_size = max(size // sent, 1) if sent else 1
        return max(2, min(TAP_QUEUE, _WAITING_BYTES // mean_size))

    def renew(self, until_ns: int) -> None:
        """Let the output be sent even if it has no links, until then."""
        self._words[self._tapped_word] = until_ns

    @property
    def tapped(self) -> bool:
        """Whether there may be something to take."""
        return self._tap is not None

    @property
    def due_s(self) -> float:
        """In how many seconds `thin` has something to do."""
        return max(0.0, (self._judge_at - time.monotonic_ns()) / 1e9)

    def take(self) -> Message | None:
        """Take a message if there is one."""
        if self._tap is None or self._words[self._sent_word] == self._seen:
            return None
        message = self._tap.receive()
        if message is None:
            return None
        if self._seen and message.sequence > self._seen:
            self.missed += message.sequence - self._seen - 1
        self._seen = message.sequence
        self.received += 1
        return message

    def thin(self) -> None:
        """Take the tap away from a flood, or put it there again, when it is time."""
        now = time.monotonic_ns()
        if now < self._judge_at:
            return
        if self._tap is None:
            try:
                self._tap = self._engine.tap(self.topic.output, self._queue_size())
            except TransportError:
                pass  # the dataflow is ending
            self._judge_at = now + _NEAR_NS
            return
        before, self._judged = self._judged, self._reading()
        seconds = (self._judged[0] - before[0]) / 1e9
        messages, size = (self._judged[1] - before[1]) / seconds, (self._judged[2] - before[2]) / seconds
        large = messages > _FLOOD_OF_BYTES[0] and size > _FLOOD_OF_BYTES[1]
        if large or messages > _FLOOD_OF_MESSAGES:
            tap, self._tap = self._tap, None
            self._engine.end(tap)
            self._judge_at = now + _AWAY_NS
        else:
            self._judge_at = now + _JUDGE_NS

    def _reading(self) -> tuple[int, int, int]:
        return time.monotonic_ns(), self._words[self._sent_word], self._words[self._bytes_word]
