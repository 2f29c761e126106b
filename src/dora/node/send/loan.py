"""Loans: shared memory that a program fills in place and sends without a copy."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from typing import Any

from dora.errors import SampleAlreadySent, SendError
from dora.node.send.output import OutputPort
from dora.transport.interface import Loan


class SampleHandler:
    """Memory for one message, to be filled in place and sent without a copy.

    As a context manager it gives the writable buffer and sends it at the end of the block, or drops
    it when the block raises::

        with node.send_output_raw("image", 640 * 480 * 3) as buffer:
            np.frombuffer(buffer, dtype=np.uint8)[:] = 0
    """

    def __init__(
        self, port: OutputPort, schema: bytes, size: int, metadata: Mapping[str, Any] | None
    ) -> None:
        if size < 0:
            raise ValueError(f"a sample cannot have {size} bytes")
        self._port = port
        self._schema = schema
        self._size = size
        loan, offset, self._section = port.loan(schema, size, metadata)
        self._loan: Loan | None = loan
        memory: Any = (ctypes.c_ubyte * size).from_address(loan.address + offset)
        memory.loan = loan  # which lives as long as any view of the memory
        # Views of a view share its memory object, not the view itself: whether the buffer is still
        # in use shows in whether the memory object outlives ours.
        self._memory = weakref.ref(memory)
        self._view = _bytes_of(memory)

    def as_buffer(self) -> memoryview:
        """Return the writable memory, one-dimensional, format ``"B"``.

        Raises `SampleAlreadySent`.
        """
        if self._loan is None:
            raise SampleAlreadySent(f"the sample for output `{self._port.id}` has already been sent")
        return self._view

    as_memoryview = as_buffer

    def send(self) -> None:
        """Send the sample.

        Raises `SampleAlreadySent` the second time, and `SendError` while something (a NumPy array,
        say) still uses the buffer; it can be sent once that is gone.
        """
        self.as_buffer()
        if self._in_use():
            raise SendError(
                f"the buffer for output `{self._port.id}` is still in use; delete the arrays over it, or "
                "use the sample as a context manager"
            )
        self._send()

    def _in_use(self) -> bool:
        """Release the buffer; return whether an array or another view of it lives on."""
        try:
            self._view.release()
        except BufferError:
            return True
        memory = self._memory()
        if memory is None:
            return False
        self._view = _bytes_of(memory)  # to be sent later
        return True

    def _send(self) -> None:
        loan, self._loan = self._loan, None
        if loan is not None:
            self._port.send_loan(loan, self._schema, self._section, self._size)

    def discard(self) -> None:
        """Give the memory back without sending."""
        loan, self._loan = self._loan, None
        if loan is not None:
            loan.discard()

    def __enter__(self) -> memoryview:
        return self.as_buffer()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._send()
        else:
            self.discard()


def _bytes_of(memory: Any) -> memoryview:
    if not len(memory):
        return memoryview(bytearray())  # an empty view of foreign memory has no format
    return memoryview(memory).cast("B")


class ArrayLoan:
    """A `SampleHandler` that shows its memory as a NumPy array; made by `Node.loan`."""

    def __init__(self, sample: SampleHandler, dtype: str, shape: tuple[int, ...]) -> None:
        import numpy as np

        self._sample = sample
        self._array = np.frombuffer(sample.as_buffer(), dtype=dtype).reshape(shape)

    def __enter__(self) -> Any:
        return self._array

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # The memory belongs to the receivers from here on.
        self._array.flags.writeable = False
        self._sample.__exit__(kind, error, trace)
