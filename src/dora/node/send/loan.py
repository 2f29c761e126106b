"""Loans: shared memory that a program fills in place and sends without a copy."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Mapping
from typing import Any, cast

from dora.errors import SampleAlreadySent, SendError
from dora.node.send.output import OutputPort
from dora.transport.interface import Loan


class SampleHandler:
    """Memory for one message, to be filled in place and sent without a copy.

    As a context manager it gives the writable buffer and sends it at the end of the block, unless the block
    raises::

        with node.send_output_raw("image", 640 * 480 * 3) as buffer:
            np.frombuffer(buffer, dtype=np.uint8)[:] = 0

    A sample that was not sent can be sent later; its memory is given back with the last reference to it.
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
        self._buffer: SampleBuffer | None = None

    def as_buffer(self) -> memoryview:
        """Return the writable memory, one-dimensional, format ``"B"``; each time the same object.

        It is a `SampleBuffer`, and with Python 3.11 a ``memoryview``. Raises `SampleAlreadySent`.
        """
        view = self.open_view()
        if sys.version_info < (3, 12):
            return view
        if self._buffer is None:
            self._buffer = SampleBuffer(self)
        return cast("memoryview", self._buffer)

    def as_memoryview(self) -> memoryview:
        """Return a new view of the memory; `send` requires its ``release()``.

        Raises `SampleAlreadySent`.
        """
        return self.open_view()[:]

    def open_view(self) -> memoryview:
        """Return this sample's own view of the memory; raises `SampleAlreadySent`."""
        if self._loan is None:
            raise SampleAlreadySent(f"the sample for output `{self._port.id}` has already been sent")
        return self._view

    def send(self) -> None:
        """Send the sample.

        Raises `SampleAlreadySent` the second time, and `SendError` while a view of the buffer (a NumPy
        array, say) is open; it can be sent once that is gone.
        """
        self.open_view()
        if self._in_use():
            raise SendError(
                f"the sample for output `{self._port.id}` is not sent, because a view of its buffer is "
                "still open; delete the arrays over it, call `release()` of its memoryview, and send again"
            )
        self.send_in_use()

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

    def send_in_use(self) -> None:
        """Send the sample although a view may be open, which must not be written to any more."""
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
            self.send()


class SampleBuffer:
    """The memory of a sample for everything that takes buffers, from Python 3.12 on.

    It has the methods of a ``memoryview``. After the sample was sent or is gone, a new view raises
    ``BufferError``.
    """

    def __init__(self, sample: SampleHandler) -> None:
        self._sample = weakref.ref(sample)

    def __buffer__(self, flags: int, /) -> memoryview:
        sample = self._sample()
        if sample is None:
            raise BufferError("this buffer has no memory any more, because its sample is gone")
        try:
            return sample.open_view()[:]
        except SampleAlreadySent as error:
            raise BufferError(str(error)) from None

    def __release_buffer__(self, view: memoryview, /) -> None:  # NumPy watches a buffer only if this exists
        view.release()

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, key: Any) -> Any:
        return self._open()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._open()[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._open(), name)

    def _open(self) -> memoryview:
        return memoryview(cast("memoryview", self))


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
        if kind is None:
            self._sample.send_in_use()
        else:
            self._sample.discard()
