"""Payloads: what users send and receive, to and from the body of a message.

Sending takes ``bytes``, ``bytearray``, ``memoryview``, NumPy arrays of any dtype, Arrow arrays,
chunked arrays, record batches and tables. `encode` turns each into a `Payload`: the encoding, the
schema section, and a body that is either an address range to copy from or an Arrow stream to write.
Receiving is the inverse: `decode_arrow` gives an Arrow array over the received memory, without a
copy.

The common case, a fixed-width array without nulls (images, tensors, numbers, bytes), is one buffer
and needs neither Arrow's IPC nor, for NumPy and bytes, pyarrow itself: importing it costs 130 ms and
50 MB, so a node that receives nothing imports it when it first touches an Arrow value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import string_at
from typing import TYPE_CHECKING, Any

from dora.wire.message import MAX_SCHEMA, Encoding, Message, pack_head

if TYPE_CHECKING:
    import numpy as np

# Format strings of Arrow's C data interface for NumPy's kinds and sizes.
# https://arrow.apache.org/docs/format/CDataInterface.html#data-type-description-format-strings
_NUMPY_FORMATS = {
    "|i1": b"c",
    "|u1": b"C",
    "<i2": b"s",
    "<u2": b"S",
    "<i4": b"i",
    "<u4": b"I",
    "<i8": b"l",
    "<u8": b"L",
    "<f2": b"e",
    "<f4": b"f",
    "<f8": b"g",
}
_NUMPY_DTYPES = {format_: dtype for dtype, format_ in _NUMPY_FORMATS.items()}
_ARROW_NAMES = {
    b"c": "int8",
    b"C": "uint8",
    b"s": "int16",
    b"S": "uint16",
    b"i": "int32",
    b"I": "uint32",
    b"l": "int64",
    b"L": "uint64",
    b"e": "float16",
    b"f": "float32",
    b"g": "float64",
}
_WIDTHS = {
    b"c": 1,
    b"C": 1,
    b"s": 2,
    b"S": 2,
    b"e": 2,
    b"i": 4,
    b"I": 4,
    b"f": 4,
    b"l": 8,
    b"L": 8,
    b"g": 8,
}

# Above this size an IPC payload is written straight into the message's memory (one copy) instead of
# being serialized first (two copies, but without the fixed cost of a stream).
STREAM_THRESHOLD = 32 * 1024


class Payload:
    """An encoded payload: ``size`` bytes of body at ``address`` (kept alive by ``keep``), or written
    by ``write(target)`` into a writable buffer of that size. ``body`` is set instead of ``address``
    where the body already is a ``bytes`` object."""

    __slots__ = ("address", "body", "encoding", "keep", "schema", "size", "write")

    def __init__(
        self,
        encoding: int,
        schema: bytes,
        size: int,
        *,
        address: int = 0,
        body: bytes | None = None,
        keep: object = None,
        write: Callable[[memoryview], None] | None = None,
    ) -> None:
        self.encoding = encoding
        self.schema = schema
        self.size = size
        self.address = address
        self.body = body
        self.keep = keep
        self.write = write

    def to_bytes(self) -> bytes:
        """Return the body as bytes (a copy, unless it is one already)."""
        if self.body is not None:
            return self.body
        if self.write is not None:
            target = bytearray(self.size)
            self.write(memoryview(target))
            return bytes(target)
        return string_at(self.address, self.size)


def warm_up() -> None:
    """Import pyarrow and go once through decoding, so that the first message is not a slow one.

    Otherwise a node would lose what arrives during the 100 ms and more that the import takes.
    """
    import pyarrow as pa

    for array in (pa.array([0], pa.uint8()), pa.array(["x"])):
        decode_arrow(_as_message(array))


# --------------------------------------------------------------------------- sending


def encode(data: Any) -> Payload:
    """Encode what a user passed to ``send_output``; raises ``TypeError`` for what cannot be sent."""
    encoder = _encoders.get(data.__class__)
    if encoder is None:
        encoder = _find_encoder(data)
    return encoder(data)


def _encode_bytes(data: bytes) -> Payload:
    return Payload(Encoding.PLAIN, b"C", len(data), body=data)


def _encode_buffer(data: Any) -> Payload:
    view = memoryview(data)
    return Payload(Encoding.PLAIN, b"C", view.nbytes, body=view.tobytes())


def _encode_numpy(data: np.ndarray[Any, Any]) -> Payload:
    format_ = _NUMPY_FORMATS.get(data.dtype.str)
    if format_ is None:
        return _encode_numpy_by_arrow(data)
    if not data.flags.c_contiguous:
        import numpy as np

        data = np.ascontiguousarray(data)
    return Payload(
        Encoding.PLAIN, format_, data.nbytes, address=data.__array_interface__["data"][0], keep=data
    )


def _encode_numpy_by_arrow(data: np.ndarray[Any, Any]) -> Payload:
    """Booleans, dates, strings, big-endian and structured dtypes: what Arrow makes of them."""
    import numpy as np
    import pyarrow as pa

    if not data.dtype.isnative:
        return encode(data.astype(data.dtype.newbyteorder("=")))
    flat = data.ravel()
    if flat.dtype.names:
        names = list(flat.dtype.names)
        return encode(
            pa.StructArray.from_arrays(
                [pa.array(np.ascontiguousarray(flat[name])) for name in names], names
            )
        )
    try:
        return encode(pa.array(flat))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"Arrow has no type for a NumPy array of dtype {data.dtype}: {error}") from None


def _encode_primitive(format_: bytes, width: int) -> Callable[[Any], Payload]:
    def encode_primitive(array: Any) -> Payload:
        if array.null_count:
            return _encode_ipc(array)
        values = array.buffers()[1]
        size = len(array) * width
        if values is None:
            return Payload(Encoding.PLAIN, format_, 0, body=b"")
        return Payload(
            Encoding.PLAIN,
            format_,
            size,
            address=values.address + array.offset * width,
            keep=values,
        )

    return encode_primitive


# Arrow type → the type itself, and its IPC schema message; b"" where only a stream will do.
_schemas: dict[Any, tuple[Any, bytes]] = {}


def _schema_section(batch: Any) -> bytes:
    """Return the schema message for a one-column batch, or b"" if the type needs a stream."""
    type_ = batch.schema.field(0).type
    try:
        known = _schemas.get(type_)
    except TypeError:  # an extension type that defines __eq__ but not __hash__
        return _make_schema_section(batch)
    # Types are equal whatever the metadata of their fields, which is part of the section.
    if known is None or (type_.num_fields and not type_.equals(known[0], check_metadata=True)):
        if len(_schemas) > 256:
            _schemas.clear()
        _schemas.pop(type_, None)
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

    batch = pa.RecordBatch.from_arrays([array], names=[""])
    schema = _schema_section(batch)
    if schema:
        size = pa.ipc.get_record_batch_size(batch)
        if size < STREAM_THRESHOLD:
            message = batch.serialize()
            return Payload(Encoding.BATCH, schema, message.size, address=message.address, keep=message)
    counter = pa.MockOutputStream()
    _write_stream(counter, batch)
    return Payload(
        Encoding.STREAM,
        b"",
        counter.size(),
        keep=batch,
        write=lambda target: _write_stream(pa.FixedSizeBufferWriter(pa.py_buffer(target)), batch),
    )


def _write_stream(sink: Any, batch: Any) -> None:
    import pyarrow as pa

    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _encode_chunked(data: Any) -> Payload:
    combined = data.combine_chunks()
    if combined.__class__ is data.__class__:  # several chunks that Arrow cannot join into one
        import pyarrow as pa

        combined = pa.concat_arrays(combined.chunks)
    return encode(combined)


def _encode_batch(data: Any) -> Payload:
    return encode(data.to_struct_array())


def _encode_table(data: Any) -> Payload:
    return encode(data.to_struct_array())


_encoders: dict[type, Callable[[Any], Payload]] = {
    bytes: _encode_bytes,
    bytearray: _encode_buffer,
    memoryview: _encode_buffer,
}


def _find_encoder(data: Any) -> Callable[[Any], Payload]:
    """Find and remember the encoder for a class seen for the first time."""
    kind = data.__class__
    encoder = _encoder_for(data)
    if encoder is None:
        raise TypeError(
            f"cannot send {_describe(data)}: pass bytes, a buffer, a NumPy array, or an Arrow array, "
            "chunked array, record batch or table"
            + (" (for text: pyarrow.array([text]))" if isinstance(data, str) else "")
        )
    _encoders[kind] = encoder
    return encoder


def _describe(data: Any) -> str:
    return (
        "None" if data is None else f"an object of type {type(data).__module__}.{type(data).__qualname__}"
    )


def _encoder_for(data: Any) -> Callable[[Any], Payload] | None:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(data, numpy.ndarray):
        return _encode_numpy
    pa: Any = sys.modules.get("pyarrow")
    if pa is not None:
        if isinstance(data, pa.ExtensionArray):
            return _encode_ipc
        if isinstance(data, pa.Array):
            for format_, name in _ARROW_NAMES.items():
                # These types have no parameters: the class of the array tells all.
                if data.type == getattr(pa, name)():
                    return _encode_primitive(format_, _WIDTHS[format_])
            return _encode_ipc
        if isinstance(data, pa.ChunkedArray):
            return _encode_chunked
        if isinstance(data, pa.RecordBatch):
            return _encode_batch
        if isinstance(data, pa.Table):
            return _encode_table
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
    """Arrays of other libraries that speak Arrow's PyCapsule interface."""
    import pyarrow as pa

    return encode(pa.array(data))


def plain_format(dtype: Any) -> tuple[bytes, str, int]:
    """Return (schema section, NumPy dtype string, item size) of a NumPy dtype for a loan.

    Raises ``TypeError`` for dtypes that are not plain numbers.
    """
    import numpy as np

    resolved = np.dtype(dtype)
    format_ = _NUMPY_FORMATS.get(resolved.str)
    if format_ is None:
        raise TypeError(
            f"a loan needs a plain number type such as uint8 or float32, not {resolved} "
            "(send arrays of other types with send_output)"
        )
    return format_, resolved.str, resolved.itemsize


def as_arrow(data: Any) -> Any:
    """Return what a receiver of ``data`` would get, for passing it on inside this process.

    Arrow arrays are returned as they are; what the sender could still change is copied. Raises
    ``TypeError`` for what cannot be sent.
    """
    pa: Any = sys.modules.get("pyarrow")
    if pa is not None and isinstance(data, pa.Array):
        return data
    return decode_arrow(_as_message(data))


def _as_message(data: Any) -> Message:
    payload = encode(data)
    head = pack_head(payload.encoding, payload.schema, b"", payload.size, 0, 0)
    return Message(head + payload.to_bytes())


# --------------------------------------------------------------------------- receiving


class PayloadError(ValueError):
    """The body of a received message cannot be decoded."""


_plain_decoders: dict[bytes, Callable[[Message], Any]] = {}
_arrow_schemas: dict[bytes, Any] = {}


def body_buffer(message: Message) -> Any:
    """Return the body as a ``pyarrow.Buffer`` over the received memory."""
    import pyarrow as pa

    if message.owner is None:
        return pa.py_buffer(message.small_body)
    return pa.foreign_buffer(message.address + message.body_offset, message.body_size, message.owner)


def decode_arrow(message: Message) -> Any:
    """Return the payload as a ``pyarrow.Array`` over the received memory.

    Raises `PayloadError`. What would take a look at every value is not checked, as the offsets of
    strings: call the array's ``validate(full=True)`` if its sender is not to be trusted.
    """
    if message.encoding != Encoding.PLAIN:
        return _decode_ipc(message)
    schema = message.schema
    decoder = _plain_decoders.get(schema)
    if decoder is None:
        decoder = _plain_decoders[schema] = _plain_decoder(schema)
    return decoder(message)


def _plain_decoder(schema: bytes) -> Callable[[Message], Any]:
    """Return a function for plain bodies of one type, with everything looked up beforehand."""
    import pyarrow as pa

    if schema not in _WIDTHS:
        raise _unknown_format(schema)
    type_ = getattr(pa, _ARROW_NAMES[schema])()
    width = _WIDTHS[schema]
    from_buffers, foreign_buffer, py_buffer = pa.Array.from_buffers, pa.foreign_buffer, pa.py_buffer

    def decode(message: Message) -> Any:
        size = message.body_size
        if size % width:
            raise _uneven(message)
        owner = message.owner
        if owner is None:
            buffer = py_buffer(message.small_body)
        else:
            buffer = foreign_buffer(message.address + message.body_offset, size, owner)
        return from_buffers(type_, size // width, [None, buffer])

    return decode


def _decode_ipc(message: Message) -> Any:
    import pyarrow as pa

    try:
        if message.encoding == Encoding.BATCH:
            section = message.schema
            schema = _arrow_schemas.get(section)
            if schema is None:
                schema = pa.ipc.read_schema(pa.py_buffer(section))
                if len(_arrow_schemas) > 256:
                    _arrow_schemas.clear()
                _arrow_schemas[section] = schema
            array = pa.ipc.read_record_batch(body_buffer(message), schema).column(0)
        elif message.encoding == Encoding.STREAM:
            with pa.ipc.open_stream(body_buffer(message)) as reader:
                array = reader.read_next_batch().column(0)
        else:
            raise PayloadError(f"a message has the unknown encoding {message.encoding}")
        array.validate()
    except PayloadError:
        raise
    except (
        pa.ArrowException,
        LookupError,
        StopIteration,
        EOFError,
        OSError,
        ValueError,
        MemoryError,
    ) as error:
        raise PayloadError(f"the payload of a message cannot be decoded: {error}") from error
    return array


def _unknown_format(schema: bytes) -> PayloadError:
    return PayloadError(f"a message holds values of the unknown format {schema[:20]!r}")


def _uneven(message: Message) -> PayloadError:
    return PayloadError(
        f"{message.body_size} bytes are not a whole number of {_ARROW_NAMES[message.schema]} values"
    )


def decode_bytes(message: Message) -> bytes:
    """Return the values of the payload as bytes (a copy).

    For a plain payload these are exactly the values; for other fixed-width types the values buffer of
    the array (one bit a value for booleans), and for the rest the Arrow IPC body. Raises
    `PayloadError`.
    """
    if message.encoding == Encoding.PLAIN:
        if message.owner is None:
            return message.small_body
        return string_at(message.address + message.body_offset, message.body_size)
    array = decode_arrow(message)
    width = _bit_width(array.type)
    buffers = array.buffers()
    if width and len(buffers) == 2 and array.offset == 0 and buffers[1] is not None:
        return bytes(buffers[1].to_pybytes()[: (len(array) * width + 7) // 8])
    return bytes(body_buffer(message).to_pybytes())


def _bit_width(type_: Any) -> int:
    """Return the bits of one value, 0 if there is no such number."""
    if type_.num_fields:
        return 0
    try:
        width: int = type_.bit_width
    except ValueError:
        return 0
    return width


def decode_numpy(message: Message) -> np.ndarray[Any, Any]:
    """Return the payload as a one-dimensional NumPy array.

    Plain payloads give a read-only view of the received memory; others go through Arrow's
    ``to_numpy(zero_copy_only=False)``. Raises `PayloadError`.
    """
    if message.encoding != Encoding.PLAIN:
        return _decode_numpy_by_arrow(message)
    import numpy as np

    dtype_name = _NUMPY_DTYPES.get(message.schema)
    if dtype_name is None:
        raise _unknown_format(message.schema)
    dtype = np.dtype(dtype_name)
    if message.body_size % dtype.itemsize:
        raise _uneven(message)
    if message.owner is None:
        return np.frombuffer(message.small_body, dtype=dtype)
    interface = _ArrayInterface(message, dtype.str, message.body_size // dtype.itemsize)
    return np.asarray(interface)


def _decode_numpy_by_arrow(message: Message) -> np.ndarray[Any, Any]:
    import pyarrow as pa

    array = decode_arrow(message)
    try:
        # Every value is read here anyway, so it costs little to look at the offsets first.
        array.validate(full=True)
        values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise PayloadError(f"the payload of a message cannot be turned into NumPy: {error}") from error
    return values


class _ArrayInterface:
    """Lends the memory of a message to NumPy, and keeps the message alive meanwhile."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, message: Message, dtype: str, length: int) -> None:
        self.owner = message.owner
        self.__array_interface__ = {
            "data": (message.address + message.body_offset, True),
            "shape": (length,),
            "typestr": dtype,
            "version": 3,
        }
