"""How much a link between machines may have in flight: what the network carries in a short time.

A message in flight cannot be dropped any more, and the messages behind it wait. So a fixed number of bytes
is too much for a slow network, whose pictures arrive seconds old, or too little for a fast one. A link
measures how fast its bytes arrive, and how long the way there and back takes without a queue.
"""

from __future__ import annotations

from typing import Final

MIN_IN_FLIGHT: Final = 65_536  # bytes: small messages are not worth a measurement
MAX_IN_FLIGHT: Final = 8 << 20  # bytes; a single message may be larger
# Seconds of the measured rate. Two round trips keep a distant network busy while acknowledgements are on
# their way. The other one does so where the round trip is shorter than a pause of either program.
_ROUND_TRIPS: Final = 2
_SHORTEST: Final = 0.02
# The rate is the highest of this period (seconds) and the one before. A slow sample may be a pause of a
# busy program; a mean of all samples would throttle the link after each one.
_PERIOD: Final = 2.0
_SIGNIFICANT: Final = 16_384  # bytes: a shorter message is on its way, not limited by the network


class InFlightLimit:
    """Measures a link, and derives how many bytes may be in flight. Not safe for several threads.

    A sample is the time from one acknowledgement to another, in which the receiver has acknowledged a known
    number of bytes. The second is the acknowledgement of a message which asks for one at once, as others
    come up to 0.2 s late. All times are in seconds.
    """

    def __init__(self) -> None:
        self.bytes = MIN_IN_FLIGHT
        self.rate = 0.0  # bytes a second; 0: not known yet
        self._highest, self._highest_before = 0.0, 0.0
        self._period_began = 0.0
        self._round_trip = 0.0
        self._since = 0.0  # of the last acknowledgement, or when the first message in flight was sent
        self._delivered = 0  # bytes acknowledged since then
        self._number = 0  # of the message that ends the sample; 0: there is none
        self._began = 0.0
        self._is_alone = False  # nothing else was in flight when its message was sent
        # Bytes a second that the network carries, as far as the last messages show it; 0: they do not.
        # The ``rate`` may be what the program sends.
        self.capacity = 0.0
        self._capacity_before = self._capacity_now = 0.0
        self._capacity_began = 0.0

    def begin(self, now: float) -> None:
        """Record that a message is sent while none is in flight."""
        self._since = now

    def measure(self, number: int, *, is_alone: bool = False) -> bool:
        """Begin a sample that ends with this message, unless there is one; return whether it begins.

        ``is_alone``: nothing else is in flight.
        """
        if self._number:
            return False
        self._number, self._began, self._delivered = number, self._since, 0
        self._is_alone = is_alone
        return True

    def on_ack(self, arrived: int, size: int, now: float, *, is_full: bool) -> None:
        """Record that the messages up to ``arrived`` are acknowledged, ``size`` bytes more than before.

        ``is_full``: messages waited for room. Otherwise the program may send less than the network carries.
        """
        self._since = now
        self._delivered += size
        if not 0 < self._number <= arrived:
            return
        self._number = 0
        seconds = max(now - self._began, 1e-6)
        is_telling = self._is_alone and self._delivered >= _SIGNIFICANT
        if is_telling:
            # The first byte and the acknowledgement take a round trip, whatever the rate. If that counted,
            # each message would be measured as slow, so that the next one would be alone as well. The rest
            # of a short message on a long way is mostly jitter, so a quarter of the time counts at least.
            seconds = max(seconds - self._round_trip, seconds / 4)
        rate = self._delivered / seconds
        if is_telling or is_full:
            self._note_capacity(rate, now)
        if is_full or rate > self.rate:
            if now - self._period_began > _PERIOD:
                self._highest, self._highest_before, self._period_began = 0.0, self._highest, now
            self._highest = max(self._highest, rate)
            self.rate = max(self._highest, self._highest_before)
            self._update()

    def on_round_trip(self, seconds: float) -> None:
        """Record how long a ping and its acknowledgement took; the shortest time counts.

        It is never forgotten: later pings may all wait behind what this link itself has in flight, and a
        limit that follows them would grow with every one.
        """
        self._round_trip = min(self._round_trip or seconds, seconds)
        self._update()

    def _note_capacity(self, capacity: float, now: float) -> None:
        """Record a sample of what the network carries. The highest of two periods counts."""
        if now - self._capacity_began > _PERIOD:
            self._capacity_before, self._capacity_now = self._capacity_now, 0.0
            self._capacity_began = now
        self._capacity_now = max(self._capacity_now, capacity)
        self.capacity = max(self._capacity_now, self._capacity_before)

    def _update(self) -> None:
        if self.rate:
            seconds = max(_ROUND_TRIPS * self._round_trip, _SHORTEST)
            self.bytes = min(max(int(self.rate * seconds), MIN_IN_FLIGHT), MAX_IN_FLIGHT)
