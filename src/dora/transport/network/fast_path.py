"""The second connection to a node of another machine: which messages take it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dora.transport.network.protocol import PING

MAX_MESSAGE: Final = 200_000  # bytes; for a larger message, copies cost more than waking a thread
# A larger message takes the fast path only if the network carries it in this time (seconds), because small
# messages, such as commands to motors, must not wait behind it.
SMALL: Final = 8_192  # bytes
SHORT: Final = 0.005
# They fit into `sessions.FAST_PATH_BUFFER` with what the system adds.
FAST_PATH_BYTES: Final = 320_000  # in flight
OVERHEAD: Final = 2_048  # bytes of the system's buffers that a message takes at most, without its content
ACK_FROM: Final = FAST_PATH_BYTES // 2  # bytes in flight from which the receiver acknowledges at once


class FastPath:
    """Decides which messages of a link take the second connection; not safe for several threads.

    Zenoh's regular transport passes messages to a thread that has to be woken. Its low-latency transport
    writes in the sending thread, but accepts at most 64 KiB (`dora.transport.network.fragments`) and blocks
    while the network is congested. The fast path is therefore for single messages of moderate size, as
    many as fit into the buffers of the system. A message does not take it while an earlier one is in flight
    on the regular path, because the receiver would have to wait for that one.

    The fast path opens once the receiver has acknowledged a ping on it, and closes after a loss. ``ping``
    sends a ping, whose content is the time, by ``clock`` in nanoseconds.
    """

    def __init__(self, ping: Callable[[bytes], None], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._ping = ping
        self._clock = clock
        self._closed_at = clock()
        self._last_ping = 0  # the last one that was acknowledged
        self._last_regular = 0  # the number of the last message on the regular path
        self._arrived = 0
        self._in_flight: deque[tuple[int, int]] = deque()  # number, bytes in the buffers of the system
        self.is_open = False
        self.bytes = 0
        """Of all messages in flight on the fast path."""

    def accepts(self, number: int, size: int, in_flight_bytes: int) -> bool:
        """Return whether a message takes the fast path; if so, count it.

        ``in_flight_bytes`` are on the fast path, of all links to the node.
        """
        if not self.would_accept(size, in_flight_bytes):
            return False
        self._in_flight.append((number, size + OVERHEAD))
        self.bytes += size + OVERHEAD
        return True

    def would_accept(self, size: int, in_flight_bytes: int) -> bool:
        """Return whether the next message of a link takes the fast path; see `accepts`."""
        fits = size <= MAX_MESSAGE and in_flight_bytes + size + OVERHEAD <= FAST_PATH_BYTES
        return self.is_open and fits and self._last_regular <= self._arrived

    def on_regular(self, number: int) -> None:
        """Record that a message takes the regular path."""
        self._last_regular = number

    def on_ack(self, arrived: int, last_ping: int) -> float | None:
        """Process an acknowledgement; ``last_ping`` is the last ping that has reached the receiver.

        Returns the round trip of a ping in seconds, if this is the acknowledgement of one.
        """
        self.on_arrived(arrived)
        round_trip = None
        now = self._clock()
        # A receiver keeps the last ping of a sender that was restarted elsewhere: one from another clock,
        # which says nothing about this path, may be in the future here.
        if max(self._last_ping, self._closed_at) < last_ping <= now:
            self._last_ping, self.is_open = last_ping, True
            round_trip = (now - last_ping) / 1e9
        elif not self.is_open:
            self.ping()
        return round_trip

    def ping(self) -> None:
        """Send a ping."""
        self._ping(PING.pack(self._clock()))

    def on_arrived(self, arrived: int) -> None:
        """Record that at least the messages up to this number have arrived."""
        self._arrived = max(self._arrived, arrived)
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= arrived:
            self.bytes -= in_flight.popleft()[1]

    def close(self) -> None:
        """Use the regular path until a new ping is acknowledged, with all that was sent before it."""
        self._closed_at = self._clock()
        self.is_open = False
        self._in_flight.clear()
        self.bytes = self._last_regular = 0  # everything is transmitted again
