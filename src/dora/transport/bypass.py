"""A bypass: a connection on which a node itself sends single messages to another machine.

Without it, four processes take turns on the way: node, gateway, gateway, node. A process that has slept
takes 50 to 100 µs for its turn. So the gateway of the node gives it a connection to the other gateway.

A message on a bypass is in the queue of the gateway here as well. When the bypass ends, the gateway sends
all messages again that the other side has not acknowledged. The other side takes the next message only, so
none comes twice or out of order. For that, two rules hold:

* The node sends a message on the bypass if the one before went there too, or has arrived. All others are
  for the gateway.
* The gateway sends nothing of the output while a message on the bypass is not acknowledged.

The connection comes through a Unix socket of the gateway. When it is there, the word ``BYPASS`` of the
output on the board changes, so a message costs no look at the socket.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dora._ownership import UnsafeFile, connect_own
from dora.transport.board import BYPASS, BYPASSED, FORWARDED, WORDS
from dora.transport.forking import disown_after_fork
from dora.wire.gateway_frame import ASKS_FOR_ACK, DATA, HEADER

if TYPE_CHECKING:
    from dora.transport.sealing import Sealer
    from dora.wire.node_config import LinkConfig

# A message in flight cannot be dropped any more for a newer one. So there are at most 64 KiB of small ones,
# as much as a gateway may always have in flight, or one that is larger.
SMALL: Final = 4096  # bytes
MOST: Final = 16  # small messages in flight; more come at a rate at which the gateway sends many at once
LARGEST: Final = 96 << 10  # bytes of a message; the system has to take all of it at once
_AFTER_BURST: Final = 128  # messages that the gateway gets after one that had no room here
REQUEST: Final = struct.Struct("<Q")  # line of the output on the board
# Value of ``BYPASS``, number of the stream, whether it is encrypted, the key; with it, the connection.
GRANT: Final = struct.Struct("<QH?32s")
_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # a program may want to end with a SIGPIPE
# A gateway remembers a request while the node's socket is open. Further ones are for a gateway that was
# restarted, so they may come more and more seldom: each costs system calls between two messages.
_FIRST_PAUSE: Final = 32  # messages until a node asks for a bypass, doubled each time up to the longest
_LONGEST_PAUSE: Final = 8192


def socket_of(bell: str) -> str:
    """Return the path of the socket at which the gateway with this doorbell gives out bypasses.

    >>> socket_of("/run/bell-3")
    '/run/bell-3.bypasses'
    """
    return f"{bell}.bypasses"


def _sealer(key: bytes) -> Sealer:
    from dora.transport.sealing import Sealer

    return Sealer(key)


class Bypass:
    """The node's end of the bypass of one output. Not safe for several threads."""

    def __init__(self, link: LinkConfig, slot: int, words: memoryview) -> None:
        """``link``: one to the other machine. ``slot``: line of the output on the board."""
        if link.is_encrypted:
            from dora.transport import sealing  # noqa: F401 - it takes 20 ms, too long between messages
        self._path = socket_of(link.bell)
        self._slot = slot
        self._words = words
        self._bypass_word = slot * WORDS + BYPASS
        self._bypassed_word = slot * WORDS + BYPASSED
        self._forwarded_word = slot * WORDS + FORWARDED
        self._number = 0  # value of ``BYPASS`` when it was read last
        self._gateway: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._sealer: Sealer | None = None
        self._stream = 0
        self._last = 0  # the last message that was sent on it
        self._next = 0  # the first one that may be sent again on it, unless it follows the last one
        self._pause = self._until_request = _FIRST_PAUSE
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave the connections to the parent, in a forked child process: they end with the parent's."""
        self._close_gateway()
        self._close()

    def send(self, sequence: int, message: bytes | memoryview) -> bool:
        """Send a message that is in the queue of the gateway; return whether it is on its way."""
        words, size = self._words, len(message)
        if size > LARGEST:
            return False
        if words[self._bypass_word] != self._number:
            self._take_connection()
        connection = self._connection
        if connection is None:
            self._count_down()
            return False
        in_flight = sequence - words[self._forwarded_word]
        if size > SMALL:
            if in_flight > 1:
                return False
            flags = ASKS_FOR_ACK  # the next one waits for that
        else:
            if in_flight > MOST:
                self._next = sequence + _AFTER_BURST
                return False
            if sequence != self._last + 1 and (in_flight > 1 or sequence < self._next):
                return False
            flags = ASKS_FOR_ACK if in_flight > MOST // 2 else 0
        header, sealer = HEADER.pack(DATA, flags, self._stream, size), self._sealer
        if sealer is None:
            frame: tuple[bytes, bytes | memoryview] = (header, message)
        else:
            frame = sealer.seal(header, message)
            # Before it is sent: the exception of a signal handler may come right after that, and a number
            # that is used twice reveals what it encrypts.
            sealer.number += 1
        try:
            # The socket does not block. It takes the whole frame or nothing as long as it has room.
            written = connection.sendmsg(frame, (), _NO_SIGNAL)
        except BlockingIOError:
            if sealer is not None:
                sealer.number -= 1  # nothing was sent
            return False
        except OSError:
            written = 0
        if written != len(frame[0]) + len(frame[1]):
            self._end()  # the gateway finds out, and sends the message
            return False
        # After it was sent: what a killed node has not sent is not in this word, and goes on the road.
        self._last = words[self._bypassed_word] = sequence
        return True

    def _count_down(self) -> None:
        """Ask the gateway for a bypass now and then: it may not be there, or may be a new one."""
        self._until_request -= 1
        if self._until_request:
            return
        self._pause = self._until_request = min(self._pause * 2, _LONGEST_PAUSE)
        self._close_gateway()
        try:
            self._gateway = connect_own(self._path, 0.0)  # without waiting: this is part of a send
            self._gateway.send(REQUEST.pack(self._slot))
        except (OSError, UnsafeFile):
            pass  # there is none, or it gives out no bypasses

    def _take_connection(self) -> None:
        """Use the connection that the gateway has sent, or no more the one that it has ended."""
        self._end()
        self._number = self._words[self._bypass_word]
        while self._number and self._gateway is not None:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._gateway, GRANT.size, 1)
            except OSError:  # the gateway has ended, or its grant went to a socket that was closed since
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)  # not for programs that the node starts
                connection = socket.socket(fileno=descriptor)
                number, stream, is_encrypted, key = GRANT.unpack(data)
                if number == self._number:
                    self._connection, self._stream = connection, stream
                    self._sealer = _sealer(key) if is_encrypted else None
                    self._last = 0
                    self._pause = self._until_request = _FIRST_PAUSE
                    return
                connection.close()  # of an earlier grant, whose bypass has ended meanwhile
            if not data:
                return

    def _end(self) -> None:
        """Stop to use the connection; the other side finds that out."""
        if self._connection is not None:
            try:
                self._connection.shutdown(socket.SHUT_RDWR)  # half a frame may be on it
            except OSError:  # it has ended already
                pass
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _close_gateway(self) -> None:
        if self._gateway is not None:
            self._gateway.close()
            self._gateway = None

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # the end of the process closes files; the gateway ends the bypass then
            self._close_gateway()
            self._close()
