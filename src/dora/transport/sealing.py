"""Encrypts what goes over one connection in one direction, for a process that has a key and no TLS.

OpenSSL keeps the state of TLS inside its process, so a gateway cannot hand a connection with TLS to a node.
So two gateways agree on a key inside TLS, and then end TLS on the connection (`dora.gateway.meeting`).
Linux can go on with TLS by itself (kTLS); its module is rarely loaded, and to load it takes root.

A *record* is the length of its ciphertext in 4 bytes (little endian), and the ciphertext: AES-256-GCM
(NIST SP 800-38D), with a tag of 16 bytes at its end. The nonce is the number of the record in its
connection, in 12 bytes (little endian), and is not sent. So a record that was changed, repeated, left out,
or moved does not open.

The import of this module takes 20 ms, so it comes before the first message.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_LENGTH: Final = struct.Struct("<I")
_NONCE: Final = 12
_MOST: Final = 128 << 10  # bytes of a ciphertext, beyond the longest message on a bypass
_BUFFER: Final = 8 << 10  # bytes; it grows with the longest record
_receive: Final = socket.socket.recv_into


class Sealer:
    """Seals the records of one connection. Not safe for several threads.

    ``number``: of the next record. The sender adds one before it sends a record, and takes it back if not a
    byte of it was sent, which uses up no nonce.
    """

    def __init__(self, key: bytes) -> None:
        """``key``: of 32 bytes, for this connection alone."""
        self._cipher = AESGCM(key)
        self.number = 0

    def seal(self, header: bytes, body: bytes | memoryview) -> tuple[bytes, bytes]:
        """Return the next record in two parts."""
        nonce = self.number.to_bytes(_NONCE, "little")
        ciphertext = self._cipher.encrypt(nonce, header + body, None)
        return _LENGTH.pack(len(ciphertext)), ciphertext


class SealedSocket(socket.socket):
    """A connection on which records come; `recv_into` returns their content. It does not block."""

    def __init__(self, connection: socket.socket, key: bytes) -> None:
        """Take over a connection."""
        super().__init__(fileno=connection.detach())
        self.setblocking(False)
        self._cipher = AESGCM(key)
        self._number = 0
        self._buffer = memoryview(bytearray(_BUFFER))
        self._begin = self._end = 0  # of what is not opened yet
        self._content = memoryview(b"")  # of the last record, as far as it is not taken yet
        self._is_drained = False  # the system had no more at the last look

    def recv_into(self, target: Any, nbytes: int = 0, flags: int = 0) -> int:  # noqa: ARG002
        """Write what has come into memory; return how many bytes, 0 at the end of the connection.

        The memory decides how many come at most, whatever the other arguments. Raises ``OSError``, and
        ``ValueError`` for a record that does not open.
        """
        # In one function: each call takes microseconds in a process that has slept.
        while not self._content:
            there, size = self._end - self._begin, _LENGTH.size
            if there >= size:
                (length,) = _LENGTH.unpack_from(self._buffer, self._begin)
                if length > _MOST:
                    raise ValueError("a record is too long")
                size += length
                if there >= size:
                    ciphertext = self._buffer[self._begin + _LENGTH.size : self._begin + size]
                    try:
                        content = self._cipher.decrypt(
                            self._number.to_bytes(_NONCE, "little"), ciphertext, None
                        )
                    except InvalidTag:
                        raise ValueError("a record does not open") from None
                    self._content = memoryview(content)
                    self._number += 1
                    self._begin += size
                    continue
            if self._is_drained:
                self._is_drained = False
                raise BlockingIOError
            self._make_room(there, size)
            free = self._buffer[there:]
            count = _receive(self, free)
            if not count:
                return 0
            self._end += count
            self._is_drained = count < len(free)
        left = self._content
        count = min(len(left), len(target))
        target[:count] = left[:count]
        self._content = left[count:]
        return count

    def _make_room(self, there: int, size: int) -> None:
        """Move what is there to the beginning of a buffer for a record of this size."""
        former = self._buffer
        if size > len(former):
            self._buffer = memoryview(bytearray(size))
        if there:
            self._buffer[:there] = bytes(former[self._begin : self._end])
        self._begin, self._end = 0, there
