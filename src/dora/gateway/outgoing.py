"""The messages of an output for another machine: which goes next, and which are dropped. Pure.

A message in flight, that is, sent and not acknowledged, cannot be dropped any more, and later ones wait
behind it. So their number is bounded by what the network carries in a short time
(`dora.gateway.in_flight`), or by one message. Further ones stay in the queue of the gateway on the output,
where the oldest is dropped for a new one.

The number of a message is its sequence number on the output, which the message contains. So the other
machine needs one number to say what it has, and this one sends the rest after a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from dora.gateway.in_flight import InFlightLimit
from dora.wire.output_rules import Priority

CONTROL, NORMAL, BULK = range(3)  # the connections of a road; lower numbers go first
CONNECTIONS: Final = 3
NO_CONNECTION: Final = CONNECTIONS
MAX_MESSAGES: Final = 256  # in flight
MAX_SHARED: Final = 28  # the same, of messages that stay in shared memory: a receiver may hold 32
_ACKS: Final = 4  # that are asked for while as much is sent as may be in flight
SMALL: Final = 8192  # bytes: such messages do not wait for larger ones, unless the output says otherwise
_CONNECTION_OF: Final[dict[str | None, int]] = {"control": CONTROL, "normal": NORMAL, "bulk": BULK}


class OutgoingMessage(NamedTuple):
    """A message and what decides about its way.

    ``sent_ns``: by the wall clock. ``kept``: a full queue keeps it. ``shared``: it is in shared memory.
    """

    sequence: int
    size: int
    sent_ns: int
    kept: bool
    shared: bool
    message: Any


def connection_of(priority: Priority | None, size: int) -> int:
    """Return the connection of a message, by its number.

    >>> connection_of(None, 64), connection_of(None, 1 << 20), connection_of("bulk", 64)
    (0, 1, 2)
    """
    if priority is not None:
        return _CONNECTION_OF[priority]
    return CONTROL if size <= SMALL else NORMAL


class Outgoing:
    """The messages of one output for one machine. All times are in nanoseconds.

    ``now`` is by a clock that only goes on; ``wall_ns`` is by the wall clock, as in messages.
    """

    def __init__(
        self,
        take: Callable[[], OutgoingMessage | None],
        newest: Callable[[], int],
        capacity: int | None,
        max_age_ns: int = 0,
        priority: Priority | None = None,
    ) -> None:
        """``take`` takes the oldest message out of the queue on the output.

        ``newest`` returns the number of its newest message. ``capacity``: how many messages may wait; None:
        none may be dropped, and credit bounds them.
        """
        self._take = take
        self._newest = newest
        self._capacity = capacity
        self._max_age_ns = max_age_ns
        self._priority = priority
        # Without a declaration nothing goes behind others for good, however many small messages these send.
        self.rank = _CONNECTION_OF.get(priority, NORMAL)
        self.ready: deque[OutgoingMessage] = deque()  # taken and not sent, oldest first
        self._in_flight: deque[OutgoingMessage] = deque()
        self.in_flight_bytes = 0
        self._shared_in_flight = 0
        self.limit = InFlightLimit()
        self.is_open = False  # the other machine has said what it has
        self.arrived = 0  # the last number that the other machine has
        self.taken = 0  # the last number that was taken
        self._bypassed = 0  # the last number that the node has sent itself, over its bypass
        self.arrived_bytes = 0  # of messages that the other machine has acknowledged
        self._connection = CONTROL  # of what is in flight
        self._unasked = self._unasked_bytes = 0  # sent since the last message that asks for an ack
        # The queue was empty at the last look: what comes now could go at once.
        self.is_hungry = False

    def change(self, capacity: int | None, max_age_ns: int) -> None:
        """Set other rules, after a link was added or removed."""
        self._capacity, self._max_age_ns = capacity, max_age_ns

    @property
    def sent(self) -> int:
        """The number of the last message that was sent."""
        return self._in_flight[-1].sequence if self._in_flight else self.arrived

    @property
    def priority(self) -> int:
        """The number of its connection: the declared one, or else the last message's."""
        return self._connection if self._priority is None else self.rank

    @property
    def is_held_back(self) -> bool:
        """Whether messages waited at the last look, because as much is in flight as may be."""
        return self.is_open and (bool(self.ready) or not self.is_hungry)

    def waiting(self, newest: int) -> int:
        """Return how many messages wait to be sent, if ``newest`` is the number of the last one."""
        in_queue = max(newest - self.taken, 0)
        return len(self.ready) + (in_queue if self._capacity is None else min(in_queue, self._capacity))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here, and all that was sent has arrived."""
        return not (self.ready or self._in_flight)

    @property
    def goes_first(self) -> bool:
        """Whether outputs of a lower rank have to wait, as their messages would share the network."""
        if self.in_flight_bytes > SMALL:
            return True
        return bool(self._in_flight) and (bool(self.ready) or self._newest() > self.taken)

    def resume(self, arrived: int, latched: Iterable[OutgoingMessage] = ()) -> None:
        """Begin to send on a new road: what is in flight is lost, except up to ``arrived``.

        ``latched``: messages for a machine that may not have had them.
        """
        latched = tuple(latched)
        newest = max((entry.sequence for entry in latched), default=0)
        queued = []  # they come before the newest one of the latch, so they go before it
        while self.taken < newest and (entry := self._take_new()) is not None:
            queued.append(entry)
        entries = (*queued, *latched, *self._in_flight, *self.ready)
        found = {entry.sequence: entry for entry in entries}
        self.ready = deque(found[number] for number in sorted(found) if number > arrived)
        if self.ready:
            self.taken = max(self.taken, self.ready[-1].sequence)
        self._in_flight.clear()
        self.in_flight_bytes = self._shared_in_flight = self._bypassed = 0
        self.limit = InFlightLimit()
        self.arrived = max(self.arrived, arrived)
        self.is_open = True

    def note_bypassed(self, sequence: int) -> int:
        """Count the messages up to this one as sent, because the node has sent them over its bypass.

        To be called before `acknowledge`; returns their bytes.
        """
        if sequence <= self._bypassed:
            return 0
        self._bypassed = sequence
        size = 0
        while self.ready or self.taken < sequence:
            entry = self.ready.popleft() if self.ready else self._take_new()
            if entry is None:
                break
            if entry.sequence > sequence:
                self.ready.appendleft(entry)
                break
            size += entry.size
            self._shared_in_flight += entry.shared
            self._in_flight.append(entry)
        self.in_flight_bytes += size
        return size

    def end_bypass(self) -> None:
        """Send again what is in flight, because the bypass has ended; the other side may have it."""
        if self._bypassed > self.arrived:
            self.ready.extendleft(reversed(self._in_flight))
            self._in_flight.clear()
            self.in_flight_bytes = self._shared_in_flight = 0
        self._bypassed = 0

    def stop(self) -> None:
        """Stop sending: the road has ended. Messages in flight are kept."""
        self.is_open = False

    def skip(self) -> None:
        """Discard all messages: nobody on the other machine wants them."""
        self.ready.clear()
        while (entry := self._take()) is not None:
            self.taken = max(self.taken, entry.sequence)
        self.is_hungry = True
        if not self._in_flight:
            self.arrived = max(self.arrived, self.taken)

    def next_connection(self, wall_ns: int) -> int:
        """Return the connection on which a message can go now; NO_CONNECTION: none can."""
        if not self.is_open:
            return NO_CONNECTION
        if self._capacity is None:  # the queue on the output may be shorter than a receiver's
            while (entry := self._take_new()) is not None:
                self.ready.append(entry)
        elif self.ready:
            self._drop_outdated(wall_ns)
        in_flight, ready = self._in_flight, self.ready
        if self._bypassed > self.arrived:
            return NO_CONNECTION  # two connections keep no order, and the other side acknowledges soon
        if not ready:
            if in_flight and not self._has_room():
                return NO_CONNECTION
            while (entry := self._take_new()) is not None and self._is_too_old(entry, wall_ns):
                pass
            if entry is None:
                return NO_CONNECTION
            ready.append(entry)
        size = ready[0].size
        connection = connection_of(self._priority, size)
        if in_flight:
            if not self._has_room(ready[0]):
                return NO_CONNECTION
            if connection != self._connection:
                # Two connections keep no order between them. The other side acknowledges small messages
                # within milliseconds, and a large one can wait for that.
                return NO_CONNECTION if connection > self._connection else self._connection
        return connection

    def pop(self, connection: int, now: int) -> OutgoingMessage:
        """Return the message that goes on a connection, and count it as sent."""
        entry = self.ready.popleft()
        if not self._in_flight:
            self._connection = connection
            self.limit.begin(now / 1e9)
        self._in_flight.append(entry)
        self.in_flight_bytes += entry.size
        self._shared_in_flight += entry.shared
        return entry

    def asks_for_ack(self, entry: OutgoingMessage) -> bool:
        """Return whether the other side should acknowledge this message at once.

        That costs both gateways a system call and perhaps a wake-up, so it is for a quarter of what may be
        in flight. The others are acknowledged with the next frame, or within milliseconds.
        """
        self._unasked += 1
        self._unasked_bytes += entry.size
        if self._unasked_bytes > self.limit.bytes // _ACKS:
            self.limit.measure(entry.sequence, is_alone=len(self._in_flight) == 1)
        elif self._unasked < (MAX_SHARED if entry.shared else MAX_MESSAGES) // _ACKS:
            return False
        self._unasked = self._unasked_bytes = 0
        return True

    def acknowledge(self, arrived: int, now: int) -> None:
        """Forget the messages that the other machine has."""
        in_flight, size = self._in_flight, 0
        while in_flight and in_flight[0].sequence <= arrived:
            entry = in_flight.popleft()
            size += entry.size
            self._shared_in_flight -= entry.shared
        self.in_flight_bytes -= size
        while self.ready and self.ready[0].sequence <= arrived:
            size += self.ready.popleft().size  # the bypass was faster than the word that says it
        self.arrived_bytes += size
        self.arrived = max(self.arrived, arrived)
        if size:
            is_full = bool(self.ready) or self._newest() > self.taken
            self.limit.on_ack(arrived, size, now / 1e9, is_full=is_full)

    def _has_room(self, entry: OutgoingMessage | None = None) -> bool:
        """Return whether this message, or else a small one, may be in flight, too."""
        in_flight, size = self._in_flight, 1 if entry is None else entry.size
        return not in_flight or (
            len(in_flight) < MAX_MESSAGES
            and self.in_flight_bytes + size <= self.limit.bytes
            and (entry is None or not entry.shared or self._shared_in_flight < MAX_SHARED)
        )

    def _take_new(self) -> OutgoingMessage | None:
        """Take a message that was not taken before."""
        self.is_hungry = False
        while (entry := self._take()) is not None:
            if entry.sequence > self.taken:
                self.taken = entry.sequence
                if entry.sequence > self.arrived:  # else it has come over a bypass
                    return entry
        self.is_hungry = True
        return None

    def _drop_outdated(self, wall_ns: int) -> None:
        """Drop what has waited here too long; receivers count it by the number of the next message."""
        ready = self.ready
        assert self._capacity is not None
        oldest = self._newest() - self._capacity + 1
        if ready[0].sequence >= oldest and not self._max_age_ns:
            return
        self.ready = deque(
            entry
            for entry in ready
            if (entry.kept or entry.sequence >= oldest) and not self._is_too_old(entry, wall_ns)
        )

    def _is_too_old(self, entry: OutgoingMessage, wall_ns: int) -> bool:
        """Return whether no receiver takes a message any more. The newest one goes at any age."""
        return (
            0 < self._max_age_ns < wall_ns - entry.sent_ns
            and not entry.kept
            and entry.sequence != self._newest()
        )
