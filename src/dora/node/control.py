"""The node's end of the control socket."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Iterator
from typing import Protocol

from dora.errors import ConnectError, DaemonLost
from dora.transport.ownership import connect_own
from dora.wire.control import (
    FrameBuffer,
    FrameError,
    ToDaemon,
    ToNode,
    decode_to_node,
    encode_frame,
)
from dora.wire.decoders import DecodeError

_log = logging.getLogger("dora.node")


class DaemonChannel(Protocol):
    """A connection to the daemon, or what stands in for it."""

    lost: bool

    def fileno(self) -> int: ...
    def send(self, message: ToDaemon) -> None: ...
    def wait(self) -> ToNode: ...
    def read(self) -> Iterator[ToNode]: ...
    def is_readable(self) -> bool: ...
    def close(self) -> None: ...


class SocketChannel:
    """A connection to the daemon. Requests block briefly; frames are read without blocking."""

    def __init__(self, path: str) -> None:
        """Connect; raises `ConnectError`, `UnsafeFile` if the socket is not this user's."""
        self._frames = FrameBuffer()
        self.lost = False
        try:
            self._socket = connect_own(path)
        except OSError as error:
            raise ConnectError(f"the daemon cannot be reached at {path}: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: ToDaemon) -> None:
        """Send a frame; raises `DaemonLost`."""
        try:
            self._socket.sendall(encode_frame(message))
        except OSError as error:
            self.lost = True
            raise DaemonLost("the daemon is gone") from error

    def wait(self) -> ToNode:
        """Block for the next frame; raises `DaemonLost`."""
        while True:
            for message in self._decoded():
                return message
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                self.lost = True
                raise DaemonLost("the daemon is gone") from error
            if not data:
                self.lost = True
                raise DaemonLost("the daemon closed the connection")
            self._frames.feed(data)

    def read(self) -> Iterator[ToNode]:
        """Yield the frames that are there; sets ``lost`` at the end of the connection."""
        while not self.lost:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.lost = True
                break
            self._frames.feed(data)
        try:
            yield from self._decoded()
        except DaemonLost as error:
            _log.error("%s", error)

    def _decoded(self) -> Iterator[ToNode]:
        """Yield the frames that are complete; raises `DaemonLost` for what is none of a daemon's."""
        try:
            for body in self._frames:
                yield decode_to_node(body)
        except (FrameError, DecodeError) as error:
            self.lost = True
            raise DaemonLost(
                f"the daemon sent what is no frame of this version of dora ({error}); the connection to it "
                "is given up"
            ) from error

    def is_readable(self) -> bool:
        """Tell whether the daemon has said something (or is gone) that was not read yet."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._socket.close()
