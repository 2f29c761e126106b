"""Proof that a server knows the token, on the connection over which a client is going to send it.

Any user may listen at a free port of this machine, so an answer alone does not identify the server. The
client sends a random number, and the server answers with an HMAC of it under the token. The HMAC includes
the address of the server in this connection, so another program cannot obtain it from the right server and
forward it. All further requests use the same connection.

Between machines the connection has TLS, and the HMAC includes the certificate that the server has shown in
it. A program in between has another certificate, because it lacks the key, and so it cannot use the HMAC of
the right server. So no authority is needed to know the server; a client that names one gets no HMAC.
Without TLS (`NO_TLS`), the HMAC includes only the port, because addresses may be translated.
"""

from __future__ import annotations

import hmac
import http.client
import io
import os
import re
import socket
import ssl
import time
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, cast

import msgspec

from dora._paths import NO_TLS, host_and_port
from dora.transport.tls import duplex_client_context
from dora.transport.tokens import Token, TokenError
from dora.wire.decoders import DecodeError, from_json

PATH: Final = "/api/proof"
TIMEOUT: Final = 5.0  # seconds for the answer: any program may listen at the port, and give none

_DOMAIN: Final = "dora coordinator proof 1"  # the token has other uses too
_NONCE: Final = re.compile("[0-9a-f]{64}")
_LONGEST: Final = 1 << 16  # bytes of an answer, which a foreign program may never end


class UnprovenServerError(TokenError):
    """The server does not know the token; nothing was sent to it."""


class Proof(msgspec.Struct, frozen=True):
    """The answer to ``GET /api/proof?nonce=…``."""

    proof: str
    links: bool = False  # daemons get certificates for links to other machines


def is_nonce(text: str) -> bool:
    return _NONCE.fullmatch(text) is not None


def proof_of(token: str, nonce: str, place: str) -> str:
    """Return the proof of a server with this `address_place` or `certificate_place`."""
    text = f"{_DOMAIN}\n{nonce}\n{place}"
    return hmac.digest(token.encode(), text.encode(), "sha256").hex()


def address_place(host: str, port: int) -> str:
    """Return the address that the proof of a server without TLS includes.

    >>> address_place("127.0.0.2", 1), address_place("::ffff:127.0.0.1", 2), address_place("10.0.0.1", 4)
    ('127.0.0.2 1', '127.0.0.1 2', '* 4')
    """
    address = _address(host)
    return f"{address if address.is_loopback else '*'} {port}"


def certificate_place(certificate: bytes) -> str:
    """Return what the proof of a server with this certificate (DER) includes in place of its address."""
    return f"certificate {sha256(certificate).hexdigest()}"


def is_own_machine(host: str) -> bool:
    """Return whether the address of the other side of a connection is one of loopback.

    >>> is_own_machine("127.0.0.2"), is_own_machine("::ffff:127.0.0.1"), is_own_machine("10.0.0.1")
    (True, True, False)
    """
    return _address(host).is_loopback


def _address(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class ProvenConnection(http.client.HTTPConnection):
    """A connection to a coordinator that has proved its identity, see `proven_connection`."""

    gives_certificates = False
    """Whether it has said that daemons get certificates for links to other machines."""

    @property
    def is_encrypted(self) -> bool:
        return isinstance(self.sock, ssl.SSLSocket)


class _ProofResponse(http.client.HTTPResponse):
    """A response that has come as a whole by a deadline.

    The timeout of a socket is for each part: a program that sends a byte now and then would hold a command
    for hours.
    """

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(cast("socket.socket", _TimedReader(sock)), debuglevel, method)


class _TimedReader(io.RawIOBase):
    """Reads from a socket; raises ``TimeoutError`` after `TIMEOUT`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._raw = connection.makefile("rb", buffering=0)  # keeps it open until the response has been read
        self._deadline = time.monotonic() + TIMEOUT

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that a response reads."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def proven_connection(
    address: str, port: int, token: Token | None, authority: str = ""
) -> ProvenConnection:
    """Connect to a coordinator that proves its identity.

    ``authority`` is the file of the authority that has signed its certificate, or `NO_TLS`. "": it proves
    that it knows the token, in TLS if it is on another machine. Raises `UnprovenServerError`; ``OSError``
    or ``http.client.HTTPException`` if there is none; `DoraError` if the file cannot be used.
    """
    connection = ProvenConnection(address, port, timeout=TIMEOUT)
    try:
        connection.connect()
        connection.auto_open = 0  # never open another connection, without a proof
        where = host_and_port(address, port)
        place = ""
        if authority == NO_TLS or (not authority and is_own_machine(connection.sock.getpeername()[0])):
            place = address_place(*connection.sock.getpeername()[:2])
        else:
            context = duplex_client_context(authority)
            encrypted = context.wrap_socket(connection.sock, server_hostname=address if authority else None)
            connection.sock = encrypted
            if not authority:
                certificate = encrypted.getpeercert(binary_form=True)
                assert certificate is not None  # a server has one
                place = certificate_place(certificate)
        if place:
            if token is None:
                raise UnprovenServerError(no_token(where))
            connection.gives_certificates = _check(connection, token, where, place)
    except BaseException:
        connection.close()
        raise
    return connection


def proven_socket(address: str, port: int, token: Token | None, authority: str = "") -> socket.socket:
    """Return the socket of a `proven_connection`, for a WebSocket. It encrypts by itself if it has to."""
    connection = proven_connection(address, port, token, authority)
    found: socket.socket = connection.sock
    connection.sock = None
    found.settimeout(None)  # the WebSocket has timeouts of its own
    return found


def no_token(where: str) -> str:
    return (
        f"the coordinator at {where} requires a token, and you have none: set DORA_AUTH_TOKEN, or copy its "
        ".dora-token to ~/.config/dora/.dora-token"
    )


def _check(connection: http.client.HTTPConnection, token: Token, where: str, place: str) -> bool:
    """Ask for the proof, and return its ``links``; raises as `proven_connection`."""
    assert connection.sock is not None
    host, port = connection.sock.getpeername()[:2]
    nonce = os.urandom(32).hex()
    # The server computes the proof with the address in this header, not with the name that the user gave.
    headers = {"Host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    connection.request("GET", f"{PATH}?nonce={nonce}", headers=headers)
    connection.response_class = _ProofResponse
    response = connection.getresponse()
    data = response.read(_LONGEST)
    connection.response_class = http.client.HTTPResponse
    if response.status in (401, 403, 404):
        try:
            has_error = "error" in from_json(data, dict[str, str])
        except DecodeError:
            has_error = False
        if has_error:
            raise UnprovenServerError(
                f"the server at {where} cannot prove that it is your dora coordinator; if it is one of an "
                "older version, end it with that version's `dora down`; otherwise choose another port with "
                "--coordinator-port or DORA_COORDINATOR_PORT"
            )
    try:
        shown = from_json(data, Proof)
    except DecodeError:
        raise http.client.HTTPException("no proof") from None
    if not hmac.compare_digest(shown.proof.encode(), proof_of(token.value, nonce, place).encode()):
        raise UnprovenServerError(
            f"the server at {where} is not your dora coordinator: it does not know your token "
            f"({token.source}), so nothing else was sent to it; choose another port with "
            "--coordinator-port or DORA_COORDINATOR_PORT, or if it is yours, set DORA_AUTH_TOKEN to its "
            "token, or copy its .dora-token to ~/.config/dora/.dora-token"
        )
    if connection.sock is None:
        raise ConnectionResetError("the server has closed the connection")
    connection.sock.settimeout(TIMEOUT)
    return shown.links
