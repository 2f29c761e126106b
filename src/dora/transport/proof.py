"""Proof that a server knows the token, on the connection over which a client is going to send it.

Any user may listen at a free port of this machine, so an answer alone does not identify the server. The
client sends a random number, and the server answers with an HMAC of it under the token. The HMAC includes
the address of the server in this connection, so another program cannot obtain it from the right server and
forward it. All further requests use the same connection.

Between machines the HMAC includes only the port, because addresses may be translated. A certificate proves
more there (`dora.transport.tls`), and replaces this proof.
"""

from __future__ import annotations

import hmac
import http.client
import os
import re
import socket
from ipaddress import IPv6Address, ip_address
from typing import Final

import msgspec

from dora.transport.tokens import Token, TokenError
from dora.wire.decoders import DecodeError, from_json

PATH: Final = "/api/proof"
TIMEOUT: Final = 5.0  # seconds for a proof

_DOMAIN: Final = "dora coordinator proof 1"  # the token has other uses too
_NONCE: Final = re.compile("[0-9a-f]{64}")
_LONGEST: Final = 1 << 16  # bytes of an answer


class UnprovenServerError(TokenError):
    """The server does not know the token; nothing was sent to it."""


class Proof(msgspec.Struct, frozen=True):
    """The answer to ``GET /api/proof?nonce=…``."""

    proof: str


def is_nonce(text: str) -> bool:
    return _NONCE.fullmatch(text) is not None


def proof_of(token: str, nonce: str, host: str, port: int) -> str:
    """Return the proof of a server at this address and port."""
    text = f"{_DOMAIN}\n{nonce}\n{_place(host, port)}"
    return hmac.digest(token.encode(), text.encode(), "sha256").hex()


def _place(host: str, port: int) -> str:
    """Return the address that a proof includes.

    >>> _place("127.0.0.2", 1), _place("::ffff:127.0.0.1", 2), _place("::1", 3), _place("10.0.0.1", 4)
    ('127.0.0.2 1', '127.0.0.1 2', '::1 3', '* 4')
    """
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return f"{address if address.is_loopback else '*'} {port}"


def proven_connection(address: str, port: int, token: Token | None) -> http.client.HTTPConnection:
    """Connect to a coordinator without TLS that proves that it knows the token.

    Raises `UnprovenServerError`, and ``OSError`` or ``http.client.HTTPException`` if there is none.
    """
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        connection.connect()
        connection.auto_open = 0  # never open another connection, without a proof
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        if token is None:
            raise UnprovenServerError(no_token(where))
        _check(connection, token, where)
    except BaseException:
        connection.close()
        raise
    return connection


def proven_socket(address: str, port: int, token: Token | None) -> socket.socket:
    """Return the socket of a `proven_connection`, for a WebSocket."""
    connection = proven_connection(address, port, token)
    found: socket.socket = connection.sock
    connection.sock = None
    found.settimeout(None)
    return found


def no_token(where: str) -> str:
    return (
        f"the coordinator at {where} requires a token, and you have none: set DORA_AUTH_TOKEN, or copy its "
        ".dora-token to ~/.config/dora/.dora-token"
    )


def _check(connection: http.client.HTTPConnection, token: Token, where: str) -> None:
    assert connection.sock is not None
    host, port = connection.sock.getpeername()[:2]
    nonce = os.urandom(32).hex()
    # The server computes the proof with the address in this header, not with the name that the user gave.
    headers = {"Host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    connection.request("GET", f"{PATH}?nonce={nonce}", headers=headers)
    response = connection.getresponse()
    data = response.read(_LONGEST)
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
        shown = from_json(data, Proof).proof
    except DecodeError:
        raise http.client.HTTPException("no proof") from None
    if not hmac.compare_digest(shown.encode(), proof_of(token.value, nonce, host, port).encode()):
        raise UnprovenServerError(
            f"the server at {where} is not your dora coordinator: it does not know your token "
            f"({token.source}), so nothing else was sent to it; choose another port with "
            "--coordinator-port or DORA_COORDINATOR_PORT, or if it is yours, set DORA_AUTH_TOKEN to its "
            "token, or copy its .dora-token to ~/.config/dora/.dora-token"
        )
    if connection.sock is None:
        raise ConnectionResetError("the server has closed the connection")
