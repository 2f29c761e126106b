"""Messages in parts: Zenoh's transport for low latency takes nothing above 64 KiB.

Its usual transport takes parts of any size apart by itself, but hands them to a thread that has to be
woken, and a message that is only just too large for one part takes almost twice as long as one that fits.
"""

from __future__ import annotations

from typing import Final

import zenoh

PART: Final = 64_000  # bytes; what is left of 65,535 is for the key and the label
PIECE: Final = 262_144  # bytes, of what is sent again: for networks too slow for all at once (`mailbox`)


class FragmentedMessage:
    """A message to be sent, whole or in parts. It may be changed by others after `settle`, not before."""

    __slots__ = ("_data", "_parts", "_whole")

    def __init__(self, message: bytes | bytearray) -> None:
        self._data: bytes | bytearray | None = message
        self._whole: zenoh.ZBytes | None = None
        self._parts: list[zenoh.ZBytes] | None = None

    def whole(self) -> zenoh.ZBytes:
        if self._whole is None:
            self._whole = zenoh.ZBytes(self._bytes())
        return self._whole

    def parts(self) -> list[zenoh.ZBytes]:
        if self._parts is None:
            data = self._bytes()
            if len(data) <= PART:
                self._parts = [self.whole()]
            else:
                self._parts = [zenoh.ZBytes(data[at : at + PART]) for at in range(0, len(data), PART)]
        return self._parts

    def pieces(self) -> list[zenoh.ZBytes]:
        """Return the message in larger parts."""
        whole = self.whole()
        if len(whole) <= PIECE:
            return [whole]
        data = whole.to_bytes()
        return [zenoh.ZBytes(data[at : at + PIECE]) for at in range(0, len(data), PIECE)]

    def settle(self) -> None:
        """Keep a copy, if there is none yet: from now on the memory of the message is somebody else's."""
        if self._parts is None:
            self.whole()
        self._data = None

    def _bytes(self) -> bytes | bytearray:
        if self._whole is not None:
            return self._whole.to_bytes()
        return self._data if self._data is not None else _joined(self._parts or [])


class ReassembledMessage:
    """A message that came in parts; to be used as a ``zenoh.ZBytes``."""

    __slots__ = ("_parts", "_size")

    def __init__(self, parts: list[zenoh.ZBytes]) -> None:
        self._parts = parts
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def to_bytes(self) -> bytes:
        return _joined(self._parts)


class Reassembler:
    """Puts together what comes in parts, in any order. Not safe for several threads."""

    def __init__(self) -> None:
        self._messages: dict[int, dict[int, zenoh.ZBytes]] = {}  # by number, then by index

    def add(self, number: int, index: int, count: int, part: zenoh.ZBytes) -> ReassembledMessage | None:
        """Add a part, of those that make up a message; return the message with the last of them."""
        parts = self._messages.setdefault(number, {})
        parts[index] = part
        if len(parts) < count:
            return None
        del self._messages[number]
        return ReassembledMessage([parts[index] for index in sorted(parts)])

    def forget(self, number: int) -> None:
        """Forget the parts of messages up to ``number``: they are not needed, or will not come any more."""
        if self._messages:
            for old in [n for n in self._messages if n <= number]:
                del self._messages[old]


def _joined(parts: list[zenoh.ZBytes]) -> bytes:
    return b"".join([part.to_bytes() for part in parts])
