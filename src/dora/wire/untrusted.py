"""Checks of messages from untrusted sources: another machine, a file.

Arrow trusts its input: an offset that points outside the values of a string array leads to a crash, or to
other memory, when the string is read. So `dora.wire.decode` decodes an `UntrustedMessage` with all checks:

* the buffers lie inside the body, none is compressed (dora compresses none, and few bytes could become many
  gigabytes), and no dictionary is put together from pieces;
* an array claims no more values than its bytes can hold, apart from those that take no bytes (`_FREE`);
* Arrow's full validation: offsets, indices of dictionaries, types of unions, text that is UTF-8. For
  numbers, times and lists of fixed size there is nothing to check, so it costs nothing.

Shared memory belongs to one user, whose processes can do worse than send a wrong message; so messages from
there are decoded without these checks.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from dora.wire.message import Message, MessageError

_FREE: Final = 1 << 20  # values of a type that needs no bytes for them, as Arrow's null
_TABLE: Final = struct.Struct("<i")
_OFFSET: Final = struct.Struct("<H")
_RELATIVE: Final = struct.Struct("<I")
_PAIR: Final = struct.Struct("<qq")

# The fields of Arrow's flatbuffers, by their place: https://arrow.apache.org/docs/format/Columnar.html
_HEADER: Final = 2  # of a Message
_NODES, _BUFFERS, _COMPRESSION = 1, 2, 3  # of a RecordBatch
_DATA, _IS_DELTA = 1, 2  # of a DictionaryBatch


class UntrustedMessage(Message):
    """A message that is checked as a whole when it is decoded, once."""

    __slots__ = ("array",)
    trusted = False
    array: Any  # once it is decoded


def read_batch(body: Any, schema: Any) -> Any:
    """Return the first column of a body that is a record batch; raises what Arrow does, `MessageError`."""
    import pyarrow as pa

    message = pa.ipc.read_message(body)
    _check_batch(message)
    return _validated(pa.ipc.read_record_batch(message, schema))


def read_stream(body: Any) -> Any:
    """Return the first column of a body that is an Arrow stream; raises what Arrow does, `MessageError`."""
    import pyarrow as pa

    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type != "schema":
            _check_batch(message)
        if message.type == "record batch":
            break
    with pa.ipc.open_stream(body) as stream:
        return _validated(stream.read_next_batch())


def _validated(batch: Any) -> Any:
    array = batch.column(0)
    array.validate(full=True)
    return array


def _check_batch(message: Any) -> None:
    """Check a record batch, or a batch of a dictionary, before Arrow reads it: Arrow trusts its lengths."""
    data = memoryview(message.metadata)
    body_size = message.body.size if message.body is not None else 0
    try:
        table = _reference(data, _field(data, _RELATIVE.unpack_from(data)[0], _HEADER))
        if message.type == "dictionary":
            delta = _field(data, table, _IS_DELTA)
            if delta and data[delta]:
                raise MessageError("a dictionary comes in pieces")
            table = _reference(data, _field(data, table, _DATA))
        elif message.type != "record batch":
            raise MessageError(f"its body has a {message.type} where a record batch belongs")
        if _field(data, table, _COMPRESSION):
            raise MessageError("its body is compressed")
        for offset, size in _pairs(data, _field(data, table, _BUFFERS)):
            if offset < 0 or size < 0 or offset + size > body_size:
                raise MessageError("a buffer lies outside its body")
        for length, _ in _pairs(data, _field(data, table, _NODES)):
            if not 0 <= length <= max(8 * body_size, _FREE):
                raise MessageError(f"it claims {length:,} values in {body_size:,} bytes")
    except (struct.error, IndexError) as error:
        raise MessageError(f"its body is damaged: {error}") from error


def _field(data: memoryview, table: int, index: int) -> int:
    """Return where a field of a flatbuffer's table lies, 0 if it is not there."""
    offsets = table - _TABLE.unpack_from(data, table)[0]
    place = 4 + 2 * index
    if place >= _OFFSET.unpack_from(data, offsets)[0]:
        return 0
    relative: int = _OFFSET.unpack_from(data, offsets + place)[0]
    return table + relative if relative else 0


def _reference(data: memoryview, place: int) -> int:
    """Follow a field to the table or list that it refers to."""
    if not place:
        raise IndexError("something is missing")
    relative: int = _RELATIVE.unpack_from(data, place)[0]
    return place + relative


def _pairs(data: memoryview, place: int) -> list[tuple[int, int]]:
    """Return a list of two integers each."""
    if not place:
        return []
    begin = _reference(data, place)
    count: int = _RELATIVE.unpack_from(data, begin)[0]
    begin += 4
    return list(_PAIR.iter_unpack(data[begin : begin + count * _PAIR.size]))
