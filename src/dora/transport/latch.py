"""Latches: the newest messages of an output, kept for receivers that join late.

The sender of a latched output writes each message into its latch before it sends it. A receiver that joins
late connects first and reads the latch then. So each message is in the latch, in its queue, or in both; the
sequence numbers say which ones are there twice (`dora.node.receive.latched_input`).

A latch is a file of the run beside the board, in shared memory:

======================  ==================================================================
word 0, 1               bytes of a place, number of places
word 2 + 2·n, 3 + 2·n   sequence number in place n (0: none, or it is being written), its size
from `_header_bytes`    the places, one message each
======================  ==================================================================

A message with the number n is in place n modulo the number of places. There are more places than messages
to keep: while one is being written, the others are complete, whenever the sender is killed. Readers take no
lock. They copy a message and look whether its number is still there.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

from dora._ownership import UnsafeFile, open_own
from dora.transport.fence import fence
from dora.transport.interface import Loan, Sender
from dora.wire.decode import BAD_MESSAGE, check
from dora.wire.message import Message, sequence_of
from dora.wire.output_rules import LatchRule
from dora.wire.untrusted import UntrustedMessage

_SPARE: Final = 2  # places beyond the messages to keep: one is written, one gives readers time
_SMALLEST: Final = 4096  # bytes of a place
_PAGE: Final = 4096
_SHAPE: Final = struct.Struct("<QQ")  # bytes of a place, number of places
_SMALL: Final = 4096  # bytes; up to this size a message is one bytes object
_ATTEMPTS: Final = 50  # to read a latch that is written all the time; then the copies so far have to do

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

_log = logging.getLogger("dora.transport")
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


class Latch(Protocol):
    """The newest messages of one output."""

    def write(self, sequence: int, message: Buffer) -> None:
        """Keep a message, and forget the oldest one. Never fails."""
        ...


ReadLatch = Callable[[], list[Message]]
"""Returns the messages of a latch: consecutive numbers, oldest first."""


def latch_path(board: str, output_slot: int) -> str:
    """Return the path of an output's latch. ``board``: the path of the board."""
    return f"{board.removesuffix('board')}latch-{output_slot}"


def _header_bytes(places: int) -> int:
    return -(-(2 + 2 * places) * 8 // _PAGE) * _PAGE


class _Places:
    """The file of a latch, open for writing."""

    def __init__(self, path: str, count: int, size: int) -> None:
        """Make it, with places of ``size`` bytes; raises ``OSError``, `UnsafeFile`."""
        self.size = size
        self._count = count
        self._begin = _header_bytes(count)
        self._fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            os.ftruncate(self._fd, self._begin + count * size)
            if os.pwrite(self._fd, bytes(self._begin), 0) < self._begin:  # takes the memory
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._mapping = mmap.mmap(self._fd, self._begin)
            self._words = memoryview(self._mapping).cast("Q")
        except BaseException:
            os.close(self._fd)
            raise
        self._words[0], self._words[1] = size, count

    def put(self, sequence: int, message: Buffer) -> None:
        """Write a message; raises ``OSError``."""
        words, place = self._words, sequence % self._count
        # The place has no number while it is written, so a reader finds out that its copy has two halves.
        # It takes no lock, which a killed sender would leave locked.
        words[2 + 2 * place] = 0
        fence()
        # Not through the mapping: where there is no room, a write is an error, and not a SIGBUS.
        if os.pwrite(self._fd, message, self._begin + place * self.size) < len(message):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        words[3 + 2 * place] = len(message)
        fence()
        words[2 + 2 * place] = sequence

    def forget(self, sequence: int) -> None:
        """Remove the messages up to this number. Never fails, as it takes no memory."""
        for place in range(self._count):
            if self._words[2 + 2 * place] <= sequence:
                self._words[2 + 2 * place] = 0

    def close(self) -> None:
        self._words.release()
        self._mapping.close()
        os.close(self._fd)


class LatchFile:
    """The sender's side of a latch. Used by one thread at a time."""

    def __init__(self, path: str, rule: LatchRule, output_id: str) -> None:
        """Make the file; raises ``OSError``, `UnsafeFile`."""
        self._path = path
        self._output_id = output_id
        self._depth = rule.depth
        self._has_failed = False
        self._floor = 0  # messages up to this number are not kept
        self._places = self._make(read_entries(path) if rule.survive_restart else [])

    def write(self, sequence: int, message: Buffer) -> None:
        if sequence <= self._floor:
            return
        try:
            if len(message) <= self._places.size:
                self._places.put(sequence, message)
            else:
                former = self._places
                self._places = self._make([*read_entries(self._path), (sequence, bytes(message))])
                former.close()
        except (OSError, UnsafeFile) as error:  # it is sent all the same: receivers that are there get it
            if not self._has_failed:
                self._has_failed = True
                _log.warning(
                    "output `%s`: a message of %d bytes is not kept for receivers that join late: %s",
                    self._output_id,
                    len(message),
                    error,
                )

    def forget(self, sequence: int) -> None:
        """Remove the messages up to this number, and keep none of them that comes later. Never fails."""
        if sequence > self._floor:
            self._floor = sequence
            self._places.forget(sequence)

    def _make(self, kept: list[tuple[int, bytes]]) -> _Places:
        """Make a file with the newest of these messages, and room for others of their size."""
        kept = kept[-self._depth :]
        size = max([_SMALLEST, *(len(message) for _, message in kept)])
        path = f"{self._path}.new"
        places = _Places(path, self._depth + _SPARE, 1 << (size - 1).bit_length())
        try:
            for sequence, message in kept:
                places.put(sequence, message)
            os.rename(path, self._path)  # complete by now: readers find the former file or this one
        except BaseException:
            places.close()
            os.unlink(path)
            raise
        return places


def read_entries(path: str) -> list[tuple[int, bytes]]:
    """Return the numbers and bytes in a latch: consecutive numbers up to the newest one."""
    try:
        fd = open_own(path, os.O_RDONLY)
    except (OSError, UnsafeFile):
        return []
    found: dict[int, bytes] = {}
    try:
        depth = _read_places(fd, found)
    except (OSError, ValueError, OverflowError, struct.error):  # another process has written there
        return []
    finally:
        os.close(fd)
    return consecutive(found.items())[-depth:]


def _read_places(fd: int, found: dict[int, bytes]) -> int:
    """Copy the messages in the places, again if one was written meanwhile; return how many to keep."""
    capacity: int
    places: int
    capacity, places = _SHAPE.unpack(os.pread(fd, _SHAPE.size, 0))
    begin = _header_bytes(places)
    with mmap.mmap(fd, begin, access=mmap.ACCESS_READ) as header, memoryview(header).cast("Q") as words:
        for _ in range(_ATTEMPTS):
            numbers = [words[2 + 2 * place] for place in range(places)]
            fence()
            for place, sequence in enumerate(numbers):
                if sequence and sequence not in found:
                    message = os.pread(fd, words[3 + 2 * place], begin + place * capacity)
                    fence()
                    if words[2 + 2 * place] == sequence:
                        found[sequence] = message
            if all(not sequence or sequence in found for sequence in numbers):
                break
    return places - _SPARE


class LatchInMemory:
    """A latch of nodes that share a process."""

    def __init__(self, rule: LatchRule, former: LatchInMemory | None) -> None:
        """``former``: the latch of the node's former process."""
        self._entries: deque[tuple[int, bytes]] = deque(maxlen=rule.depth)
        if former is not None and rule.survive_restart:
            self._entries.extend(former._entries)

    def write(self, sequence: int, message: Buffer) -> None:
        self._entries.append((sequence, bytes(message)))

    def read(self) -> list[Message]:
        return messages_of(consecutive(tuple(self._entries)))


def consecutive(found: Iterable[tuple[int, T]]) -> list[tuple[int, T]]:
    """Return the entries up to the newest one of which none is missing in between, oldest first.

    >>> consecutive([(3, b"c"), (1, b"a"), (4, b"d")])
    [(3, b'c'), (4, b'd')]
    """
    entries = sorted(found, key=lambda entry: entry[0])
    for index in range(len(entries) - 1, 0, -1):
        if entries[index - 1][0] + 1 != entries[index][0]:
            return entries[index:]
    return entries


def read_latch(path: str) -> list[Message]:
    """Return the messages in a latch; [] if there is none."""
    return messages_of(read_entries(path))


def message_from_bytes(data: bytes) -> UntrustedMessage:
    """Return the message in ``data``, without copying the body of a large one.

    Another process may have written it, so all of it is validated. Raises `MessageError`, `MetadataError`
    and `PayloadError`.
    """
    if len(data) <= _SMALL:
        message = UntrustedMessage(data)
    else:
        offset = int.from_bytes(data[12:16], "little")
        message = UntrustedMessage(data[:offset], _address_of(data), data)
    message.validate(len(data))
    check(message)
    return message


def messages_of(entries: Iterable[tuple[int, bytes]]) -> list[Message]:
    """Parse the bytes of messages."""
    try:
        return [message_from_bytes(data) for _, data in entries]
    except BAD_MESSAGE:  # another process of this user has written there
        return []


class _LatchingLoan:
    __slots__ = ("_latch", "_loan", "address", "memory", "size")

    def __init__(self, loan: Loan, latch: Latch) -> None:
        self._loan = loan
        self._latch = latch
        self.address = loan.address
        self.memory = loan.memory
        self.size = loan.size

    def send(self, control: bytes = b"") -> None:
        message = self.memory[: self.size]
        # First, see `LatchingSender.send`.
        self._latch.write(sequence_of(message), message)
        self._loan.send(control)

    def discard(self) -> None:
        self._loan.discard()


class LatchingSender:
    """The sender of a latched output: each message goes into the latch first."""

    def __init__(self, sender: Sender, latch: Latch) -> None:
        self._sender = sender
        self.latch = latch
        self.prepare = sender.prepare
        self.close = sender.close
        self.destroy = sender.destroy

    def send(self, message: bytes, control: bytes = b"") -> None:
        # First: a receiver that joins between the two would find it neither in its queue nor in the latch.
        self.latch.write(sequence_of(message), message)
        self._sender.send(message, control)

    def loan(self, size: int) -> Loan:
        return _LatchingLoan(self._sender.loan(size), self.latch)
