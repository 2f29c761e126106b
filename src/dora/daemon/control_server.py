"""The daemon's control socket, the connections on it, and which of them are nodes."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator

from dora._ownership import is_own_peer, peer_of
from dora.daemon.event_loop import READ, WRITE, Loop, Timer
from dora.daemon.logs.entry import WriteLog
from dora.dataflow.model import LogLevel
from dora.transport.open_files import NO_FREE_FILE
from dora.wire.daemon_protocol import Answer, Request, decode_to_daemon
from dora.wire.decoders import DecodeError
from dora.wire.framing import FrameBuffer, FrameError, encode_frame
from dora.wire.node_protocol import ToDaemon, ToNode

# Frames from nodes are small, and from commands at most a whole dataflow; a peer that claims more than
# this is neither.
_MAX_INCOMING = 16 << 20
# Nodes that connect while the daemon starts others; the kernel's own limit is 4,096 as well (somaxconn).
_BACKLOG = 4096
_RETRY_AFTER = 1.0  # seconds without accepting anybody, once no descriptor is free
TEXT_BUFFER = 1 << 20  # bytes of lines that may wait for a node which does not read them; more are dropped


class Connection:
    """A peer on the control socket. Never blocks; frames that the peer does not take yet are kept.

    ``on_written`` is called after every write that reached the peer's socket, so that its doorbell
    can be rung then and not before.
    """

    def __init__(
        self,
        loop: Loop,
        peer: socket.socket,
        number: int,
        on_message: Callable[[Connection, ToDaemon | Request], None],
        on_closed: Callable[[Connection], None],
        write_log: WriteLog,
    ) -> None:
        self.number = number
        self.node_id = ""  # set once admitted
        self.pid = 0
        self.incarnation = 0  # number of the node's process
        self.on_written: Callable[[], None] | None = None
        self._loop = loop
        self._socket = peer
        self._frames = FrameBuffer(_MAX_INCOMING)
        self._outgoing = bytearray()
        self._on_message = on_message
        self._on_closed = on_closed
        self._write_log = write_log
        self.open = True
        peer.setblocking(False)
        loop.watch(peer.fileno(), READ, self._ready)

    def send(self, message: ToNode | Answer) -> None:
        """Send a frame, now or as soon as the peer reads; to a closed connection it is lost."""
        if self.open:
            # Without a limit, unlike `send_text`: no frame is sent twice, so none may be lost.
            self._outgoing += encode_frame(message)
            self._write()

    def send_text(self, message: ToNode) -> bool:
        """Send a frame unless `TEXT_BUFFER` bytes wait already; return whether it was sent."""
        if not self.open or len(self._outgoing) > TEXT_BUFFER:
            return False
        self.send(message)
        return True

    def read_rest(self) -> None:
        """Handle everything that has arrived."""
        while self.open and self._read():
            pass

    def close(self) -> None:
        """Close without telling ``on_closed``."""
        if self.open:
            self.open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if events & READ and self.open:
            self._read()  # once: a peer that writes without a pause must not hold up the others

    def _read(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lost()
            return False
        self._frames.feed(data)
        try:
            for body in self._frames:
                self._handle(decode_to_daemon(body))
                if not self.open:
                    return False
        except (FrameError, DecodeError) as error:
            self._refuse("warn", f"it sent a frame that this version of dora does not know: {error}")
            return False
        return True

    def _handle(self, message: ToDaemon | Request) -> None:
        """Handle a message. An error closes the connection of this peer only: the run goes on."""
        try:
            self._on_message(self, message)
        except Exception as error:  # noqa: BLE001 - no error may affect other nodes
            kind = type(message).__name__
            self._refuse("error", f"its {kind} cannot be handled: {type(error).__name__}: {error}")

    def _refuse(self, level: LogLevel, reason: str) -> None:
        """Close the connection, and log its peer and the reason."""
        if self.open:
            who = f"node `{self.node_id}`" if self.node_id else f"process {_process_of(self._socket)}"
            self._write_log(level, None, f"the connection of {who} was closed: {reason}")
            self._lost()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The peer is gone; what it wrote before can still be read, up to end-of-file.
            self._outgoing.clear()
            self._loop.watch(self._socket.fileno(), READ, self._ready)
            return
        if sent:
            del self._outgoing[:sent]
            if self.on_written is not None:
                self.on_written()
        events = READ | WRITE if self._outgoing else READ
        self._loop.watch(self._socket.fileno(), events, self._ready)

    def _lost(self) -> None:
        if self.open:
            self.close()
            self._on_closed(self)


class ControlServer:
    """Listens on the run's socket and makes a `Connection` of every peer of the same user."""

    def __init__(
        self,
        loop: Loop,
        path: str,
        on_message: Callable[[Connection, ToDaemon | Request], None],
        on_closed: Callable[[Connection], None],
        write_log: WriteLog,
    ) -> None:
        self._loop = loop
        self._write_log = write_log
        self._on_message = on_message
        self._on_closed = on_closed
        self._number = 0
        self.connections: dict[int, Connection] = {}
        self._retry: Timer | None = None
        self._is_full = False  # no descriptor was free at the last attempt
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        os.chmod(path, 0o600)  # before `listen`: until then nobody can connect
        self._socket.listen(_BACKLOG)
        self._socket.setblocking(False)
        self._watch()

    def _watch(self) -> None:
        self._loop.watch(self._socket.fileno(), READ, lambda _: self._accept())

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    return  # the peer has gone
                if error.errno in NO_FREE_FILE:
                    self._wait_for_descriptors(error)
                    return
                raise
            self._is_full = False
            if not is_own_peer(peer):
                peer.close()
                continue
            self._number += 1
            self.connections[self._number] = Connection(
                self._loop, peer, self._number, self._on_message, self._forget, self._write_log
            )

    def _wait_for_descriptors(self, error: OSError) -> None:
        """Look away for a moment: a socket with a peer that nobody accepts would wake the loop at once."""
        self._loop.unwatch(self._socket.fileno())
        self._retry = self._loop.call_later(_RETRY_AFTER, self._watch)
        if not self._is_full:
            self._is_full = True
            self._write_log("warn", None, f"nodes and commands that connect have to wait: {error.strerror}")

    def _forget(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        self._on_closed(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection without telling ``on_closed``."""
        self.connections.pop(connection.number, None)
        connection.close()

    def close(self) -> None:
        """Close the socket and every connection."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()


class NodeTable:
    """Node → its connection, from its admission until the connection is lost.

    `dora.daemon.node_connections` adds and removes; everything else sends, or looks a connection up.
    """

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._connections)

    def get(self, node_id: str) -> Connection | None:
        """Return the connection of a node, None if it is not connected."""
        return self._connections.get(node_id)

    def send(self, node_id: str, message: ToNode) -> bool:
        """Send a frame to a node; return False if it is not connected."""
        if (connection := self._connections.get(node_id)) is None:
            return False
        connection.send(message)
        return True

    def add(self, node_id: str, connection: Connection) -> None:
        """Give a node this connection, instead of any other."""
        self._connections[node_id] = connection

    def remove(self, node_id: str) -> bool:
        """Forget the connection of a node; return whether it had one."""
        return self._connections.pop(node_id, None) is not None


def _process_of(peer: socket.socket) -> int | str:
    """Return the id of the process at the other end, for a message."""
    return peer_of(peer)[0] if sys.platform == "linux" else "of this user"
