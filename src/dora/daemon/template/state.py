"""State of a template process and of its children with more packages, as the process reports it."""

from __future__ import annotations

import os
import socket
from typing import Final

import msgspec

from dora.daemon.template.process import peer
from dora.daemon.template.protocol import STATE
from dora.wire.decoders import DecodeError, msgpack_decoder

_MAX_ANSWER: Final = 1 << 17  # bytes


class TemplateState(msgspec.Struct, frozen=True):
    """One template process. ``packages``: imported beside the ones of every node."""

    pid: int
    packages: list[str]
    starts: int  # nodes that it was asked for and could fork
    since: float  # seconds since the Unix epoch


encode_states = msgspec.msgpack.Encoder().encode
_decode = msgpack_decoder(list[TemplateState])


def ask_states(address: str, timeout: float) -> list[TemplateState]:
    """Return the states of the template process at an address, and of those that it has forked.

    Raises ``OSError`` if there is none, or it does not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        connection.connect(address)
        if peer(connection)[1] != os.getuid():
            raise PermissionError("another user's process listens there")
        connection.send(STATE)
        try:
            states: list[TemplateState] = _decode(connection.recv(_MAX_ANSWER))
        except DecodeError as error:
            raise ConnectionError(str(error)) from None
    return states
