"""The two halves of a link between machines, without the network: what may fly, what waits, what is lost.

A network can be slow, or cut for a minute. So a sender lets only so much fly (the *window*) that has not
been acknowledged; what comes meanwhile waits in the sender's process, under the contract of the link: under
``drop_oldest`` the newest ``queue_size`` messages. What flies is kept until it is acknowledged, so that it
can be sent again after a cut, and to the process that follows the receiver. Messages are numbered as they
take off; a receiver takes them in this order only, and each once. There are two ways to it
(`dora.transport.network.sender`): one that comes too early is kept.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

WINDOW: Final = 64  # messages
WINDOW_BYTES: Final = 8 << 20  # one message may be larger

Entry = tuple[int, int, Any, int]
"""Number on this lane (0: it has not taken off), sequence on its output, the payload, its size in bytes."""


class SendWindow:
    """What one sender has for one receiver. Not safe for several threads.

    Who uses it launches what is `next`: a message that flies may be on its way, or is about to be.
    ``capacity`` is how many messages may wait; None: there is another bound, credit. ``sequence`` is that
    of the last message before.
    """

    def __init__(self, capacity: int | None, sequence: int = 0) -> None:
        self._capacity = capacity
        self._flying: deque[Entry] = deque()
        self._launched = 0  # of what flies
        self._again = 0  # of what flies, that was launched before
        self._waiting: deque[Entry] = deque()
        self.flying_bytes = 0  # of all that has not been acknowledged
        self.last = 0  # the number of the last message that took off
        self.last_sequence = sequence  # and its sequence on the output
        self._acknowledged = sequence  # the sequence of the last message that has arrived
        self.open = False  # a receiver is there, and knows where it begins
        self.dropped = 0  # messages that had to make room

    @property
    def idle(self) -> bool:
        """Whether everything was acknowledged."""
        return not (self._flying or self._waiting)

    @property
    def ready(self) -> bool:
        """Whether there is something to be launched now."""
        return self._launched < len(self._flying)

    @property
    def behind(self) -> bool:
        """Whether there is something to be launched, now or later."""
        return self._launched < len(self._flying) or len(self._waiting) > 0

    @property
    def last_launched(self) -> int:
        """The number of the last message that was launched; may be asked from any thread."""
        return self.last - len(self._flying) + self._launched

    def next(self) -> Entry | None:
        """Return the next message to be launched, which counts as launched from now on."""
        flying, launched = self._flying, self._launched
        if launched == len(flying):
            return None
        self._launched = launched + 1
        return flying[launched]

    def back(self) -> None:
        """Take back that the last message was launched."""
        self._launched -= 1

    def repeats(self) -> bool:
        """Tell whether the last message that was launched had been launched before."""
        return self._launched <= self._again

    def put(self, sequence: int, payload: Any, size: int) -> None:
        """Let a message take off, or wait."""
        entry = (0, sequence, payload, size)
        if self.open and not self._waiting and self._has_room(size):
            self._take_off(entry)
            return
        self._waiting.append(entry)
        self._make_room()

    def acknowledge(self, number: int) -> None:
        """Note that everything up to ``number`` has arrived; what there is room for now takes off."""
        flying = self._flying
        while flying and flying[0][0] <= number:
            _, self._acknowledged, _, size = flying.popleft()
            self.flying_bytes -= size
            if self._launched:
                self._launched -= 1
            if self._again:
                self._again -= 1
        if self.open:
            waiting = self._waiting
            while waiting and self._has_room(waiting[0][3]):
                self._take_off(waiting.popleft())

    def repeat(self) -> None:
        """Let what flies be launched again: it was lost."""
        self._again = max(self._again, self._launched)
        self._launched = 0

    def begin_anew(self) -> None:
        """Note that another process receives from now on: what flew to the last one flies again."""
        self.last -= len(self._flying)
        self.last_sequence = self._acknowledged
        self._waiting.extendleft(reversed(self._flying))
        self._clear()
        self._make_room()

    def forget(self) -> None:
        """Note that nobody receives any more."""
        self._waiting.clear()
        self._acknowledged = self.last_sequence
        self._clear()

    def _clear(self) -> None:
        self._flying.clear()
        self.flying_bytes = self._launched = self._again = 0
        self.open = False

    def _make_room(self) -> None:
        """Let go of the oldest that wait, if these are too many."""
        while self._capacity is not None and len(self._waiting) > self._capacity:
            self._waiting.popleft()
            self.dropped += 1

    def _has_room(self, size: int) -> bool:
        flying = self._flying
        return not flying or (len(flying) < WINDOW and self.flying_bytes + size <= WINDOW_BYTES)

    def _take_off(self, entry: Entry) -> None:
        self.last += 1
        self.last_sequence = entry[1]
        self._flying.append((self.last, *entry[1:]))
        self.flying_bytes += entry[3]


class ReceiveWindow:
    """The receiving half: which messages are taken, and when to say how far they have come."""

    def __init__(self) -> None:
        self.lane = 0  # the one that is listened to
        self.arrived = 0  # the number of the last message that was taken
        self.missing = False  # something was lost on the way
        self._told = 0
        self._bytes = 0
        self._early: dict[int, Any] = {}  # by number

    def open(self, lane: int, last: int) -> bool:
        """Note that a lane says what its last number is. True: it is a new one, which begins here."""
        if lane != self.lane:
            self.lane, self.arrived, self._told, self._bytes = lane, last, last, 0
            self.missing = False
            self._early.clear()
            return True
        self.missing = self.arrived < last
        return False

    def takes(self, lane: int, number: int, size: int) -> bool:
        """Tell whether a message is the next one."""
        if lane != self.lane or number != self.arrived + 1:
            if self.expects(lane, number):
                self.missing = True
            return False
        self.arrived = number
        self.missing = False
        self._bytes += size
        return True

    def expects(self, lane: int, number: int) -> bool:
        """Tell whether a message is one that is still to come: no sender is farther ahead than `WINDOW`."""
        return lane == self.lane and self.arrived < number <= self.arrived + WINDOW

    def keep(self, lane: int, number: int, message: Any) -> None:
        """Keep a message that was not taken, if it is one that has overtaken others."""
        if self.expects(lane, number):
            self._early[number] = message

    def follower(self) -> Any | None:
        """Return the message that is the next one now, if it was kept; it is still to be taken."""
        return self._early.pop(self.arrived + 1, None) if self._early else None

    def wants_to_tell(self) -> bool:
        """Tell whether the sender should hear now how far its messages have come."""
        return self.arrived - self._told >= WINDOW // 4 or self._bytes >= WINDOW_BYTES // 4

    def has_news(self) -> bool:
        """Tell whether the sender does not know all."""
        return self.missing or self.arrived != self._told

    def told(self) -> None:
        """Note that the sender is being told."""
        self._told, self._bytes = self.arrived, 0
