"""The port of an input whose source is latched: the messages of the latch come first.

Three kinds of messages come in this order:

* *repeated* ones, which a former process of this node has received. They are counted as such on the board
  (``REPEATED``), not among ``RECEIVED``, because ``FIRST + RECEIVED + DROPPED`` is a sequence number.
* others of the latch. For a receiver that is new, they move ``FIRST`` back, and so are sent and received.
* messages of the queue, except what came from the latch already.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from dora.node.receive.link_input import LinkInput
from dora.transport.board import FIRST, REPEATED, STATE, UNCONNECTED, Board
from dora.transport.interface import Receiver
from dora.transport.latch import ReadLatch
from dora.transport.spill import ResumingReceiver
from dora.wire.message import Message
from dora.wire.node_config import InputConfig


class LatchedReceiver(ResumingReceiver):
    """A receiver that gives out the messages of a latch first, then another receiver's."""

    def __init__(self, receiver: Receiver, read: ReadLatch, after: int) -> None:
        """``after``: messages of the queue up to this number are skipped; a former process has them."""
        super().__init__(deque(), receiver)
        self._after = after
        self._latched = read()  # all later messages are in the queue
        self._begun = False
        self._joined = False  # a message of the queue has come that was not in the latch

    @property
    def oldest(self) -> int:
        """The number of the first message in the latch; 0 if it is empty."""
        return self._latched[0].sequence if self._latched else 0

    @property
    def over(self) -> bool:  # type: ignore[override]  # here it changes
        return self._joined and not self.first

    def receive(self) -> Message | None:
        if not self._begun:
            self._begin()
        if self.first:
            return self._take_first()
        if self._joined:
            return self.receiver.receive()
        message = self._take_new()
        self._joined = message is not None
        return message

    def _take_first(self) -> Message:
        message = self.first.popleft()
        self._after = max(self._after, message.sequence)
        return message

    def has_messages(self) -> bool:
        if not self._begun:
            self._begin()
        return bool(self.first) or self.receiver.has_messages()

    def _begin(self) -> None:
        """Put together the messages of the latch that are not in the queue."""
        self._begun = True
        queued = self._take_new()
        latched, self._latched = self._latched, []
        if queued is None:
            self.first.extend(latched)
        else:
            self.first.extend(message for message in latched if message.sequence < queued.sequence)
            self.first.append(queued)

    def _take_new(self) -> Message | None:
        """Take a message from the queue that did not come before."""
        while (message := self.receiver.receive()) is not None:
            if message.sequence > self._after:
                return message
        return None


class LatchedInput(LinkInput):
    """An input whose source is latched."""

    def __init__(
        self,
        config: InputConfig,
        receiver: Receiver,
        board: Board,
        *,
        read_latch: ReadLatch,
        joins_late: bool,
        **options: Any,
    ) -> None:
        """As for `LinkInput`."""
        first_time = board.get(config.slot, STATE) == UNCONNECTED
        super().__init__(config, receiver, board, joins_late=joins_late, **options)
        words, base = self._words, self._base
        # Messages up to here come again, to a new process of the node.
        self._repeats_to = 0 if first_time else self._last
        self._repeated_word = base + REPEATED
        after = self._repeats_to
        if options.get("crosses") and not (options.get("takes_over") or read_latch()):
            # The machine was started again, and its gateway has not got the sender's latch yet. So all that
            # comes is for this process, also what a process before the start has received.
            after = 0
        self._latched = latched = LatchedReceiver(self._receiver, read_latch, after)
        if first_time and joins_late and latched.oldest:
            words[base + FIRST] = self._last = min(self._last, latched.oldest - 1)
        self._receiver = latched
        self._receive = latched.receive
        self._taken = 0  # it skips what is not for this process itself

    def _count_gap(self, sequence: int) -> None:
        if 0 < sequence <= self._last == self._repeats_to:
            self._words[self._repeated_word] += 1
            self._received -= 1  # `poll` counts it as received
            return
        super()._count_gap(sequence)
