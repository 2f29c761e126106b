"""A road: the connections with another machine, one for each class of priority, and what goes over them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from dora.gateway.connection import TEXT, RoadConnection
from dora.gateway.meeting import NewRoad
from dora.gateway.outgoing import CONTROL

if TYPE_CHECKING:
    from dora.gateway.ports import Incoming, Sending


class Offer(msgspec.Struct, tag=True, array_like=True):
    """The streams that a gateway sends: number and name, and the numbers of three messages.

    Up to the first one, none will be sent any more; up to the second one, the node's present process has
    sent none; up to the third one, none is in the latch.
    """

    streams: list[tuple[int, str, int, int, int]]


class Have(msgspec.Struct, tag=True, array_like=True):
    """The answer: name of a stream, and the number of the last message that this machine has."""

    streams: list[tuple[str, int]]


class Links(msgspec.Struct, tag=True, array_like=True):
    """The receivers of a machine: name of the link, state, number of the last message that it has taken."""

    links: list[tuple[str, int, int]]


_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Offer | Have | Links).decode


class Road:
    """The connections with another machine."""

    def __init__(self, made: NewRoad, room: Callable[[Road, int, int], Any]) -> None:
        self.machine = made.machine
        self.dialled_here = made.dialled_here
        self.connections = [
            RoadConnection(connection, lambda stream, size: room(self, stream, size))
            for connection in made.sockets
        ]
        self.began = self.heard = time.monotonic()
        self.next_ping = 0.0
        self.round_trip = 0.0
        self.streams: list[Sending] = []  # to there
        self.has_ranks = False  # some of them go before others
        self.offer = Offer([])  # the last one of the other side
        self.incoming: dict[int, Incoming] = {}  # by the number that the other side gives it
        self.acks: dict[int, int] = {}  # number of a stream → message, to be acknowledged
        self.ack_at = 0.0  # when that is due; 0: none is
        self.reported: dict[str, tuple[int, int]] = {}  # what the other side knows of links here
        self.is_open = True

    def use(self, streams: list[Sending]) -> None:
        """Send these of the streams that lead to this machine."""
        self.streams = [each for each in streams if each.config.machine == self.machine]
        self.has_ranks = len({each.outgoing.rank for each in self.streams}) > 1

    def say(self, content: Offer | Have | Links) -> None:
        self.connections[CONTROL].put(TEXT, body=_encode(content))

    def close(self) -> None:
        self.is_open = False
        for connection in self.connections:
            connection.close()
