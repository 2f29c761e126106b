"""The two ends of a link between machines, without the network: send window and receive window.

A network can be slow, or cut for a minute. A sender therefore has only a bounded number of messages in
flight, that is, transmitted or about to be and not acknowledged: one message, or as many as the network
carries in a short time (`dora.transport.network.in_flight`). Further messages wait in the process of
the sender, under the contract of the link: under ``drop_oldest`` the newest ``queue_size`` of them, and
those that must not be dropped.
Messages in flight are kept until they are acknowledged, so that they can be retransmitted after a cut, and
to the process that replaces the receiver.

A message gets its number when it enters the window. A receiver accepts the numbers in order, each once. As
messages take two paths (`dora.transport.network.sender`), it keeps one that arrives early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dora.transport.network.in_flight import MAX_IN_FLIGHT, InFlightLimit
from dora.transport.queues import DropOldestQueue

WINDOW: Final = 256  # messages

Entry = tuple[int, int, Any, int]
"""Number in the window (0: it waits), sequence number on the output, payload, size in bytes."""


class SendWindow:
    """The messages of one sender for one receiver. Not safe for several threads.

    The user transmits what `next` returns. ``capacity`` is the number of messages that may wait; None:
    something else bounds it, credit. ``sequence`` is the sequence number of the last message before.
    ``is_kept`` tells by its payload whether a message must not be dropped, ``is_old`` whether the receiver
    would leave it out. An old message is dropped before it is sent, unless it is the newest one: by
    its number the receiver counts the others.
    """

    def __init__(
        self,
        capacity: int | None,
        sequence: int = 0,
        is_kept: Callable[[Any], bool] = lambda _: False,
        is_old: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        self._is_kept, self._is_old = is_kept, is_old
        # Tells whether messages of other links go first now; None: they never do.
        self.is_held: Callable[[], bool] | None = None
        self._in_flight: deque[Entry] = deque()
        self._transmitted = 0  # how many of those in flight
        self._retransmit = 0  # how many of those in flight were transmitted before
        self._waiting: DropOldestQueue[Entry] = DropOldestQueue(capacity, lambda entry: is_kept(entry[2]))
        self.in_flight_bytes = 0
        self.limit = InFlightLimit()
        self.last = 0  # the number of the last message in the window
        self.last_sequence = sequence  # and its sequence number on the output
        self._acknowledged = sequence  # the sequence number of the last message that has arrived
        self.open = False  # a receiver is there, and knows where the window starts

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped to make room, or because they were too old."""
        return self._waiting.dropped

    @property
    def is_idle(self) -> bool:
        """Whether every message was acknowledged."""
        return not (self._in_flight or self._waiting)

    @property
    def is_ready(self) -> bool:
        """Whether a message can be transmitted now."""
        return self._transmitted < len(self._in_flight)

    @property
    def has_backlog(self) -> bool:
        """Whether a message is still to be transmitted, now or later."""
        return self._transmitted < len(self._in_flight) or len(self._waiting) > 0

    @property
    def last_transmitted(self) -> int:
        """The number of the last transmitted message; may be read from any thread."""
        return self.last - len(self._in_flight) + self._transmitted

    def next(self) -> Entry | None:
        """Return the next message to transmit, and count it as transmitted."""
        in_flight, transmitted = self._in_flight, self._transmitted
        if transmitted == len(in_flight):
            return None
        self._transmitted = transmitted + 1
        return in_flight[transmitted]

    def undo_next(self) -> None:
        """Count the message of the last `next` as not transmitted."""
        self._transmitted -= 1

    def is_retransmission(self) -> bool:
        """Return whether the message of the last `next` had been transmitted before."""
        return self._transmitted <= self._retransmit

    def put(self, sequence: int, payload: Any, size: int) -> None:
        """Add a message to the window, or to those that wait."""
        entry = (0, sequence, payload, size)
        if self.open and not self._waiting and self._has_room(size):
            self._admit(entry)
            return
        self._waiting.put(entry)

    def acknowledge(self, number: int, now: float) -> None:
        """Remove all messages up to ``number`` from the window, and admit those that have room now."""
        in_flight, before = self._in_flight, self.in_flight_bytes
        while in_flight and in_flight[0][0] <= number:
            _, self._acknowledged, _, size = in_flight.popleft()
            self.in_flight_bytes -= size
            if self._transmitted:
                self._transmitted -= 1
            if self._retransmit:
                self._retransmit -= 1
        waiting = self._waiting
        if before != self.in_flight_bytes:
            self.limit.on_ack(number, before - self.in_flight_bytes, now, is_full=len(waiting) > 0)
        self.admit_waiting()

    def admit_waiting(self) -> None:
        """Admit the messages that wait, as long as there is room for them."""
        waiting = self._waiting
        if self.open:
            while waiting and self._has_room(waiting[0][3]):
                entry = waiting.popleft()
                if waiting and self._is_old(entry[2]) and not self._is_kept(entry[2]):
                    waiting.dropped += 1
                else:
                    self._admit(entry)

    def retransmit(self) -> None:
        """Transmit all messages in flight again: they were lost."""
        self.limit.forget_sample()
        self._retransmit = max(self._retransmit, self._transmitted)
        self._transmitted = 0

    def restart(self) -> None:
        """Begin anew with all messages that are not acknowledged, as many as may wait.

        They go to a new receiving process, or to the same one on a new connection.
        """
        self.last -= len(self._in_flight)
        self.last_sequence = self._acknowledged
        waiting = [*self._in_flight, *self._waiting]
        self._waiting.clear()
        self._clear()
        for entry in waiting:
            self._waiting.put(entry)

    def skip_to(self, sequence: int) -> None:
        """Count messages that were not put as acknowledged; the window is idle, and restarted then."""
        self._acknowledged = sequence

    def abandon(self) -> None:
        """Discard all messages: the receiver has closed."""
        self._waiting.clear()
        self._acknowledged = self.last_sequence
        self._clear()

    def _clear(self) -> None:
        self.limit.forget_sample()
        self._in_flight.clear()
        self.in_flight_bytes = self._transmitted = self._retransmit = 0
        self.open = False

    def _has_room(self, size: int) -> bool:
        in_flight = self._in_flight
        if self.is_held is not None and self.is_held():
            return False
        return not in_flight or (
            len(in_flight) < WINDOW and self.in_flight_bytes + size <= self.limit.bytes
        )

    def _admit(self, entry: Entry) -> None:
        self.last += 1
        self.last_sequence = entry[1]
        self._in_flight.append((self.last, *entry[1:]))
        self.in_flight_bytes += entry[3]


class ReceiveWindow:
    """The receiving end: which messages are accepted, and when an acknowledgement is due."""

    def __init__(self) -> None:
        self.window_id = 0  # the send window that is accepted
        self.arrived = 0  # the number of the last accepted message
        self.missing = False  # a message was lost on the network
        self._acknowledged = 0
        self._bytes = 0  # accepted since the last acknowledgement
        self._early: dict[int, Any] = {}  # by number

    def open(self, window_id: int, last: int) -> bool:
        """Process the last number that a send window has announced; return True if the window is new."""
        if window_id != self.window_id:
            self.window_id, self.arrived, self._acknowledged, self._bytes = window_id, last, last, 0
            self.missing = False
            self._early.clear()
            return True
        self.missing = self.arrived < last
        return False

    def accept(self, window_id: int, number: int, size: int) -> bool:
        """Accept a message if it is the next one; return whether it is."""
        if window_id != self.window_id or number != self.arrived + 1:
            if self.expects(window_id, number):
                self.missing = True
            return False
        self.arrived = number
        self.missing = False
        self._bytes += size
        return True

    def expects(self, window_id: int, number: int) -> bool:
        """Return whether a message is still to come: no sender is farther ahead than `WINDOW`."""
        return window_id == self.window_id and self.arrived < number <= self.arrived + WINDOW

    def keep_early(self, window_id: int, number: int, message: Any) -> None:
        """Keep a message that was not accepted, if it has overtaken others."""
        if self.expects(window_id, number):
            self._early[number] = message

    def pop_early(self) -> Any | None:
        """Return the next message if it arrived early; the caller still has to `accept` it."""
        return self._early.pop(self.arrived + 1, None) if self._early else None

    def is_ack_due(self) -> bool:
        """Return whether the sender should get an acknowledgement now."""
        return self.arrived - self._acknowledged >= WINDOW // 8 or self._bytes >= MAX_IN_FLIGHT // 8

    def has_unacknowledged(self) -> bool:
        """Return whether the state differs from the last acknowledgement."""
        return self.missing or self.arrived != self._acknowledged

    def on_ack_sent(self) -> None:
        """Record that an acknowledgement is being sent."""
        self._acknowledged, self._bytes = self.arrived, 0
