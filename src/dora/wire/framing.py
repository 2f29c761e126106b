"""Frames on a control socket: a 4-byte little-endian length, followed by one msgpack message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from dora.wire.node_protocol import ToDaemon, ToNode

if TYPE_CHECKING:
    from dora.wire.daemon_protocol import Answer, Request

MAX_FRAME = 64 << 20  # bytes; what claims more is damaged, and would be kept in memory until it is complete

_encoder = msgspec.msgpack.Encoder()


class FrameError(ValueError):
    """The bytes on a control socket are not frames."""


def encode_frame(message: ToDaemon | ToNode | Request | Answer) -> bytes:
    """Return the frame of a message, ready for the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "little") + body


class FrameBuffer:
    """Cut a byte stream into frame bodies: feed received bytes, iterate over complete bodies.

    >>> frames = FrameBuffer()
    >>> frames.feed(encode_frame("stop")[:3])
    >>> list(frames)
    []
    >>> frames.feed(encode_frame("stop")[3:])
    >>> [msgspec.msgpack.decode(body) for body in frames]
    ['stop']
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._data = bytearray()
        self._max_frame = max_frame

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        self._data += data

    def __iter__(self) -> Iterator[bytes]:
        """Yield every complete frame body; raises `FrameError` for a length above the limit."""
        while len(self._data) >= 4:
            size = int.from_bytes(self._data[:4], "little")
            if size > self._max_frame:
                raise FrameError(f"a control frame claims {size} bytes; the limit is {self._max_frame}")
            if len(self._data) < 4 + size:
                return
            body = bytes(self._data[4 : 4 + size])
            del self._data[: 4 + size]
            yield body
