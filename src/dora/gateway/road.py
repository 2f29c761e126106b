"""A road: the connections with another machine, one for each class of priority, and what goes over them."""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from typing import Annotated, Any, Final

import msgspec

from dora.errors import SharedMemoryFull, TransportError
from dora.gateway.ages import AgeReports, Ages
from dora.gateway.connection import RoadConnection
from dora.gateway.meeting import NewBypass, NewRoad
from dora.gateway.outgoing import CONTROL, NO_CONNECTION, OutgoingMessage
from dora.gateway.ports import Incoming, Memory, Sending, link_name, parse
from dora.transport.board import CLOSED
from dora.wire.decode import BAD_MESSAGE
from dora.wire.decoders import msgpack_decoder
from dora.wire.gateway_frame import ACK, ASKS_FOR_ACK, DATA, TEXT
from dora.wire.message import MAX_SEQUENCE

_ACK_AFTER: Final = 0.005  # seconds that an acknowledgement may wait for a frame to go with
_SHORT: Final = 3.0  # seconds; an ordinary road lasts until the network is cut
_IN_A_ROW: Final = 3  # short roads; one or two are common while machines start or get other addresses


class Offer(msgspec.Struct, tag=True, array_like=True):
    """The streams that a gateway sends: number and name, and the numbers of three messages.

    Up to the first one, none will be sent any more; up to the second one, the node's present process has
    sent none; up to the third one, none is in the latch.
    """

    streams: list[tuple[int, str, int, int, int]]


_Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQUENCE)]


class Have(msgspec.Struct, tag=True, array_like=True):
    """The answer: name of a stream, and the number of the last message that this machine has."""

    streams: list[tuple[str, _Number]]


class Links(msgspec.Struct, tag=True, array_like=True):
    """The receivers of a machine: name of the link, state, number of the last message that it has taken."""

    links: list[tuple[str, int, int]]


_Age = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class AgesThere(msgspec.Struct, tag=True, array_like=True):
    """How old messages are on arrival: median and 99th percentile (ns), for each connection."""

    ages: list[tuple[_Age, _Age]]


class WantBypass(msgspec.Struct, tag=True, array_like=True):
    """A node wants a bypass to the machine that has dialled the road, see `dora.gateway.bypasses`."""

    token: bytes


_encode = msgspec.msgpack.Encoder().encode
decode = msgpack_decoder(Offer | Have | Links | AgesThere | WantBypass)


class Road:
    """The connections with another machine.

    ``delivered`` gets outputs with messages for receivers here, and whether these are to be woken again.
    """

    def __init__(self, made: NewRoad, words: memoryview, delivered: dict[Incoming, bool]) -> None:
        self.machine = made.machine
        self.dialled_here = made.dialled_here
        self.connections = [RoadConnection(connection, self._room) for connection in made.sockets]
        self.bypasses: list[RoadConnection] = []  # from there, see `dora.transport.bypass`
        self.began = self.heard = time.monotonic()
        self.next_ping = 0.0
        self.round_trip = self.last_round_trip = 0.0  # the shortest and the last one, in seconds
        self.ages_here = AgeReports(lambda ages: self.say(AgesThere(ages)))
        self.ages_there: list[tuple[int, int]] = []  # as the other side reports them
        self.streams: list[Sending] = []  # to there
        self._has_ranks = False  # some of them go before others
        self._has_ages = False  # some of them drop old messages
        self.offer = Offer([])  # the last one of the other side
        self.incoming: dict[int, Incoming] = {}  # by the number that the other side gives it
        self._acks: dict[int, int] = {}  # number of a stream → message, to be acknowledged
        self.ack_at = 0.0  # when that is due; 0: none is
        self._reported: dict[str, tuple[int, int]] = {}  # what the other side knows of links here
        self._words = words
        self._delivered = delivered
        self.is_open = True
        self.closed_there = False  # the other side has ended it

    def use(self, streams: list[Sending]) -> None:
        """Send these of the streams that lead to this machine."""
        self.streams = [each for each in streams if each.config.machine == self.machine]
        self._has_ranks = len({each.outgoing.rank for each in self.streams}) > 1
        self._has_ages = any(each.config.item.max_age_ns for each in self.streams)

    def say(self, content: Offer | Have | Links | AgesThere | WantBypass) -> None:
        self.connections[CONTROL].put(TEXT, body=_encode(content))

    def measure(self, seconds: float) -> None:
        """Record how long a ping and its answer took."""
        self.last_round_trip = max(seconds, 0.0)
        self.round_trip = min(self.round_trip or seconds, seconds)
        for each in self.streams:
            each.outgoing.limit.on_round_trip(self.round_trip)

    def close(self) -> None:
        self.is_open = False
        for connection in (*self.connections, *self.bypasses):
            connection.close()

    def add_bypass(self, made: NewBypass) -> RoadConnection:
        """Receive on a bypass, too."""
        connection = made.socket
        if made.key:
            from dora.transport.sealing import SealedSocket

            connection = SealedSocket(connection, made.key)
        bypass = RoadConnection(connection, self._room)
        self.bypasses.append(bypass)
        return bypass

    def note_bypassed(self, sending: Sending) -> None:
        """Find out what a node has sent itself."""
        self.connections[CONTROL].written += sending.note_bypassed()

    # ------------------------------------------------------------------ to there

    def pump(self, now: float) -> None:
        """Send what can go at this time; raises `ConnectionEnded`."""
        wall_ns = time.time_ns() if self._has_ages else 0
        words = self._words
        active: list[Sending] = []
        wanted: list[int] = []  # the connections on which they want to send
        for each in self.streams:
            outgoing = each.outgoing
            if each.has_bypass:
                self.note_bypassed(each)
            if outgoing.is_open and words[each.sent_word] == outgoing.taken and not outgoing.ready:
                outgoing.is_hungry = True
                continue
            outgoing.is_hungry = False
            if not outgoing.is_open:
                continue
            if not each.is_wanted:
                each.skip()
            elif (number := outgoing.next_connection(wall_ns)) != NO_CONNECTION:
                active.append(each)
                wanted.append(number)
        if active and self._has_ranks:
            # A message that the system has cannot be dropped any more for a newer one, nor overtaken.
            first = min(
                (each.outgoing.rank for each in self.streams if each.outgoing.goes_first),
                default=NO_CONNECTION,
            )
            for index, each in enumerate(active):
                if each.outgoing.rank > first:
                    wanted[index] = NO_CONNECTION
        if self.ack_at and (active or now >= self.ack_at):
            for stream, arrived in self._acks.items():
                self.connections[CONTROL].put(ACK, stream, arrived)
            self._acks.clear()
            self.ack_at = 0.0
        self._fill(active, wanted, int(now * 1e9), wall_ns)

    def _fill(self, active: list[Sending], wanted: list[int], now: int, wall_ns: int) -> None:
        """Write messages: nothing of a connection while the system has not taken all of a lower one."""
        for number, connection in enumerate(self.connections):
            # Without messages to go with, or because it is full.
            is_due = connection.polls_out or number not in wanted
            if connection.waiting and is_due and not connection.flush():
                return
            while number in wanted:
                for index, each in enumerate(active):
                    if wanted[index] == number:
                        outgoing = each.outgoing
                        _put(connection, each, outgoing.pop(number, now))
                        if self._words[each.sent_word] == outgoing.taken and not outgoing.ready:
                            # As the number says it, nobody has to look into the queue.
                            wanted[index], outgoing.is_hungry = NO_CONNECTION, True
                        else:
                            wanted[index] = outgoing.next_connection(wall_ns)
                    if connection.is_filled:
                        break
                if (connection.is_filled or number not in wanted) and not connection.flush():
                    return

    # ------------------------------------------------------------------ from there

    def _room(self, stream: int, size: int) -> Any:
        """Return memory for a large message, where its receivers read it."""
        incoming = self.incoming.get(stream)
        if incoming is None:
            return Memory(size)
        try:
            return incoming.port.reserve(size)
        except (SharedMemoryFull, TransportError) as error:
            incoming.bad.add(error)
            return Memory(size)

    def deliver(
        self, stream: int, size: int, body: Any, flags: int, ages: Ages, *, is_bypassed: bool = False
    ) -> bool:
        """Give a message to the receivers here, if it is one and they have not had it.

        ``ages``: of its connection. ``is_bypassed``: only the next message is taken, as
        earlier ones may come on another connection. Returns whether the receivers have it now.
        """
        incoming = self.incoming.get(stream)
        loan = None if body.__class__ is bytes else body
        if incoming is None:
            if loan is not None:
                loan.discard()
            return False
        sequence = 0
        try:
            message = parse(body, size, loan)
            sequence = message.sequence
            forwarded = incoming.forwarded
            if forwarded < sequence <= (forwarded + 1 if is_bypassed else MAX_SEQUENCE):
                if isinstance(loan, Memory):
                    incoming.begin(sequence)
                else:
                    incoming.deliver(message, loan)
                    loan = None
                    if incoming in self._delivered:
                        self._delivered[incoming] = True
                    else:  # the receivers wake up while this process looks for more
                        self._delivered[incoming] = False
                        incoming.port.ring()
                    if ages.wanted:
                        ages.add(self.heard, incoming.age_ns(message))
        except BAD_MESSAGE as error:
            incoming.bad.add(error)
        except (SharedMemoryFull, TransportError) as error:
            incoming.bad.add(error)
            incoming.begin(sequence)
        if loan is not None:
            loan.discard()
        self._acks[stream] = incoming.forwarded
        if flags & ASKS_FOR_ACK:
            self.ack_at = 1e-9  # now
        elif not self.ack_at:
            self.ack_at = self.heard + _ACK_AFTER
        return 0 < sequence <= incoming.forwarded

    def report_credit(self) -> None:
        """Report what receivers under back-pressure have taken."""
        for incoming in self.incoming.values():
            if incoming.has_pressure:
                self.report_links(incoming)

    def report_links(self, only: Incoming | None = None) -> None:
        """Report what has changed about the receivers here of its outputs."""
        changed = []
        for incoming in set(self.incoming.values()) if only is None else (only,):
            for name, link in tuple(incoming.links.items()):
                report = incoming.report(link)
                before = self._reported.get(name)
                if before == report:
                    continue
                # Under back-pressure, at once what the sender may wait for; else with the next tick.
                if (
                    only is not None
                    and before is not None
                    and before[0] == report[0]
                    and report[1] - before[1] < max(link.queue_size // 2, 1)
                    and report[1] < incoming.forwarded
                ):
                    continue
                self._reported[name] = report
                changed.append((name, *report))
                if report[0] == CLOSED and link.slot not in {each.slot for each in incoming.config.links}:
                    del incoming.links[name]
            if incoming.has_pressure:
                taken = [
                    self._reported[link_name(link)][1]
                    for link in incoming.config.links
                    if link.queue_policy == "backpressure" and link_name(link) in self._reported
                ]
                incoming.awaits_credit(min(taken, default=incoming.forwarded))
        if changed:
            self.say(Links(changed))


class ShortRoads:
    """Finds out that roads to a machine are made, and soon end, again and again.

    Neither "does not answer" nor "answers again" says that, as each lasts for a moment only.
    """

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()

    def note_end(self, machine: str, seconds: float) -> bool:
        """Note that a road has ended after some seconds; return whether it is time to say so."""
        if seconds >= _SHORT:
            del self._in_a_row[machine]
            return False
        self._in_a_row[machine] += 1
        return self._in_a_row[machine] == _IN_A_ROW


def _put(connection: RoadConnection, sending: Sending, entry: OutgoingMessage) -> None:
    message, size = entry.message, entry.size
    flags = ASKS_FOR_ACK if sending.outgoing.asks_for_ack(entry) else 0
    if message.owner is None:
        data: Any = message.head
    else:
        data = memoryview((ctypes.c_char * size).from_address(message.address)).cast("B")
    connection.put(DATA, sending.number, body=data, flags=flags, owner=message)
