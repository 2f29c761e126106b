"""Ordinary memory for messages, with the alignment of their layout, for engines without shared memory.

The block is a ``bytearray``, which can be filled through its address and passed to other libraries without
another copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from dora.errors import SendError
from dora.wire.decode import check
from dora.wire.message import ALIGNMENT
from dora.wire.untrusted import UntrustedMessage

_SMALL: Final = 4096  # bytes; up to this size a message is one bytes object

# Unlike ``bytearray(size)``, this does not fill the block with zeros: it is overwritten anyway.
_uninitialised = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyByteArray_FromStringAndSize", ctypes.pythonapi)
)
_address_of_bytes = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyBytes_AsString", ctypes.pythonapi)
)
_address_of_bytearray = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyByteArray_AsString", ctypes.pythonapi)
)


class AlignedMemory:
    """``size`` writable bytes at ``address``, a multiple of 64, which live as long as this object."""

    __slots__ = ("_block", "_start", "address", "size")

    def __init__(self, size: int) -> None:
        """Allocate; raises ``MemoryError``."""
        block: bytearray = _uninitialised(None, size + ALIGNMENT)
        start = -_address_of_bytearray(block) % ALIGNMENT
        # Deleting at the front moves the start of a bytearray instead of its content, unless it becomes
        # less than half as long (`content` handles that).
        if size >= ALIGNMENT:
            del block[:start]
            del block[size:]
            start = -_address_of_bytearray(block) % ALIGNMENT
        if start + size > len(block):
            block = _uninitialised(None, size + ALIGNMENT)
            start = -_address_of_bytearray(block) % ALIGNMENT
        self._block = block
        self._start = start
        self.address: int = _address_of_bytearray(block) + start
        self.size = size

    def view(self) -> memoryview:
        """Return a writable view of the bytes."""
        return memoryview(self._block)[self._start : self._start + self.size]

    def content(self) -> bytearray:
        """Return the bytes: the block itself if it contains nothing else, otherwise a copy."""
        if len(self._block) == self.size:
            return self._block
        return self._block[self._start : self._start + self.size]


class MemoryLoan:
    """Ordinary memory as a `dora.transport.interface.Loan`."""

    __slots__ = ("_memory", "_put", "address", "memory", "size")

    def __init__(self, output_id: str, size: int, put: Callable[[bytearray, bytes], None]) -> None:
        """Allocate; ``put`` sends the content. Raises `SendError`."""
        try:
            # Kept as long as the loan, not only until it is sent: the program may still read it.
            self._memory = AlignedMemory(size)
        except MemoryError:
            raise SendError(f"output `{output_id}`: no memory for {size} bytes") from None
        self._put = put
        self.address = self._memory.address
        self.memory = self._memory.view()
        self.size = size

    def send(self, control: bytes = b"") -> None:
        self._put(self._memory.content(), control)

    def discard(self) -> None:
        """Nothing to do: the last reference frees the memory."""


def message_from_bytes(data: bytes) -> UntrustedMessage:
    """Return the message in ``data``, without copying the body of a large one.

    The message came over a network, so all of it is validated. Raises `MessageError`, `MetadataError` and
    `PayloadError`.
    """
    if len(data) <= _SMALL:
        message = UntrustedMessage(data)
    else:
        offset = int.from_bytes(data[12:16], "little")
        message = UntrustedMessage(data[:offset], _address_of_bytes(data), data)
    message.validate(len(data))
    check(message)
    return message
