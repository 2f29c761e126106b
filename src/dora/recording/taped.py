"""A tap whose sender leaves its small messages on a tape as well, so that none is lost in a burst."""

from __future__ import annotations

import os
from typing import Final

from dora.recording.folders import make_folder, remove_folder
from dora.transport.tape import AVAILABLE, RingBuffer
from dora.transport.taps import Tap
from dora.wire.message import Message, MessageError

_PLACE: Final = "/dev/shm"
_ALL: Final = 64 << 20  # bytes of all tapes of a recording
_LONGEST: Final = 4 << 20  # bytes of one
_SHORTEST: Final = 64 << 10  # less is not worth it
_SHARE: Final = 4  # tapes take at most this part of the free shared memory
_IN_VAIN: Final = 3  # looks after which a message that was counted is searched in the queue


class RingTap:
    """Takes from a tape and from the queue of a tap, in the order of the sequence numbers."""

    def __init__(self, tap: Tap, tape: RingBuffer) -> None:
        self._tap = tap
        self._tape: RingBuffer | None = tape
        self._last = 0  # sequence number of the message that was taken last
        self._others = -1  # how many messages beside the tape were known when the queue was empty
        self._vain = 0
        self._on_tape: Message | None = None  # what was seen there, and is not its turn yet
        self._in_queue: Message | None = None  # likewise

    def receive(self) -> Message | None:
        """Take the next message, or return None.

        To be called while the sender has counted more messages than were taken: one that is nowhere to
        be found in a few calls is looked for in the queue, whatever the tape says.
        """
        tape = self._tape
        if tape is None:
            return self._tap.receive()
        message = self._next_on(tape)
        if message is not None and message.sequence == self._last + 1:
            self._last += 1
            self._vain = 0
            return message
        others = tape.others
        self._vain += 1
        nothing = message is None and self._in_queue is None
        if nothing and others == self._others and self._vain < _IN_VAIN and tape.is_written:
            return None
        message = self._first(tape, message, others)
        if message is not None:
            self._last = message.sequence
            self._vain = 0
        return message

    def _first(self, tape: RingBuffer, message: Message | None, others: int) -> Message | None:
        """Return what comes first: ``message``, which is on the tape, or what is in the queue."""
        other, self._in_queue = self._in_queue, None
        while other is None or other.sequence <= self._last:
            other = self._tap.receive()
            if other is None:
                self._others = others
                return message
        if message is None:
            message = self._next_on(tape)  # what was sent before the other one is there by now
        if message is None or message.sequence > other.sequence:
            self._on_tape = message
            return other
        if message.sequence < other.sequence:
            self._in_queue = other
        return message

    def _next_on(self, tape: RingBuffer) -> Message | None:
        message, self._on_tape = self._on_tape, None
        try:
            while message is None or message.sequence <= self._last:
                message = tape.take()
                if message is None:
                    return None
        except MessageError:
            self._tape = None  # the queue has to do
            tape.close()
            return None
        return message


class RingTaps:
    """The tapes of one recording, in a folder of their own; ``close`` removes it."""

    def __init__(self, count: int) -> None:
        """For so many outputs. Without shared memory for them there are none."""
        self.directory = ""  # of the tapes, each named by the slot of its output; "" if there are none
        self._size = 0
        if not AVAILABLE or not count:
            return
        try:
            status = os.statvfs(_PLACE)
            free = status.f_bavail * status.f_frsize
            self._size = min(_LONGEST, min(_ALL, free // _SHARE) // count)
            if self._size >= _SHORTEST:
                self.directory = make_folder("tapes", _PLACE)
        except OSError:
            pass

    def beside(self, tap: Tap, slot: int) -> Tap | RingTap:
        """Return a tap with a tape for the output; the tap alone if there is no room for one."""
        if not self.directory:
            return tap
        try:
            return RingTap(tap, RingBuffer(f"{self.directory}/{slot}", self._size))
        except OSError:
            return tap

    def close(self) -> None:
        if self.directory:
            remove_folder(self.directory)
