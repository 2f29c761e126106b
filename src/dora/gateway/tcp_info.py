"""Counts of the system about a TCP connection."""

from __future__ import annotations

import socket
import struct
from typing import Final

# Offsets in ``struct tcp_info`` of Linux, which has grown at its end only: systems before 4.6 give less.
_RESENT: Final = 100
_SENT: Final = 156
_SIZE: Final = 160
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)  # Linux only
_WORD: Final = struct.Struct("=I")


def packets_of(connection: socket.socket) -> tuple[int, int]:
    """Return how many packets with data were sent, and how many of them were sent again.

    Both numbers are below 2**32 and begin again at 0. Both are 0 where the system does not count.
    """
    if _TCP_INFO is None:
        return 0, 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SIZE)
    except OSError:
        return 0, 0  # it was closed
    return parse(info)


def parse(info: bytes) -> tuple[int, int]:
    """Return the numbers of `packets_of`.

    >>> parse(bytes(100) + (3).to_bytes(4, "little") + bytes(52) + (70).to_bytes(4, "little"))
    (70, 3)
    >>> parse(bytes(104))
    (0, 0)
    """
    if len(info) < _SIZE:
        return 0, 0
    return _WORD.unpack_from(info, _SENT)[0], _WORD.unpack_from(info, _RESENT)[0]
