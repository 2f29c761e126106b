"""Decode payloads: from the body of a message to Arrow, NumPy or bytes.

`decode_arrow` returns an array over the received memory, for any encoding; small arrays and record batches
are copied where that takes less time. `decode_numpy` and `decode_bytes` need no pyarrow where the body is
plain.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from ctypes import addressof, c_char, memmove, string_at
from typing import TYPE_CHECKING, Any, Final

from dora.wire.array_shape import describe, restore
from dora.wire.arrow_formats import ARROW_NAMES, DTYPE_OF_FORMAT, WIDTHS
from dora.wire.encode import Payload, as_message, encode, last_received
from dora.wire.message import (
    BODY_OFFSET,
    BODY_SIZE,
    ENCODING,
    HEADER_SIZE,
    SCHEMA_SIZE,
    SMALL_BODY,
    Encoding,
    Message,
    MessageError,
)
from dora.wire.metadata import MetadataError, decode_metadata

if TYPE_CHECKING:
    import numpy as np


class PayloadError(ValueError):
    """The body of a received message cannot be decoded."""


BAD_MESSAGE: Final = (MessageError, MetadataError, PayloadError)
"""The errors of a message that is not valid."""

_plain_decoders: dict[bytes, _PlainDecoder] = {}
_arrow_schemas: dict[bytes, Any] = {}


def body_buffer(message: Message) -> Any:
    """Return the body as a ``pyarrow.Buffer`` over the received memory."""
    import pyarrow as pa

    if message.owner is None:
        return pa.py_buffer(message.small_body)
    return pa.foreign_buffer(message.address + message.body_offset, message.body_size, message.owner)


def decode_arrow(message: Message) -> Any:
    """Return the payload as a ``pyarrow.Array``, over the received memory unless a spare array is filled.

    Raises `PayloadError`. For a message from shared memory, checks that read every value are left out, for
    example of the offsets of strings. A `dora.wire.untrusted.UntrustedMessage` gets all checks.
    """
    global _wanted
    header = message.header
    size = header[BODY_SIZE]
    if header[ENCODING] != Encoding.PLAIN:
        if size <= _MAX_SPARE_BATCH and header[ENCODING] == Encoding.BATCH and message.trusted:
            return _decode_batch(message)
        return _decode_ipc(message)
    schema = message.head[HEADER_SIZE : HEADER_SIZE + header[SCHEMA_SIZE]]
    # Popped without a lock: no two threads get the same one.
    spare = _spares.pop((schema, size, b""), None)
    if spare is not None and message.owner is None:
        memory, array, payload = spare
        offset = header[BODY_OFFSET]
        memory[:] = memoryview(message.head)[offset : offset + size]
        _note_received(array, payload)
        _wanted = schema, size, b""
        return array
    decoder = _plain_decoders.get(schema)
    if decoder is None:
        decoder = _plain_decoders[schema] = _PlainDecoder(schema)
    array = decoder.decode(message)
    if size <= _MAX_SPARE:
        _wanted = schema, size, b""
    return array


# Creating an array takes 2 µs in a hot loop, but 40 to 60 in a process that has slept, and most messages
# have the type and size of the one before. So an idle node creates the array for the next small message
# ahead, over memory that the message will fill. That works for a record batch, too, if its description is
# the same, which says where in the body each buffer is: a pose has always the same one. To read the batch
# of an image of ROS takes 130 µs in such a process, and to copy 64 KiB out of shared memory 12. So batches
# up to a size are copied there; a node that is not idle reads each one where it lies.
_MAX_SPARE: Final = 8192  # bytes
_MAX_SPARE_BATCH: Final = 128 * 1024
_MAX_SPARES: Final = 8
_BATCH_PREFIX: Final = 8  # bytes before the description of a record batch: a mark, and its size
_Kind = tuple[bytes, int, bytes]  # the schema section, the bytes of the body, the description of a batch
_spares: dict[_Kind, tuple[memoryview, Any, Payload]] = {}  # memory, the array over it, its payload
_wanted: _Kind | None = None
_last_batch: _Kind | None = None
_replaced: tuple[object, Payload] | None = None  # `last_received` of before: to destroy it takes time, too


def _note_received(array: Any, payload: Payload) -> None:
    global _replaced
    _replaced = last_received.array, last_received.payload
    last_received.array, last_received.payload = array, payload


def prepare() -> None:
    """Create the array for the next message, if it is like the last one; called when a node is idle."""
    global _replaced, _wanted
    _replaced = None
    wanted = _wanted
    if wanted is not None:
        _wanted = None
        if wanted not in _spares:
            schema, size, description = wanted
            if len(_spares) >= _MAX_SPARES:
                _spares.clear()
            memory = memoryview(bytearray(size))
            contents = memory.toreadonly()
            if description:
                import pyarrow as pa

                memory[: len(description)] = description
                array, encoding = _read_batch(schema, pa.py_buffer(contents)), Encoding.BATCH
            else:
                array, encoding = _plain_decoders[schema].over(contents, size), Encoding.PLAIN
            if size <= SMALL_BODY:
                payload = Payload(encoding, schema, size, body=contents)
            else:
                payload = Payload(encoding, schema, size, addressof(c_char.from_buffer(memory)), memory)
            _spares[wanted] = memory, array, payload


def _decode_batch(message: Message) -> Any:
    """Decode a record batch, with the spare for it if there is one."""
    global _last_batch, _wanted
    header, head = message.header, message.head
    size, offset = header[BODY_SIZE], header[BODY_OFFSET]
    is_small = message.owner is None
    address = message.address + offset  # of a large one, in shared memory
    length = head[offset + 4 : offset + _BATCH_PREFIX] if is_small else string_at(address + 4, 4)
    begin = _BATCH_PREFIX + int.from_bytes(length, "little")
    if not _BATCH_PREFIX < begin <= size:
        return _decode_ipc(message)  # which says what is wrong
    schema = head[HEADER_SIZE : HEADER_SIZE + header[SCHEMA_SIZE]]
    kind = schema, size, head[offset : offset + begin] if is_small else string_at(address, begin)
    spare = _spares.pop(kind, None)
    if spare is None:
        array = _decode_ipc(message)
        if kind != _last_batch:  # texts of many lengths: a spare would seldom fit
            _last_batch = kind
            return array
    else:
        memory, array, payload = spare
        if is_small:
            memory[begin:] = memoryview(head)[offset + begin : offset + size]
        else:
            memmove(payload.address + begin, address + begin, size - begin)
        try:
            array.validate()  # the offsets of texts and lists are in the body
        except ValueError as error:
            raise _undecodable(error) from error
        _note_received(array, payload)
    _wanted = kind
    return array


def _read_batch(schema: bytes, buffer: Any) -> Any:
    import pyarrow as pa

    return pa.ipc.read_record_batch(buffer, _arrow_schema(schema)).column(0)


class _PlainDecoder:
    """Decodes plain bodies of one type; all lookups are done once."""

    def __init__(self, schema: bytes) -> None:
        import pyarrow as pa

        if schema not in WIDTHS:
            raise _unknown_format(schema)
        self._type = getattr(pa, ARROW_NAMES[schema])()
        self._width = WIDTHS[schema]
        self._from_buffers = pa.Array.from_buffers
        self._foreign_buffer, self._py_buffer = pa.foreign_buffer, pa.py_buffer

    def decode(self, message: Message) -> Any:
        size = message.body_size
        if size % self._width:
            raise _uneven(message)
        if message.owner is None:
            return self.over(message.small_body, size)
        buffer = self._foreign_buffer(message.address + message.body_offset, size, message.owner)
        return self._from_buffers(self._type, size // self._width, [None, buffer])

    def over(self, body: bytes | memoryview, size: int) -> Any:
        """Return an array over ``size`` bytes, which are a whole number of values."""
        return self._from_buffers(self._type, size // self._width, [None, self._py_buffer(body)])


def _decode_ipc(message: Message) -> Any:
    import pyarrow as pa

    try:
        if not message.trusted:
            array = _decode_untrusted(message)
        elif message.encoding == Encoding.BATCH:
            array = _read_batch(message.schema, body_buffer(message))
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
        ValueError,  # `MessageError`, too
        MemoryError,
        TypeError,
        NotImplementedError,
        OverflowError,
        RecursionError,
    ) as error:
        raise _undecodable(error) from error
    return array


def _undecodable(error: Exception) -> PayloadError:
    return PayloadError(f"the payload of a message cannot be decoded: {error}")


def _arrow_schema(section: bytes) -> Any:
    schema = _arrow_schemas.get(section)
    if schema is None:
        import pyarrow as pa

        schema = pa.ipc.read_schema(pa.py_buffer(section))
        if len(_arrow_schemas) > 256:  # a sender may use new types all the time
            _arrow_schemas.clear()
        _arrow_schemas[section] = schema
    return schema


def _decode_untrusted(message: Any) -> Any:
    """Decode an untrusted message, once; raises what Arrow raises."""
    array = getattr(message, "array", None)
    if array is None:
        from dora.wire.untrusted import read_batch, read_stream

        body = body_buffer(message)
        if message.encoding == Encoding.BATCH:
            array = read_batch(body, _arrow_schema(message.schema))
        elif message.encoding == Encoding.STREAM:
            array = read_stream(body)
        else:
            raise PayloadError(f"a message has the unknown encoding {message.encoding}")
        message.array = array
    return array


def check(message: Message) -> None:
    """Decode everything in a message; raises `MetadataError` or `PayloadError`.

    After that, reading the array of a `dora.wire.untrusted.UntrustedMessage` raises nothing.
    """
    if message.metadata_size:
        decode_metadata(message.metadata)
    if message.encoding != Encoding.PLAIN:
        _decode_ipc(message)
    elif (width := WIDTHS.get(message.schema)) is None:
        raise _unknown_format(message.schema)
    elif message.body_size % width:
        raise _uneven(message)


def _unknown_format(schema: bytes) -> PayloadError:
    return PayloadError(f"a message holds values of the unknown format {schema[:20]!r}")


def _uneven(message: Message) -> PayloadError:
    return PayloadError(
        f"{message.body_size} bytes are not a whole number of {ARROW_NAMES[message.schema]} values"
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
    """Return the payload as a NumPy array, in the shape and dtype that the metadata tells, else flat.

    Plain payloads give a read-only view of the received memory; others go through `to_numpy`. Raises
    `PayloadError`.
    """
    flat = _decode_flat(message)
    section = message.metadata
    return restore(flat, section) if section else flat


def _decode_flat(message: Message) -> np.ndarray[Any, Any]:
    if message.encoding != Encoding.PLAIN:
        return _decode_numpy_by_arrow(message)
    import numpy as np

    dtype_name = DTYPE_OF_FORMAT.get(message.schema)
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
        # NumPy gets a copy of every value, so checking the offsets first costs little.
        array.validate(full=True)
        values = to_numpy(array)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise PayloadError(f"the payload of a message cannot be turned into NumPy: {error}") from error
    return values


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return what ``to_numpy(zero_copy_only=False)`` gives; Python objects for an array with intervals."""
    if not _has_interval(array.type):
        values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
        return values
    import numpy as np

    return np.fromiter(array.to_pylist(), dtype=object, count=len(array))  # pyarrow would crash


def _has_interval(type_: Any) -> bool:
    import pyarrow as pa

    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_nested(type_):
        return any(_has_interval(type_.field(index).type) for index in range(type_.num_fields))
    return pa.types.is_interval(type_)


class _ArrayInterface:
    """Gives NumPy the memory of a message, and keeps the message alive."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, message: Message, dtype: str, length: int) -> None:
        self.owner = message.owner
        self.__array_interface__ = {
            "data": (message.address + message.body_offset, True),
            "shape": (length,),
            "typestr": dtype,
            "version": 3,
        }


def as_arrow(data: Any, metadata: Mapping[str, Any] | None = None) -> tuple[Any, Mapping[str, Any] | None]:
    """Return the array and the metadata that a receiver of ``data`` would get, for one in this process.

    Arrow arrays are returned as they are; data that the sender could still change is copied. Raises
    ``TypeError`` for data that cannot be sent.
    """
    pa: Any = sys.modules.get("pyarrow")
    if pa is not None and isinstance(data, pa.Array):
        return data, metadata
    payload = encode(data)
    if payload.array is not None or metadata:
        metadata = describe(data, metadata)
    return decode_arrow(payload.to_message(b"")), metadata


def storage_of(array: Any) -> Any:
    """Return the storage of an array of an extension type, other values as they are."""
    pa: Any = sys.modules.get("pyarrow")
    return array.storage if pa is not None and isinstance(array, pa.ExtensionArray) else array


def warm_up() -> None:
    """Import pyarrow, and decode a message of each encoding, so that the first ones are not slow.

    No array is made of Python values, for which Arrow would import pandas.
    """
    import pyarrow as pa

    for format_ in WIDTHS.keys() - _plain_decoders.keys():
        _plain_decoders[format_] = _PlainDecoder(format_)
    for array in (pa.nulls(0, pa.uint8()), pa.nulls(1, pa.string())):
        decode_arrow(as_message(array))
