"""The address at which Foxglove finds dora, checked without the SDK."""

from __future__ import annotations

import os
import socket
from typing import Final

from dora.errors import DoraError

VARIABLE: Final = "DORA_FOXGLOVE_ADDRESS"
DEFAULT_ADDRESS: Final = "127.0.0.1:8765"


def default_address() -> str:
    """Return the address that the environment gives, else Foxglove's usual one on this machine."""
    return os.environ.get(VARIABLE) or DEFAULT_ADDRESS


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, ``PORT`` or ``HOST``; raises `DoraError`.

    >>> parse_address("9000"), parse_address("0.0.0.0:9000"), parse_address("[::1]:9000")
    (('127.0.0.1', 9000), ('0.0.0.0', 9000), ('::1', 9000))
    >>> parse_address("robot.local")
    ('robot.local', 8765)
    """
    default_host, _, default_port = DEFAULT_ADDRESS.rpartition(":")
    host, _, port = text.rpartition(":")
    if not host and not port.isdecimal():
        host, port = port, default_port
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise DoraError(f"the address is `{text}`; it has to be HOST:PORT, like {DEFAULT_ADDRESS}")
    return host.strip("[]") or default_host, int(port)


def check_address(text: str) -> tuple[str, int]:
    """Return host and port; raises `DoraError` if nobody can listen there.

    The SDK of Foxglove does not tell a port that is taken from a host that is unknown.
    """
    host, port = parse_address(text)
    try:
        (family, kind, protocol, _, place), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as trial:
            # Else a port whose connections were closed just now counts as taken for a while.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as error:
        raise DoraError(f"Foxglove cannot be served at {host}:{port}: {error.strerror or error}") from None
    return host, port
