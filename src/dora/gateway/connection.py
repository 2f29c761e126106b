"""One connection of a road: frames on a TCP socket, without a thread and without waiting.

A frame is a header and perhaps a body. The body of a large message is received where its receivers read
it, in shared memory, and sent from there.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from dora.wire.gateway_frame import DATA, HAS_BODY, HEADER

LARGE: Final = 32 << 10  # bytes: such a body is not copied
_BUFFER: Final = 128 << 10  # bytes that are received at once
_AFTER_LARGE: Final = 2048  # the same after a large body: another one would be copied out of the buffer
_CHUNK: Final = (1 << 20) + (64 << 10)  # bytes given to the system at once: a picture with its head
_MOST: Final = 4 << 40  # bytes; a longer message is damaged
_LONGEST_TEXT: Final = 16 << 20  # bytes; the same for reports, which are kept in memory of this process
# What the system has taken cannot be dropped any more for newer messages, nor overtaken.
_NOT_SENT: Final = 128 << 10  # bytes that the system holds beyond what the network carries
_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
# Seconds until the first question whether the other side is there, and between further ones; how many.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
# Bytes that may wait for a system call. Several messages in one call cost less; but while the network is
# slower than the messages come, those that wait here cannot be dropped any more for newer ones.
_BATCH: Final = 256 << 10
_BATCH_OF_SLOW: Final = 64 << 10
_MOST_VIEWS: Final = 64  # pieces that are given to the system at once
_CLOSED_THERE: Final = (ConnectionResetError, BrokenPipeError)
_WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Frame = tuple[int, int, int, int, Any]
"""Kind, flags, stream, number, body: bytes, or the loan that `RoadConnection.read` got for it."""


class ConnectionEnded(Exception):
    """The connection has ended. ``closed_there``: the other side closed it; the network is not cut."""

    def __init__(self, reason: str, *, closed_there: bool = False) -> None:
        super().__init__(reason)
        self.closed_there = closed_there


class RoadConnection:
    """One connection. ``room`` returns memory for a large body: an object with ``memory``."""

    def __init__(self, connection: socket.socket, room: Callable[[int, int], Any]) -> None:
        self.socket = connection
        self.polls_out = False  # the gateway waits until it takes more
        self.waiting = 0  # bytes that the system has not taken yet
        self.written = 0  # bytes that it has taken
        self._batch = _BATCH_OF_SLOW
        self._room = room
        self._is_encrypted = type(connection) is not socket.socket  # it may hold bytes that nobody has read
        self._out: deque[tuple[memoryview, Any]] = deque()  # what to write, and what keeps its memory
        self._tail = bytearray()  # small frames behind that
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._at_once = _BUFFER
        self._large: tuple[Any, Any, memoryview, int] | None = None  # header, loan, what is missing

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def is_filled(self) -> bool:
        """Whether so much waits that it is to be written before more is added."""
        return self.waiting >= self._batch

    def put(
        self,
        kind: int,
        stream: int = 0,
        number: int = 0,
        body: Any = b"",
        *,
        flags: int = 0,
        owner: Any = None,
    ) -> None:
        """Add a frame to what is to be written. ``owner`` keeps the memory of a body."""
        size = len(body)
        self._tail += HEADER.pack(kind, flags, stream, size if kind in HAS_BODY else number)
        if size >= LARGE:
            self._out.append((memoryview(self._tail), None))
            self._out.append((memoryview(body), owner))
            self._tail = bytearray()
        elif size:
            self._tail += body
        self.waiting += HEADER.size + size

    def flush(self) -> bool:
        """Write what the system takes; return whether that is everything. Raises `ConnectionEnded`."""
        out = self._out
        try:
            while out or self._tail:
                if self._tail:
                    out.append((memoryview(self._tail), None))
                    self._tail = bytearray()
                self._advance(self._send())
        except _WOULD_BLOCK:
            self._batch = _BATCH_OF_SLOW
            return False
        except (OSError, ValueError) as error:
            raise self._ended(error) from error
        self._batch = _BATCH
        return True

    def _send(self) -> int:
        """Write some of what waits; return how many bytes."""
        out = self._out
        if len(out) == 1 or self._is_encrypted:  # a connection with TLS has no `sendmsg`
            view = out[0][0]
            return self.socket.send(view[:_CHUNK] if len(view) > _CHUNK else view)
        views, size = [], 0  # a header goes with its body
        for view, _ in out:
            views.append(view[: _CHUNK - size])
            size += len(views[-1])
            if size == _CHUNK or len(views) == _MOST_VIEWS:
                break
        return self.socket.sendmsg(views)

    def _advance(self, count: int) -> None:
        """Forget bytes that the system has taken."""
        out = self._out
        self.waiting -= count
        self.written += count
        while count:
            view, owner = out[0]
            if count < len(view):
                out[0] = view[count:], owner
                return
            count -= len(view)
            out.popleft()

    def read(self) -> Iterator[Frame]:
        """Yield the frames that are there; raises `ConnectionEnded`."""
        view = self._view
        is_drained = False  # the system has no more, as far as a connection without TLS can tell
        while True:
            while (frame := self._next()) is not None:
                yield frame
            if is_drained:
                return
            if self._large is None:
                if self._begin:
                    rest = self._end - self._begin
                    view[:rest] = bytes(view[self._begin : self._end])
                    self._begin, self._end = 0, rest
                target = view[self._end : self._end + self._at_once]
            else:
                target = self._large[2]
            try:
                count = self.socket.recv_into(target)
            except _WOULD_BLOCK:
                return
            except (OSError, ValueError) as error:
                raise self._ended(error) from error
            if not count:
                raise ConnectionEnded("the other machine has closed it", closed_there=True)
            if self._large is None:
                self._end += count
            else:
                head, loan, missing, size = self._large
                self._large = head, loan, missing[count:], size
            is_drained = count < len(target) and not self._is_encrypted

    def _next(self) -> Frame | None:
        if (large := self._large) is not None:
            (kind, flags, stream), loan, missing, size = large
            if len(missing):
                return None
            self._large = None
            return kind, flags, stream, size, loan
        there = self._end - self._begin
        if there < HEADER.size:
            return None
        kind, flags, stream, number = HEADER.unpack_from(self._buffer, self._begin)
        begin = self._begin + HEADER.size
        if kind not in HAS_BODY:
            self._begin = begin
            return kind, flags, stream, number, b""
        there -= HEADER.size
        if number <= there:
            self._begin = begin + number
            self._at_once = _BUFFER
            return kind, flags, stream, number, bytes(self._view[begin : self._begin])
        if number <= LARGE:
            return None
        if number > (_MOST if kind == DATA else _LONGEST_TEXT):
            raise ConnectionEnded("a frame is damaged")
        loan = self._room(stream if kind == DATA else -1, number)
        memory = loan.memory[:number]
        memory[:there] = self._view[begin : self._end]
        self._begin = self._end = 0
        self._large = (kind, flags, stream), loan, memory[there:], number
        self._at_once = _AFTER_LARGE
        return self._next()

    def _ended(self, error: Exception) -> ConnectionEnded:
        if self._is_encrypted:
            from dora.transport.tls import discard_errors

            discard_errors()  # else this thread would lose its other connections, too
        return ConnectionEnded(str(error), closed_there=isinstance(error, _CLOSED_THERE))

    def close(self) -> None:
        """Close the connection, and give back the memory for a message that has not arrived."""
        if self._large is not None:
            loan, self._large = self._large[1], None
            loan.discard()
        self._out.clear()
        self._tail = bytearray()
        try:
            self.socket.close()
        except OSError:
            pass


def prepare_socket(
    connection: socket.socket, *, may_wait: bool = False, dscp: int = 0, patience: float = 0
) -> None:
    """Set the options of a connection between gateways.

    ``may_wait``: others go first, so the system gets little at a time. ``dscp`` marks its packets.
    ``patience``: seconds for which sent bytes may not be acknowledged; 0: as long as the system waits.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A router forgets a connection on which nothing is sent, without a word to either end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": int(patience * 1000)}.items():
        if value and (option := getattr(socket, name, None)) is not None:  # not on macOS
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    if may_wait:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOT_SENT)
        except OSError:
            pass  # the system decides how much it takes
    if dscp:
        mark = dscp << 2
        if connection.family == socket.AF_INET6:
            connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, mark)
        else:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, mark)
