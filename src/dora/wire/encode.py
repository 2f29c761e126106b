"""Encode payloads: from the data that users send to the body of a message.

`encode` turns ``bytes``, ``bytearray``, ``memoryview``, NumPy arrays of any dtype, Arrow arrays,
chunked arrays, record batches and tables into a `Payload`: the encoding, the schema section, and a
body that is either an address range to copy from or an Arrow stream to write. `dora.wire.decode` is
the inverse.

The common case, a fixed-width array without nulls (images, tensors, numbers, bytes), is one buffer
and needs neither Arrow's IPC nor, for NumPy and bytes, pyarrow itself: importing it costs 130 ms and
50 MB, so a node that receives nothing imports it when it first touches an Arrow value.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from ctypes import c_ubyte, memmove, string_at
from typing import TYPE_CHECKING, Any, Final

from dora.errors import UnsupportedData
from dora.wire.array_shape import describe
from dora.wire.arrow_formats import ARROW_NAMES, FORMAT_OF_DTYPE, WIDTHS
from dora.wire.message import MAX_SCHEMA, Encoding, Message, pack_head
from dora.wire.metadata import encode_metadata

if TYPE_CHECKING:
    import numpy as np

# From this size on an IPC payload is written straight into the message's memory (one copy) instead of
# being serialized first (two copies, but without the fixed cost of a stream: 24 µs here, and its schema
# costs the receiver 6 µs; a process that has slept takes several times as long for both).
STREAM_THRESHOLD = 1 << 20

# From this size on, several threads of Arrow's copy the values: one alone does not reach the memory's
# bandwidth (40 MiB take 11 ms with one, 4 ms with two).
PARALLEL_COPY: Final = 16 << 20
_COPY_THREADS: Final = min(4, os.cpu_count() or 1)


class Payload:
    """An encoded payload: ``size`` bytes of body at ``address`` (kept alive by ``keep``), or written
    by ``write(target)`` into a writable buffer of that size. ``body`` is set instead of ``address``
    where the body already is an object with bytes in it. ``array``: the NumPy array whose shape or dtype
    the values alone do not tell, for `dora.wire.array_shape.describe`.

    The message path gives the arguments by position: by name, they take twice as long.
    """

    __slots__ = ("address", "array", "body", "encoding", "keep", "schema", "size", "write")

    def __init__(
        self,
        encoding: int,
        schema: bytes,
        size: int,
        address: int = 0,
        keep: object = None,
        body: bytes | memoryview | None = None,
        write: Callable[[memoryview], None] | None = None,
        array: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.encoding = encoding
        self.schema = schema
        self.size = size
        self.address = address
        self.body = body
        self.keep = keep
        self.write = write
        self.array = array

    def to_bytes(self) -> bytes:
        """Return the body as bytes (a copy, unless it is one already)."""
        body = self.body
        if body is not None:
            return body if isinstance(body, bytes) else bytes(body)
        if self.write is not None:
            target = bytearray(self.size)
            self.write(memoryview(target))
            return bytes(target)
        return string_at(self.address, self.size)

    def to_message(self, section: bytes) -> Message:
        """Return a message with a copy of the body, and the metadata ``section``."""
        head = pack_head(self.encoding, self.schema, section, self.size, 0, 0, self.to_bytes())
        return Message(head)

    def copy_to(self, address: int) -> None:
        """Write the body to ``size`` bytes of memory: one copy."""
        if self.write is not None:
            self.write(_memory_at(address, self.size))
        elif self.body is not None:
            memmove(address, self.to_bytes(), self.size)
        elif self.size >= PARALLEL_COPY and "pyarrow" in sys.modules:
            import pyarrow as pa

            source = pa.foreign_buffer(self.address, self.size, self.keep)
            _writer(_memory_at(address, self.size)).write(source)
        else:
            memmove(address, self.address, self.size)


def _memory_at(address: int, size: int) -> memoryview:
    return memoryview((c_ubyte * size).from_address(address)).cast("B")


def _writer(target: memoryview) -> Any:
    """Return an Arrow file over memory that copies large buffers with several threads."""
    import pyarrow as pa

    writer = pa.FixedSizeBufferWriter(pa.py_buffer(target))
    writer.set_memcopy_threads(_COPY_THREADS)
    writer.set_memcopy_threshold(PARALLEL_COPY)
    return writer


class EncodedArray:
    """An array that is encoded already: its Arrow type, and its payload."""

    __slots__ = ("payload", "type")

    def __init__(self, type: Any, payload: Payload) -> None:
        self.type, self.payload = type, payload


class LastReceived:
    """The last received array, if it was small, and its payload.

    Many nodes pass on what they receive, and Arrow arrays do not change: it is sent without encoding again.
    """

    __slots__ = ("array", "payload")

    def __init__(self) -> None:
        self.array: object = object()
        self.payload = Payload(Encoding.PLAIN, b"C", 0, body=b"")


last_received: Final = LastReceived()


def encode(data: Any) -> Payload:
    """Encode the data of a ``send_output``; raises `UnsupportedData` for data that cannot be sent."""
    if data is last_received.array:
        return last_received.payload
    encoder = _encoders.get(data.__class__)
    if encoder is None:
        encoder = _find_encoder(data)
    return encoder(data)


def _encode_bytes(data: bytes) -> Payload:
    return Payload(Encoding.PLAIN, b"C", len(data), 0, None, data)


def _encode_buffer(data: Any) -> Payload:
    view = memoryview(data)
    return Payload(Encoding.PLAIN, b"C", view.nbytes, 0, None, view.tobytes())


def _encode_numpy(data: np.ndarray[Any, Any]) -> Payload:
    format_ = FORMAT_OF_DTYPE.get(data.dtype.str)
    if format_ is None:
        payload = _encode_numpy_by_arrow(data)
        payload.array = data
        return payload
    shaped = data if data.ndim != 1 else None
    if not data.flags.c_contiguous:
        import numpy as np

        data = np.ascontiguousarray(data)
    address = data.__array_interface__["data"][0]
    return Payload(Encoding.PLAIN, format_, data.nbytes, address, data, None, None, shaped)


def _encode_numpy_by_arrow(data: np.ndarray[Any, Any]) -> Payload:
    """Encode booleans, dates, text, complex numbers, big-endian and structured dtypes by way of Arrow.

    Complex numbers become pairs of floats.
    """
    import numpy as np
    import pyarrow as pa

    if not data.dtype.isnative:
        return encode(data.astype(data.dtype.newbyteorder("=")))
    flat = data.ravel()
    if flat.dtype.kind == "c" and flat.dtype.itemsize <= 16:
        return encode(np.ascontiguousarray(flat).view(f"f{flat.dtype.itemsize // 2}"))
    try:
        if flat.dtype.names:
            names = list(flat.dtype.names)
            fields = [_arrow_of_numpy(np.ascontiguousarray(flat[name])) for name in names]
            return encode(pa.StructArray.from_arrays(fields, names))
        return encode(_arrow_of_numpy(flat))
    except (
        *(pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError),
        *(OverflowError, UnicodeError),  # of integers and text in arrays of objects
    ) as error:
        raise UnsupportedData(
            f"Arrow has no type for a NumPy array of dtype {data.dtype}: {error}"
        ) from None


def _encode_masked(data: Any) -> Payload:
    """Encode a NumPy array with a mask: what it hides becomes null."""
    import numpy as np

    if not np.ma.is_masked(data):
        return _encode_numpy(np.asarray(data))
    if data.dtype.names or data.dtype.kind == "c":
        raise UnsupportedData(f"Arrow has no type for a NumPy array of dtype {data.dtype} with a mask")
    payload = _encode_numpy_by_arrow(data)
    if data.dtype.kind not in "US":  # a receiver that restores such a dtype would make text of null
        payload.array = data
    return payload


def _arrow_of_numpy(flat: np.ndarray[Any, Any]) -> Any:
    """Return a NumPy array as an Arrow array; raises what pyarrow raises."""
    import pyarrow as pa

    # Arrow would take each text of NumPy up to its first zero.
    if flat.dtype.kind == "U":
        return pa.array(flat.tolist(), pa.string())
    if flat.dtype.kind == "S":
        return pa.array(flat.tolist(), pa.binary())
    return pa.array(flat)


def _encode_primitive(format_: bytes, width: int) -> Callable[[Any], Payload]:
    def encode_primitive(array: Any) -> Payload:
        if array.null_count:
            return _encode_ipc(array)
        values = array.buffers()[1]
        size = len(array) * width
        if values is None:
            return Payload(Encoding.PLAIN, format_, 0, body=b"")
        return Payload(Encoding.PLAIN, format_, size, values.address + array.offset * width, values)

    return encode_primitive


# Arrow type → the type itself, and its IPC schema message; b"" where only a stream will do.
_schemas: dict[Any, tuple[Any, bytes]] = {}


def batch_of(array: Any) -> Any:
    """Return the record batch in which an array is sent."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([array], names=[""])


def schema_section(batch: Any) -> bytes:
    """Return the schema message for a one-column batch, or b"" if the type needs a stream."""
    type_ = batch.schema.field(0).type
    try:
        known = _schemas.get(type_)
    except TypeError:  # an extension type that defines __eq__ but not __hash__
        return _make_schema_section(batch)
    # Types are equal whatever the metadata of their fields, which is part of the section.
    if known is None or (type_.num_fields and not type_.equals(known[0], check_metadata=True)):
        if len(_schemas) > 256:  # a program may make new types all the time
            _schemas.clear()
        known = _schemas[type_] = (type_, _make_schema_section(batch))
    return known[1]


def _make_schema_section(batch: Any) -> bytes:
    if _has_dictionary(batch.schema.field(0).type):
        return b""
    section: bytes = batch.schema.serialize().to_pybytes()
    return section if len(section) <= MAX_SCHEMA else b""


def _has_dictionary(type_: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(type_):
        return True
    storage = getattr(type_, "storage_type", None)
    if storage is not None:
        return _has_dictionary(storage)
    return any(_has_dictionary(type_.field(index).type) for index in range(type_.num_fields))


def _encode_ipc(array: Any) -> Payload:
    import pyarrow as pa

    batch = batch_of(array)
    try:
        schema = schema_section(batch)
        if schema:
            size = pa.ipc.get_record_batch_size(batch)
            if size < STREAM_THRESHOLD:
                message = batch.serialize()
                return Payload(Encoding.BATCH, schema, message.size, message.address, message)
        counter = pa.MockOutputStream()
        _write_stream(counter, batch)
    except (pa.ArrowException, RecursionError) as error:  # such as lists that nest 70 deep
        raise UnsupportedData(f"Arrow cannot write an array of its type: {error}") from None
    return Payload(
        Encoding.STREAM,
        b"",
        counter.size(),
        keep=batch,
        write=lambda target: _write_stream(_writer(target), batch),
    )


def _write_stream(sink: Any, batch: Any) -> None:
    import pyarrow as pa

    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _encode_chunked(data: Any) -> Payload:
    if not len(data):
        return encode(_empty(data.type))
    combined = data.combine_chunks()
    if combined.__class__ is data.__class__:  # several chunks that Arrow cannot join into one
        import pyarrow as pa

        combined = pa.concat_arrays(combined.chunks)
    return encode(combined)


def _encode_columns(data: Any) -> Payload:
    """Encode a record batch or a table."""
    if not data.num_rows:
        import pyarrow as pa

        columns = [_empty(field.type) for field in data.schema]
        data = pa.RecordBatch.from_arrays(columns, schema=data.schema)
    return encode(data.to_struct_array())


def _empty(type_: Any) -> Any:
    """Return an array without values; Arrow joins no chunks of some types, if there are none."""
    import pyarrow as pa

    return pa.nulls(0, type_)


_encoders: dict[type, Callable[[Any], Payload]] = {
    bytes: _encode_bytes,
    bytearray: _encode_buffer,
    memoryview: _encode_buffer,
    EncodedArray: lambda data: data.payload,
}


def _find_encoder(data: Any) -> Callable[[Any], Payload]:
    """Find and remember the encoder for a class seen for the first time."""
    kind = data.__class__
    encoder = _encoder_for(data)
    if encoder is None:
        raise UnsupportedData(
            f"cannot send {_describe(data)}: pass bytes, a buffer, a NumPy array, or an Arrow array, "
            "chunked array, record batch or table" + _hint(data)
        )
    _encoders[kind] = encoder
    return encoder


def _describe(data: Any) -> str:
    if data is None:
        return "None"
    kind = type(data)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"an object of type {module}{kind.__qualname__}"


def _hint(data: Any) -> str:
    if isinstance(data, (str, bool, int, float, dict)):
        return f" (for one {type(data).__name__}: pyarrow.array([value]))"
    return " (for a list: pyarrow.array(value))" if isinstance(data, (list, tuple)) else ""


def _encoder_for(data: Any) -> Callable[[Any], Payload] | None:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(data, numpy.ndarray):
        masked = sys.modules.get("numpy.ma")  # a program that makes one has imported it
        if masked is not None and isinstance(data, masked.MaskedArray):
            return _encode_masked
        return _encode_numpy
    pa: Any = sys.modules.get("pyarrow")
    if pa is not None:
        if isinstance(data, pa.ExtensionArray):
            return _encode_ipc
        if isinstance(data, pa.Array):
            for format_, name in ARROW_NAMES.items():
                # These types have no parameters: the class of the array is enough.
                if data.type == getattr(pa, name)():
                    return _encode_primitive(format_, WIDTHS[format_])
            return _encode_ipc
        if isinstance(data, pa.ChunkedArray):
            return _encode_chunked
        if isinstance(data, (pa.RecordBatch, pa.Table)):
            return _encode_columns
        if isinstance(data, pa.Buffer):
            return _encode_buffer
    if hasattr(data, "__arrow_c_array__"):
        return _encode_foreign
    try:
        memoryview(data).release()
    except TypeError:
        return None
    return _encode_buffer


def _encode_foreign(data: Any) -> Payload:
    """Encode an array of another library that has Arrow's PyCapsule interface."""
    import pyarrow as pa

    return encode(pa.array(data))


def as_message(data: Any) -> Message:
    """Return ``data`` as a message without sequence number; its metadata is the shape of a NumPy array.

    Raises `UnsupportedData` for data that cannot be sent.
    """
    payload = encode(data)
    metadata = describe(data, None) if payload.array is not None else None
    return payload.to_message(encode_metadata(metadata) if metadata else b"")


def warm_up(*, numpy: bool) -> None:
    """Make and encode arrays of Python values, and with ``numpy`` of a NumPy array; pyarrow is loaded.

    For the first ones Arrow imports pandas (a second), dateutil and ``numpy.ma``, if they are installed.
    """
    import pyarrow as pa

    for name in ARROW_NAMES.values():
        encode(pa.nulls(0, getattr(pa, name)()))
    encode(pa.array(["x"]))
    if numpy:
        import numpy as np

        pa.array(np.zeros(1))
