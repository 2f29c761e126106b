"""Times of messages from other machines, on the clock of this one: timestamps and origins.

The daemon writes the offset of the other clock to the line of the output on the board.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from dora.node.events import Input
from dora.transport.board import CLOCK_OFFSET, WORDS, Board, signed
from dora.transport.interface import Receiver
from dora.wire.message import METADATA_SIZE, TIME_NS, Message
from dora.wire.metadata import MetadataError, as_nanoseconds
from dora.wire.node_config import InputConfig
from dora.wire.trail import origin_id, output_of, shift

_STAMP: Final = b"timestamp"

Timestamp = Callable[[Input], int]
"""Returns the timestamp of a message in nanoseconds since the Unix epoch."""


class OtherClock:
    """Receives from another machine, and puts the origins of messages on the clock of this one.

    The time of sending stays as the sender wrote it.
    """

    def __init__(self, receiver: Receiver, board: Board, slot: int) -> None:
        """``slot``: the line of the output on the board."""
        self._receiver = receiver
        self._words = board.words
        self._offset_word = slot * WORDS + CLOCK_OFFSET
        self.has_messages = receiver.has_messages
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


def timestamp_ns(event: Input) -> int:
    """Return the timestamp as it was written: from the metadata, else the time of sending."""
    content = event._content
    if isinstance(content, Message) and not (content.header[METADATA_SIZE] and _STAMP in content.metadata):
        return content.header[TIME_NS]
    given = _given(event)
    return content.time_ns if given is None else given


def timestamps(item: InputConfig, other_clocks: Mapping[int, int], words: memoryview) -> Timestamp:
    """Return what gives the timestamps of an input's messages on the clock of this machine.

    ``other_clocks``: as in `NodeConfig`. ``words``: of the board.
    """
    if not (other_clocks or item.machine):
        return timestamp_ns
    return _OtherClocks(item, other_clocks, words).timestamp_ns


class _OtherClocks:
    """Corrects timestamps by the offsets of clocks.

    A time of sending is on the clock of the machine that sent the message. Nodes pass the key ``timestamp``
    on. So it is on the clock of the machine where the data was made: where the message has its origin.
    """

    def __init__(self, item: InputConfig, other_clocks: Mapping[int, int], words: memoryview) -> None:
        self._words = words
        self._offsets = {output: slot * WORDS + CLOCK_OFFSET for output, slot in other_clocks.items()}
        self._sender: int | None = None  # the word with the offset of the machine that sends
        if item.machine:
            self._sender = item.output_slot * WORDS + CLOCK_OFFSET
            self._offsets[origin_id(item.source)] = self._sender

    def timestamp_ns(self, event: Input) -> int:
        content = event._content
        given = _given(event)
        if given is None:
            given, word = content.time_ns, self._sender
        else:
            header = content.header
            word = self._sender if header is None else self._offsets.get(output_of(header))
        return given if word is None else given + signed(self._words[word])


def _given(event: Input) -> int | None:
    """Return the timestamp of the metadata, if it has one."""
    content = event._content
    try:
        if not isinstance(content, Message):
            stamp = content.metadata().get("timestamp")
        elif _STAMP in content.metadata:
            stamp = event["metadata"]["timestamp"]
        else:
            return None
    except MetadataError:  # the program gets the error when it reads the event
        return None
    return as_nanoseconds(stamp) if isinstance(stamp, datetime) else None
