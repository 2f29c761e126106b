"""Messages from another machine: their origins are put on the clock of this one."""

from __future__ import annotations

from dora.transport.board import CLOCK_OFFSET, WORDS, Board, signed
from dora.transport.interface import Receiver
from dora.wire.message import Message
from dora.wire.trail import shift


class OtherClock:
    """A receiver that corrects the origins of its messages by the offset of the clocks.

    The daemon writes the offset to the line of the output on the board. The time of sending stays that of
    the clock of the sender.
    """

    def __init__(self, receiver: Receiver, board: Board, slot: int) -> None:
        self._receiver = receiver
        self._words = board.words
        self._offset_word = slot * WORDS + CLOCK_OFFSET
        self.has_messages = receiver.has_messages
        self.release = receiver.release
        self.close = receiver.close

    def receive(self) -> Message | None:
        message = self._receiver.receive()
        if message is not None and (offset := self._words[self._offset_word]):
            trail = message.trail
            message.header, shifted = shift(message.header, trail, signed(offset))
            if trail:
                end = message.head_size
                message.head = message.head[: end - len(trail)] + shifted + message.head[end:]
        return message
