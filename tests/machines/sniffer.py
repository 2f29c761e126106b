"""Read what passes through the link of a host, as any machine of its network could."""

from __future__ import annotations

import re
import socket
import struct
import threading
from types import TracebackType
from typing import Final, NamedTuple

import numpy as np
from hosts import Host

from dora._paths import DEFAULT_LINK_PORT

# Of Linux, and missing in the module `socket`.
_ALL: Final = 0x0003  # ETH_P_ALL
_RCVBUFFORCE: Final = 33
_SOL_PACKET, _STATISTICS = 263, 6
_BUFFER: Final = 64 << 20  # bytes; the kernel drops what does not fit


class Direction(NamedTuple):
    """One direction of a TCP connection."""

    source: str
    source_port: int
    target: str
    target_port: int


class Sniffer:
    """Records the bytes of all TCP connections of a host, by direction, until the end of its block."""

    def __init__(self, host: Host) -> None:
        self.bytes: dict[Direction, bytearray] = {}
        # Without a protocol: else it would hear all interfaces until it is bound to one.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        self._socket.bind((host.port, _ALL))
        self._socket.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Sniffer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        statistics = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8)
        self._socket.close()
        assert struct.unpack("2I", statistics)[1] == 0, "the kernel has dropped frames"

    def of_ports(self, ports: range) -> list[bytes]:
        """Return what was sent in each direction of the connections to these ports."""
        return [
            bytes(data)
            for direction, data in self.bytes.items()
            if direction.target_port in ports or direction.source_port in ports
        ]

    def of_links(self) -> list[bytes]:
        """Return what was sent over links, without the id of the dataflow, with which one side begins."""
        sent = self.of_ports(range(DEFAULT_LINK_PORT, DEFAULT_LINK_PORT + 1))
        return [re.sub(rb"^[0-9a-f-]{36}", b"", data) for data in sent]

    def _read(self) -> None:
        while not self._end.is_set():
            try:
                frame = self._socket.recv(1 << 17)
            except TimeoutError:
                continue
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
            return  # not IPv4 and TCP
        packet = frame[14:]
        header, (length,) = 4 * (packet[0] & 15), struct.unpack_from("!H", packet, 2)
        segment = packet[header : length or None]  # 0: joined by the kernel, longer than the field can say
        source_port, target_port = struct.unpack_from("!HH", segment)
        direction = Direction(
            socket.inet_ntoa(packet[12:16]), source_port, socket.inet_ntoa(packet[16:20]), target_port
        )
        self.bytes.setdefault(direction, bytearray()).extend(segment[4 * (segment[12] >> 4) :])


def can_be_read(text: bytes, data: bytes) -> bool:
    """Return whether a text is in data, as it is or masked as WebSocket clients do.

    The mask, of 4 bytes, is sent along. Bytes that are 4 apart have the same byte of it, so it does not
    change their difference. ``text`` should be longer than a dozen bytes.
    """
    return text in data or _differences(text) in _differences(data)


def _differences(data: bytes) -> bytes:
    values = np.frombuffer(data, np.uint8)
    return (values[:-4] ^ values[4:]).tobytes()
