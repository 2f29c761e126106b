"""The bypasses from this machine, see `dora.transport.bypass`: which outputs have one, and how they get it.

A node asks for the bypass of an output, if `dora.node.send.output` finds that it may have one. The side
that has dialled the road dials the connection as well, because the other one may not be able to. It proves
who it is like the connections of a road (`dora.gateway.meeting`). Then the node gets it, through the Unix
socket on which it has asked. When the node ends, so does that socket, and with it the bypass: the node may
have died in the middle of a frame.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from dora._ownership import is_own_peer
from dora.gateway.meeting import Meeting, NewBypass, accept_at, listen_at
from dora.gateway.outgoing import CONTROL, connection_of
from dora.gateway.ports import Sending
from dora.gateway.road import Road, WantBypass
from dora.transport.bypass import GRANT, REQUEST, socket_of

MOST_BYPASSES: Final = 64  # from and to another machine each: every one takes open files on both sides
NEAR: Final = 0.005  # seconds of a round trip: on a longer way, a bypass saves next to nothing
_ROOM: Final = 128 << 10  # bytes that the system holds, so that it takes whole frames
_AGAIN_AFTER: Final = 1.0  # seconds between two attempts; a connection of an earlier one is closed

Watch = Callable[[int, Callable[[], None] | None], None]


class Request:
    """A node that wants a bypass for one of its outputs, or has it."""

    def __init__(self, node: socket.socket) -> None:
        self.node = node
        self.slot = -1  # line of the output on the board, once the node has said it
        self.token = b""  # of the connection that is being made
        self.due = 0.0
        self.sending: Sending | None = None  # whose messages go over `bypass`
        self.bypass: socket.socket | None = None


class Bypasses:
    """All bypasses from one machine."""

    def __init__(
        self, machine: str, bell: str, meeting: Meeting, roads: dict[str, Road], watch: Watch
    ) -> None:
        """``machine``: this one. ``bell``: path of the gateway's doorbell.

        ``watch`` has a function called whenever a descriptor is readable; None: no more.
        """
        self._ours = machine.encode() + b"/"  # begins the tokens of bypasses from here
        self._meeting = meeting
        self._roads = roads
        self._watch = watch
        self._requests: list[Request] = []
        if meeting.remote.tls is not None:
            from dora.transport import sealing  # noqa: F401 - it takes 20 ms, too long between messages
        try:
            self._listener = listen_at(socket_of(bell))
        except OSError:
            return  # the path may be too long for a socket; all goes over roads then
        watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        while (node := accept_at(self._listener)) is not None:
            if not is_own_peer(node):
                node.close()
                continue
            node.setblocking(False)
            request = Request(node)
            self._requests.append(request)
            self._watch(node.fileno(), partial(self._read, request))

    def _read(self, request: Request) -> None:
        """Read what a node wants, or find out that it has ended."""
        try:
            data = request.node.recv(REQUEST.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if len(data) != REQUEST.size:
            self._forget(request)
            return
        (request.slot,) = REQUEST.unpack(data)
        for each in self._requests:
            if each is not request and each.slot == request.slot:
                self._forget(each)  # of a former process of the node
                break

    def tick(self, now: float, streams: list[Sending]) -> None:
        """Begin to make bypasses that are wanted, and end those that are not possible any more."""
        if not self._requests:
            return
        of_slot = {each.config.item.output_slot: each for each in streams}
        held = Counter(each.sending.config.machine for each in self._requests if each.sending is not None)
        for request in self._requests:
            sending = of_slot.get(request.slot)
            road = self._roads.get(sending.config.machine) if sending is not None else None
            if sending is None or road is None or not self._is_possible(sending, road):
                self._end(request)
            elif request.sending is None and held[road.machine] >= MOST_BYPASSES:
                continue
            elif request.bypass is None and now >= request.due:
                held[road.machine] += request.sending is None
                request.due = now + _AGAIN_AFTER
                request.sending, request.token = sending, self._ours + os.urandom(8)
                if road.dialled_here:
                    self._meeting.dial_bypass(road.machine, request.token)
                else:
                    road.say(WantBypass(request.token))

    def _is_possible(self, sending: Sending, road: Road) -> bool:
        outgoing, priority = sending.outgoing, sending.config.priority
        return (
            len(sending.of_output) == 1
            and outgoing.is_open
            and connection_of(priority, 0) == CONTROL
            # Otherwise it has to wait while outputs of a higher priority send.
            and outgoing.rank == min(each.outgoing.rank for each in road.streams)
            and 0 < road.round_trip < NEAR
        )

    def adopt(self, made: NewBypass) -> bool:
        """Give a connection to the node for which it was made; return False if it is a bypass to here."""
        if not made.token.startswith(self._ours):
            return False
        for request in self._requests:
            if request.token == made.token and request.sending is not None:
                self._grant(request, request.sending, made)
                return True
        made.socket.close()  # the node has ended meanwhile, or the road
        return True

    def _grant(self, request: Request, sending: Sending, made: NewBypass) -> None:
        request.token, bypass = b"", made.socket
        bypass.setblocking(False)
        bypass.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        number = time.monotonic_ns()
        try:
            grant = GRANT.pack(number, sending.number, bool(made.key), made.key)
            socket.send_fds(request.node, [grant], [bypass.fileno()])
        except OSError:
            bypass.close()  # the node has just ended
            return
        request.bypass = bypass
        self._watch(bypass.fileno(), partial(self._end, request))  # nothing comes on it but its end
        # After the connection was sent: this changes the word by which the node knows that it is there.
        sending.open_bypass(number)

    def end(self, streams: Collection[Sending]) -> None:
        """End the bypasses of these streams."""
        for request in self._requests:
            if request.sending in streams:
                self._end(request)

    def _end(self, request: Request) -> None:
        bypass, sending = request.bypass, request.sending
        request.bypass, request.sending, request.token = None, None, b""
        if bypass is None or sending is None:
            return
        self._watch(bypass.fileno(), None)
        try:
            # The node has the connection, too. Its next messages fail, and the ones before are in
            # the queue.
            bypass.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended already
            pass
        bypass.close()
        sending.close_bypass()  # after the shutdown: nothing more can go on it unnoticed

    def _forget(self, request: Request) -> None:
        self._end(request)
        self._watch(request.node.fileno(), None)
        request.node.close()
        self._requests.remove(request)
