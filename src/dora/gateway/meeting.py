"""How two gateways meet: both dial, and prove that they know the secret of the dataflow.

The daemon of a machine listens for all of its gateways. A connection begins with the id of the dataflow.
By that the daemon finds the gateway, and passes the connection to it through a Unix socket
(`dora.cluster.agent.link_port`).

Then comes, in TLS if there are certificates, a *greeting* of the side that dialled: the names of the
dataflow, of its machine and of the road, and the number of the connection. Both sides then answer a random
challenge of the other one with the secret, which therefore never crosses the network. A road is complete
with all of its connections.

A node would need the state of TLS to send on a bypass. So both sides end TLS there, after the side that has
dialled has sent a key (`dora.transport.sealing`).

All of this waits for the other side, so it happens in threads that end soon.
"""

from __future__ import annotations

import hmac
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from dora._ownership import is_own_peer
from dora.errors import DoraError
from dora.gateway.connection import prepare_socket
from dora.gateway.outgoing import BULK, CONNECTIONS, CONTROL
from dora.transport.open_files import NO_FREE_FILE
from dora.transport.tls import is_certified_as, link_contexts
from dora.wire.decoders import DecodeError, msgpack_decoder
from dora.wire.node_config import RemoteConfig

DIAL_EVERY: Final = 0.5  # seconds; the system itself repeats a lost first packet after 1, 3 and 7 s
DIAL_AGAIN_AFTER: Final = 0.1  # seconds, if the other machine has refused: its gateway may be starting
_BYPASS_PATIENCE: Final = 3.0  # seconds, as long as a road may be silent
_DIAL_TIMEOUT: Final = 3.0  # seconds of one attempt; the next ones begin meanwhile
_GREETING_TIMEOUT: Final = 3.0  # seconds for an answer; a stranger that gives none would hold a place below
_MOST_GREETINGS: Final = 64  # connections at a time that have not proved who they are; each has a thread
_NONCE: Final = 16
_KEY: Final = 32  # bytes
BYPASS: Final = CONNECTIONS  # the number of a connection that is a bypass, and belongs to no road
_SIZE: Final = struct.Struct("<H")
_LONGEST: Final = 2048  # bytes of a greeting


class Greeting(msgspec.Struct, array_like=True):
    """The first words of the side that dials."""

    dataflow: str
    machine: str
    name: bytes  # of the road, or the token of a bypass
    number: int  # of the connection in its road
    challenge: bytes


_decode_greeting = msgpack_decoder(Greeting)


class NewRoad(NamedTuple):
    """The connections of a road, and which side has dialled."""

    machine: str
    dialled_here: bool
    sockets: list[socket.socket]


class NewBypass(NamedTuple):
    """A connection for the messages of one output, see `dora.transport.bypass`."""

    machine: str
    token: bytes  # that the machine of the output has chosen
    socket: socket.socket
    key: bytes = b""  # for `dora.transport.sealing`; empty without certificates


class Meeting:
    """Dials for one gateway, and greets those who have dialled; ``on_made`` is called in any thread."""

    def __init__(
        self,
        dataflow: str,
        machine: str,
        remote: RemoteConfig,
        path: str,
        on_made: Callable[[NewRoad | NewBypass], None],
    ) -> None:
        """``path``: of the socket for connections to here. Raises `DoraError`, ``OSError``."""
        self._dataflow = dataflow
        self._machine = machine
        self.remote = remote
        self._on_made = on_made
        self._secret = remote.secret.encode()
        self._server_tls, self._client_tls = _contexts(remote)
        self._begun: dict[tuple[str, bytes], dict[int, socket.socket]] = {}  # incomplete roads
        # The thread of the gateway, and each thread that greets or dials, change `_begun`, `_greetings` and
        # `_dialling`. Without it, two connections that come at once might both complete a road.
        self._lock = threading.Lock()
        self._greetings = 0
        self._dialling: dict[str, float] = {}  # machine → when the last attempt began, unless it has failed
        self.last_fault: dict[str, str] = {}  # machine → why the last attempt to dial it failed
        self.listener = listen_at(path)

    # ------------------------------------------------------------------ greeting

    def accept(self) -> None:
        """Greet those who have dialled, each in a thread; raises as `accept_at`."""
        while (passage := accept_at(self.listener)) is not None:
            with self._lock:
                self._greetings += 1
                is_full = self._greetings > _MOST_GREETINGS
            if is_full:
                self._end_greeting(passage)  # which closes the connection in it
            else:
                _in_thread("dora greeting", self._greet, passage)

    def _end_greeting(self, connection: socket.socket | None) -> None:
        with self._lock:
            self._greetings -= 1
        if connection is not None:
            connection.close()

    def _greet(self, passage: socket.socket) -> None:
        """Find out who has dialled, and keep the connection if the other side proves it."""
        connection = None
        try:
            connection = _passed_through(passage)
            connection.settimeout(_GREETING_TIMEOUT)
            if self._server_tls is not None:
                connection = self._server_tls.wrap_socket(connection, server_side=True)
            greeting = _decode_greeting(_receive(connection))
            if greeting.dataflow != self._dataflow or not 0 <= greeting.number <= BYPASS:
                raise ValueError("it is for another dataflow")
            _check_certificate(connection, greeting.machine)
            challenge = os.urandom(_NONCE)
            _send(connection, challenge + self._proof(b"listener", greeting, challenge))
            if not hmac.compare_digest(_receive(connection), self._proof(b"dialler", greeting, challenge)):
                raise ValueError("it does not know the secret")
            _send(connection, b"welcome")
            key = b""
            if greeting.number == BYPASS and isinstance(connection, ssl.SSLSocket):
                key = _receive(connection)
                if len(key) != _KEY:  # an empty one would mean that nothing is encrypted
                    raise ValueError("it is no key")
                connection = _end_tls(connection)
            prepare_socket(connection, **self._options(greeting.number))
        except (OSError, ValueError, DecodeError):  # a stranger; a gateway that belongs here dials again
            self._end_greeting(connection)
            return
        self._end_greeting(None)
        if greeting.number == BYPASS:
            self._on_made(NewBypass(greeting.machine, greeting.name, connection, key))
        else:
            self._keep(greeting, connection)

    def _keep(self, greeting: Greeting, connection: socket.socket) -> None:
        key = greeting.machine, greeting.name
        with self._lock:
            connections = self._begun.setdefault(key, {})
            connections[greeting.number] = connection
            if len(connections) < CONNECTIONS:
                self._forget_old(key)
                return
            del self._begun[key]
        sockets = [connections[number] for number in range(CONNECTIONS)]
        self._on_made(NewRoad(greeting.machine, False, sockets))

    def _forget_old(self, newest: tuple[str, bytes]) -> None:
        """Close the connections of roads that were given up; the lock has to be held."""
        former = [key for key in self._begun if key[0] == newest[0] and key != newest]
        for key in former[:-4]:  # attempts overlap
            for connection in self._begun.pop(key).values():
                connection.close()

    # ------------------------------------------------------------------ dialling

    def dial(self, machine: str) -> None:
        """Try to make a road to a machine, in a thread that ends soon."""
        if address := self.remote.reach.get(machine):
            now = time.monotonic()
            with self._lock:
                if now - self._dialling.get(machine, 0.0) < DIAL_EVERY:
                    return  # the last attempt may succeed yet
                self._dialling[machine] = now
            _in_thread("dora dialling", self._dial, machine, address, now)

    def _dial(self, machine: str, address: str, began: float) -> None:
        try:
            sockets = self._connect(machine, address, os.urandom(8), range(CONNECTIONS))
        except (OSError, ValueError) as error:
            self.last_fault[machine] = str(error)
            with self._lock:
                if self._dialling.get(machine) == began:  # else a later attempt has begun
                    del self._dialling[machine]
            return
        self._on_made(NewRoad(machine, True, sockets))

    def dial_bypass(self, machine: str, token: bytes) -> None:
        """Try to make a bypass from or to a machine; this side has dialled the road to it."""
        if address := self.remote.reach.get(machine):
            _in_thread("dora dialling", self._dial_bypass, machine, address, token)

    def _dial_bypass(self, machine: str, address: str, token: bytes) -> None:
        connection, key = None, b""
        try:
            (connection,) = self._connect(machine, address, token, (BYPASS,))
            if isinstance(connection, ssl.SSLSocket):
                key = os.urandom(_KEY)
                _send(connection, key)
                connection = _end_tls(connection)
        except (OSError, ValueError):
            if connection is not None:
                connection.close()
            return  # the side that wants it asks again
        self._on_made(NewBypass(machine, token, connection, key))

    def _connect(
        self, machine: str, address: str, name: bytes, numbers: Iterable[int]
    ) -> list[socket.socket]:
        """Make the connections of a road, or a bypass, of this name; raises ``OSError``, ``ValueError``."""
        sockets: list[socket.socket] = []
        deadline = time.monotonic() + _DIAL_TIMEOUT
        host, port = split_address(address)
        try:
            for number in numbers:
                connection = socket.create_connection((host, port), max(deadline - time.monotonic(), 0.1))
                sockets.append(connection)
                prepare_socket(connection, **self._options(number))
                # Before TLS: the daemon there reads it, and passes on the rest unread.
                connection.sendall(self._dataflow.encode())
                if self._client_tls is not None:
                    connection = sockets[-1] = self._client_tls.wrap_socket(connection)
                    _check_certificate(connection, machine)
                self._introduce(connection, name, number)
        except (OSError, ValueError):
            for connection in sockets:
                connection.close()
            raise
        return sockets

    def _options(self, number: int) -> dict[str, Any]:
        dscp = self.remote.dscp if number in (CONTROL, BYPASS) else 0
        # Pings find out whether a road is cut. On a bypass there are none, and its output waits for it.
        patience = _BYPASS_PATIENCE if number == BYPASS else 0
        return {"may_wait": number == BULK, "dscp": dscp, "patience": patience}

    def _introduce(self, connection: socket.socket, road: bytes, number: int) -> None:
        """Say who dials, and prove it; raises ``OSError``, ``ValueError``."""
        greeting = Greeting(self._dataflow, self._machine, road, number, os.urandom(_NONCE))
        _send(connection, msgspec.msgpack.encode(greeting))
        answer = _receive(connection)
        challenge, proof = answer[:_NONCE], answer[_NONCE:]
        if not hmac.compare_digest(proof, self._proof(b"listener", greeting, challenge)):
            raise ValueError("it does not know the secret of the dataflow")
        _send(connection, self._proof(b"dialler", greeting, challenge))
        if _receive(connection) != b"welcome":
            raise ValueError("it refuses this machine")

    def _proof(self, side: bytes, greeting: Greeting, challenge: bytes) -> bytes:
        content = msgspec.msgpack.encode([side, greeting, challenge])
        return hmac.digest(self._secret, content, "sha256")

    def close(self) -> None:
        self.listener.close()


def _contexts(remote: RemoteConfig) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Return the TLS contexts of both sides, None without certificates; raises `DoraError`."""
    return (None, None) if remote.tls is None else link_contexts(remote.tls)


def _check_certificate(connection: socket.socket, machine: str) -> None:
    """Raise ``ValueError`` if the other side, in TLS, has the certificate of another machine."""
    if isinstance(connection, ssl.SSLSocket) and not is_certified_as(connection, machine):
        raise ValueError(f"its certificate is not for machine `{machine}`")


def _end_tls(connection: ssl.SSLSocket) -> socket.socket:
    """Return the connection without TLS, which the other side ends, too; raises ``OSError``."""
    connection.unwrap()
    return socket.socket(fileno=connection.detach())


def listen_at(path: str) -> socket.socket:
    """Return a Unix socket at which this user can connect; raises ``OSError``."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            os.unlink(path)  # it is left over from a gateway that was killed
        listener.bind(path)
        os.chmod(path, 0o600)  # before it listens: until then nobody can connect
    except OSError:
        listener.close()
        raise
    listener.listen(128)
    listener.setblocking(False)
    return listener


def accept_at(listener: socket.socket) -> socket.socket | None:
    """Return the next connection that waits at a listener; raises ``OSError`` if no file is free for it."""
    try:
        return listener.accept()[0]
    except OSError as error:
        if error.errno in NO_FREE_FILE:
            raise
        return None  # none waits, or it has been given up


def _passed_through(passage: socket.socket) -> socket.socket:
    """Return the connection that the daemon has passed; raises ``OSError``, ``ValueError``."""
    with passage:
        if not is_own_peer(passage):
            raise ValueError("it is another user")
        passage.settimeout(_GREETING_TIMEOUT)
        _, descriptors, _, _ = socket.recv_fds(passage, 1, 1)
    if not descriptors:
        raise ValueError("there is no connection in it")
    return socket.socket(fileno=descriptors[0])


def split_address(text: str) -> tuple[str, int]:
    """Return the host and the port of an address.

    >>> split_address("10.0.0.2:7000"), split_address("[fd00::2]:7000")
    (('10.0.0.2', 7000), ('fd00::2', 7000))
    """
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(_SIZE.pack(len(data)) + data)


def _receive(connection: socket.socket) -> bytes:
    """Return what the other side has sent; raises ``OSError``, ``ValueError``."""
    (size,) = _SIZE.unpack(_receive_exactly(connection, _SIZE.size))
    if size > _LONGEST:
        raise ValueError("it is not a gateway")
    return _receive_exactly(connection, size)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data, timeout = b"", connection.gettimeout()
    deadline = None if timeout is None else time.monotonic() + timeout
    while len(data) < size:
        if deadline is not None:  # in all: a stranger that sends byte by byte would hold a place for hours
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size - len(data))
        if not part:
            raise ValueError("the connection was closed")
        data += part
    connection.settimeout(timeout)
    return data


def _in_thread(name: str, target: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=target, args=args, name=name, daemon=True).start()


# ------------------------------------------------------------------ settings

DSCP: Final = "DORA_LINK_DSCP"
_LARGEST_DSCP: Final = 63


def dscp_from_environment() -> int:
    """Return the number in ``$DORA_LINK_DSCP``, 0 if there is none; raises `DoraError`.

    It is the mark (RFC 2474) of the packets of control messages, by which Wi-Fi and routers put them first.
    """
    text = os.environ.get(DSCP, "0")
    if not text.isdecimal() or int(text) > _LARGEST_DSCP:
        raise DoraError(f"{DSCP} is `{text}`; write a number from 0 to {_LARGEST_DSCP}, for example 46")
    return int(text)
