"""Fragments of messages: Zenoh's low-latency transport accepts at most 64 KiB.

Zenoh's regular transport fragments large messages itself, but in a thread that has to be woken. A message
slightly larger than one fragment would take almost twice as long as one that fits.
"""

from __future__ import annotations

import time
from typing import Final

import zenoh

FRAGMENT_BYTES: Final = 64_000  # what is left of 65,535 is for the key and the header
RETRANSMIT_BYTES: Final = 262_144  # of a retransmitted fragment: slow networks need several per message


class FragmentedMessage:
    """An outgoing message, as one piece or in fragments. Its memory may be reused after `detach` only."""

    __slots__ = ("_data", "_fragments", "_zbytes", "sent_ns")

    def __init__(self, message: bytes | bytearray) -> None:
        self.sent_ns = time.monotonic_ns()  # by the program
        self._data: bytes | bytearray | None = message
        self._zbytes: zenoh.ZBytes | None = None
        self._fragments: list[zenoh.ZBytes] | None = None

    def zbytes(self) -> zenoh.ZBytes:
        """Return the message as one piece."""
        if self._zbytes is None:
            self._zbytes = zenoh.ZBytes(self._bytes())
        return self._zbytes

    def fragments(self) -> list[zenoh.ZBytes]:
        """Return the message in fragments for the fast path."""
        if self._fragments is None:
            data = self._bytes()
            if len(data) <= FRAGMENT_BYTES:
                self._fragments = [self.zbytes()]
            else:
                self._fragments = [
                    zenoh.ZBytes(data[at : at + FRAGMENT_BYTES])
                    for at in range(0, len(data), FRAGMENT_BYTES)
                ]
        return self._fragments

    def retransmit_fragments(self) -> list[zenoh.ZBytes]:
        """Return the message in the larger fragments of a retransmission."""
        zbytes = self.zbytes()
        if len(zbytes) <= RETRANSMIT_BYTES:
            return [zbytes]
        data = zbytes.to_bytes()
        return [
            zenoh.ZBytes(data[at : at + RETRANSMIT_BYTES]) for at in range(0, len(data), RETRANSMIT_BYTES)
        ]

    def detach(self) -> None:
        """Copy the message, unless that was done, so that its memory may be reused."""
        if self._fragments is None:
            self.zbytes()
        self._data = None

    def _bytes(self) -> bytes | bytearray:
        if self._zbytes is not None:
            return self._zbytes.to_bytes()
        return self._data if self._data is not None else _joined(self._fragments or [])


class ReassembledMessage:
    """A message that arrived in fragments, with the methods of ``zenoh.ZBytes`` that receivers use."""

    __slots__ = ("_fragments", "_size")

    def __init__(self, fragments: list[zenoh.ZBytes]) -> None:
        self._fragments = fragments
        self._size = sum(map(len, fragments))

    def __len__(self) -> int:
        return self._size

    def to_bytes(self) -> bytes:
        return _joined(self._fragments)


class Reassembler:
    """Assembles messages from fragments that arrive in any order. Not safe for several threads."""

    def __init__(self) -> None:
        self._messages: dict[int, dict[int, zenoh.ZBytes]] = {}  # by number, then by index

    def add(self, number: int, index: int, count: int, fragment: zenoh.ZBytes) -> ReassembledMessage | None:
        """Add one of ``count`` fragments of a message; return the message if it is complete."""
        fragments = self._messages.setdefault(number, {})
        fragments[index] = fragment
        if len(fragments) < count:
            return None
        del self._messages[number]
        return ReassembledMessage([fragments[index] for index in sorted(fragments)])

    def forget(self, number: int) -> None:
        """Discard the fragments of messages up to ``number``, which have arrived or never will."""
        if self._messages:
            for old in [n for n in self._messages if n <= number]:
                del self._messages[old]


def _joined(fragments: list[zenoh.ZBytes]) -> bytes:
    return b"".join([fragment.to_bytes() for fragment in fragments])
