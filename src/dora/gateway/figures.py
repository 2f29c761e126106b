"""The figures of the network to another machine: the gateway writes them to the board every 0.1 s.

Nothing is measured for each message: the bytes come from the connections, the packets from the system, and
the ages from a sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dora.gateway.outgoing import CONNECTIONS
from dora.gateway.tcp_info import packets_of
from dora.transport.board import CLOSED, CONNECTED, WORDS
from dora.wire.counters import (
    ARRIVED_BYTES,
    AVAILABLE,
    CROWDED,
    CROWDED_FROM,
    CUTS,
    HIGHEST_SHARE,
    MEDIAN_AGES,
    NETWORK_STATE,
    P99_AGES,
    PACKETS,
    RESENT_PACKETS,
    ROUND_TRIP,
    SENT_BYTES,
    SHARE,
    WAITING,
)

if TYPE_CHECKING:
    from dora.gateway.ports import Sending
    from dora.gateway.road import Road

EVERY: Final = 0.1  # seconds
_WINDOW: Final = 5.0  # seconds over which shares are taken: a short burst is no reason for a warning
_LEAST: Final = 3.0  # seconds that are needed for one
_FULL: Final = 0.5  # part of the window in which messages have to wait, so that a network counts as full


class Shares:
    """Which share of a network each of its outputs takes. Pure; all times are in seconds.

    A network is full while messages wait for it. Then it carries what is sent, and no more is available.
    Otherwise single messages show what it would carry (`dora.gateway.in_flight`).
    """

    def __init__(self) -> None:
        # Times, bytes sent so far, whether messages waited, and bytes of each output that have arrived.
        self._looks: deque[tuple[float, int, bool, dict[str, int]]] = deque()
        self.available = 0.0  # bytes a second; 0: not known

    def add(self, now: float, sent: int, waits: bool, arrived: dict[str, int], capacity: float) -> None:
        """Add a look. ``arrived``: by output. ``capacity``: bytes a second; 0: not known."""
        looks = self._looks
        looks.append((now, sent, waits, arrived))
        while looks[0][0] < now - _WINDOW:
            looks.popleft()
        used = (sent - looks[0][1]) / max(self.seconds, EVERY)
        is_full = sum(look[2] for look in looks) > len(looks) * _FULL
        if is_full and self.seconds >= _LEAST:
            self.available = used
        elif capacity:
            self.available = max(capacity, used)

    @property
    def seconds(self) -> float:
        """The time that the looks span."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def share(self, output: str) -> float:
        """Return the share of an output in the last seconds, 0 to 1; 0 if that is not known."""
        if self.seconds < _LEAST or not self.available:
            return 0.0
        before, now = self._looks[0][3], self._looks[-1][3]
        # Without an earlier number, the output is new.
        size = now.get(output, 0) - before.get(output, now.get(output, 0))
        return min(size / self.seconds / self.available, 1.0)

    def forget(self) -> None:
        """Begin again: the network was cut."""
        self._looks.clear()


class NetworkFigures:
    """Writes the line of the network to one machine, and the lines of its outputs."""

    def __init__(self, words: memoryview, slot: int) -> None:
        self._words = words
        self._base = slot * WORDS
        self._road: Road | None = None
        self._is_cut = False
        self._sent = [0] * CONNECTIONS  # by the present connections, at the last look
        self._packets = [(0, 0)] * CONNECTIONS
        self._arrived: dict[int, int] = {}  # number of a stream → bytes, at the last look
        self._shares = Shares()
        self._due = 0.0
        self._looked = 0.0

    def write(self, now: float, road: Road | None, streams: Sequence[Sending]) -> None:
        """Write what is due. ``streams``: those to the machine. ``road``: None while it is out of reach."""
        if now < self._due and road is self._road:
            return
        self._due = now + EVERY
        if road is not self._road:
            self._change(road)
        words, base = self._words, self._base
        if road is not None:
            self._count(road)
            words[base + ROUND_TRIP.word] = int(road.last_round_trip * 1e9)
            for place, (median, p99) in enumerate(road.ages_there):
                if median or p99:
                    words[base + MEDIAN_AGES[place].word] = median
                    words[base + P99_AGES[place].word] = p99
        waiting, is_full = [0] * CONNECTIONS, False
        for each in streams:
            if each.is_wanted:
                waiting[each.outgoing.priority] += each.waiting
                is_full = is_full or each.outgoing.is_held_back
        for figure, count in zip(WAITING, waiting, strict=True):
            words[base + figure.word] = count
        self._share(now, streams, is_full)

    def _change(self, road: Road | None) -> None:
        words, base = self._words, self._base
        if road is None:
            # The other side closes a road when both have dialled at the same time, or when it ends.
            self._is_cut = self._road is not None and not self._road.closed_there
        elif self._is_cut:  # counted when it is over: a road that ends with the dataflow was not cut
            words[base + CUTS.word] += 1
            self._is_cut = False
        words[base + NETWORK_STATE] = CLOSED if road is None else CONNECTED
        self._road = road
        self._sent = [0] * CONNECTIONS
        self._packets = [(0, 0)] * CONNECTIONS
        self._shares.forget()

    def _count(self, road: Road) -> None:
        """Add what the connections have sent since the last look."""
        words, base = self._words, self._base
        for place, connection in enumerate(road.connections):
            words[base + SENT_BYTES[place].word] += connection.written - self._sent[place]
            self._sent[place] = connection.written
            sent, resent = packets_of(connection.socket)
            sent_before, resent_before = self._packets[place]
            words[base + PACKETS.word] += (sent - sent_before) % (1 << 32)
            words[base + RESENT_PACKETS.word] += (resent - resent_before) % (1 << 32)
            self._packets[place] = sent, resent

    def _share(self, now: float, streams: Sequence[Sending], is_full: bool) -> None:
        words, shares = self._words, self._shares
        arrived, capacity = {}, 0.0
        for each in streams:
            size = each.outgoing.arrived_bytes
            words[each.figures + ARRIVED_BYTES.word] += size - self._arrived.get(each.number, 0)
            self._arrived[each.number] = arrived[each.config.name] = size
            capacity = max(capacity, each.outgoing.limit.capacity)
        seconds, self._looked = now - self._looked, now
        if self._road is None:
            for each in streams:
                words[each.figures + SHARE.word] = 0
            return
        shares.add(now, sum(self._sent), is_full, arrived, capacity)
        words[self._base + AVAILABLE.word] = int(shares.available)
        for each in streams:
            share = shares.share(each.config.name)
            line = each.figures
            words[line + SHARE.word] = thousandths = int(share * 1000)
            words[line + HIGHEST_SHARE.word] = max(words[line + HIGHEST_SHARE.word], thousandths)
            if share >= CROWDED_FROM:
                words[line + CROWDED.word] += int(seconds * 1000)
