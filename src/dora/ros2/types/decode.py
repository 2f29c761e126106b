"""Decode CDR: from received bytes to an Arrow struct array of one row.

The bytes come from the network, so nothing in them is believed: each length is compared with the bytes that
are left before memory is taken for it.

Values are collected in columns, one for each item of the layout, however deep the item is: the points of
all polygons of a message are one array. Numbers of arrays and sequences are never Python objects.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dora.ros2.types.columns import Columns, Malformed, RecordColumn, bits, builder, new_columns, py_buffer
from dora.ros2.types.errors import MalformedMessage
from dora.ros2.types.layout import (
    DTYPES,
    HEADER,
    CdrLayout,
    Item,
    ListItem,
    NumberGroup,
    NumberList,
    RecordList,
    TextItem,
    TextList,
)
from dora.ros2.types.records import one_record, packed, record_dtype
from dora.ros2.types.transcode import Irregular, Transcode, compile_transcode
from dora.wire.encode import EncodedArray, encode

# The first two bytes of a message, and the order of its bytes.
_ORDERS: Final = {b"\x00\x01": "<", b"\x00\x00": ">"}
_NATIVE: Final = "<" if sys.byteorder == "little" else ">"
_NATIVE_HEADER: Final = next(head for head, order in _ORDERS.items() if order == _NATIVE)
Read = Callable[["_Received", int, Columns], int]  # from a position; returns the position after it


class _Received:
    """The bytes of one message, after its header."""

    __slots__ = ("buffer", "data", "size")

    def __init__(self, buffer: pa.Buffer, data: memoryview) -> None:
        self.buffer, self.data, self.size = buffer, data, len(data)


class Decoder:
    """Decodes messages of one type."""

    def __init__(self, layout: CdrLayout) -> None:
        self._layout = layout
        self._readers: dict[str, list[Read]] = {}
        self._build = builder(layout.root, layout)

    def decode(self, buffer: Any) -> pa.StructArray:
        """Return the message of a buffer. Raises `MalformedMessage`."""
        found: pa.StructArray = self._decode(buffer, lambda columns: self._build(columns, 1))
        return found

    def transcode(self, buffer: Any) -> EncodedArray:
        """Return the message of a buffer as it is sent. Raises `MalformedMessage`."""
        data = buffer if buffer.__class__ is bytes else bytes(memoryview(buffer))
        if data[:2] == _NATIVE_HEADER:
            try:
                return self._transcode(data)
            except (Irregular, Malformed, struct.error):
                pass  # the array is made, or tells what is wrong
        array = self.decode(data)
        return EncodedArray(array.type, encode(array))

    @cached_property
    def _transcode(self) -> Transcode:
        from dora.ros2.types.encode import Encoder

        defaults = Encoder(self._layout, self._layout.name).encode({})
        return compile_transcode(
            self._layout, self.decode(defaults), _readers(self._layout, _NATIVE), _received
        )

    def _decode(self, buffer: Any, finish: Callable[[Columns], Any]) -> Any:
        try:
            held = buffer if isinstance(buffer, pa.Buffer) else py_buffer(buffer)
        except BufferError:  # it has gaps
            held = py_buffer(memoryview(buffer).tobytes())
        full = memoryview(held)
        order = _ORDERS.get(bytes(full[:2]))
        if order is None or len(full) < HEADER:
            raise self._malformed(_bad_header(bytes(full[:HEADER])))
        readers = self._readers.get(order)
        if readers is None:
            readers = self._readers[order] = _readers(self._layout, order)
        source = _Received(held, full[HEADER:])
        columns = new_columns(self._layout)
        at = 0
        try:
            for read in readers:
                at = read(source, at, columns)
            return finish(columns)
        except struct.error:
            raise self._malformed(f"it ends within a value: it has {len(full)} bytes") from None
        except Malformed as error:
            raise self._malformed(str(error)) from None

    def _malformed(self, reason: str) -> MalformedMessage:
        return MalformedMessage(f"a received message is no {self._layout.name}: {reason}")


def _received(data: bytes) -> _Received:
    held = py_buffer(data)
    return _Received(held, memoryview(held)[HEADER:])


def _bad_header(head: bytes) -> str:
    if len(head) < HEADER:
        return f"it has {len(head)} bytes, but the header alone has {HEADER}"
    if head[0] == 0 and 2 <= head[1] <= 11:
        return f"its encoding is 0x{head.hex()[:4]}, but ROS sends plain XCDR version 1 (0x0000, 0x0001)"
    return f"it begins with 0x{head.hex()[:4]}, which is no encoding of CDR"


# Reading, in the order of the bytes.


def _readers(layout: CdrLayout, order: str) -> list[Read]:
    return [_reader(number, item, order) for number, item in enumerate(layout.items)]


def _reader(number: int, item: Item, order: str) -> Read:
    match item:
        case NumberGroup():
            return _group_reader(number, item, order)
        case TextItem():
            read_text = _text_reader(item.path, item.wide, item.bound, order)

            def read_one(source: _Received, at: int, columns: Columns) -> int:
                text, at = read_text(source, at)
                columns[number].append(text)
                return at

            return read_one
        case NumberList():
            return _numbers_reader(number, item, order)
        case TextList():
            return _texts_reader(number, item, order)
        case RecordList():
            return _records_reader(number, item, order)


def _group_reader(number: int, item: NumberGroup, order: str) -> Read:
    layouts = [(one.unpack_from, one.size) for one in item.structs(order)]

    def read(source: _Received, at: int, columns: Columns) -> int:
        unpack_from, size = layouts[at & 7]
        columns[number].append(unpack_from(source.data, at))
        return at + size

    return read


def _length_reader(order: str) -> Callable[[_Received, int], tuple[int, int]]:
    unpack_from = struct.Struct(order + "I").unpack_from

    def read(source: _Received, at: int) -> tuple[int, int]:
        at += -at & 3
        return unpack_from(source.data, at)[0], at + 4

    return read


def _count_reader(item: ListItem, least: int, order: str) -> Callable[[_Received, int], tuple[int, int]]:
    """Return what reads and checks the number of elements, of ``least`` bytes each."""
    read_length, path = _length_reader(order), item.path
    fixed = item.count

    def read(source: _Received, at: int) -> tuple[int, int]:
        count = fixed
        if not fixed:
            count, at = read_length(source, at)
            if item.refuses(count):
                raise Malformed(f"field {path!r} has {count} elements, but the type says {item}")
        if count * least > source.size - at:
            raise Malformed(
                f"field {path!r} claims {count} elements, but {source.size - at} bytes are left"
            )
        return count, at

    return read


def _text_reader(
    path: str, wide: bool, bound: int, order: str
) -> Callable[[_Received, int], tuple[str | bytes, int]]:
    read_length = _length_reader(order)
    units = np.dtype(order + "u4")

    def read(source: _Received, at: int) -> tuple[str, int]:
        length, at = read_length(source, at)
        end = at + length
        if end > source.size:
            raise Malformed(
                f"field {path!r} claims {length} bytes of text, but {source.size - at} are left"
            )
        # A string ends with a zero, that counts. Some senders leave it out, and ROS accepts that.
        cut = end - 1 if length and not source.data[end - 1] else end
        text = str(source.data[at:cut], "utf-8", "replace")  # rclpy replaces what is no UTF-8, too
        if bound and len(text) > bound:
            raise Malformed(f"field {path!r} has {len(text)} characters, but the type says at most {bound}")
        return text, end

    def read_wide(source: _Received, at: int) -> tuple[str, int]:
        # Units of UTF-16 without a zero at the end, each in four bytes: so Fast DDS writes them.
        length, at = read_length(source, at)
        end = at + 4 * length
        if end > source.size:
            raise Malformed(
                f"field {path!r} claims {length} characters, but {source.size - at} bytes are left"
            )
        if bound and length > bound:
            raise Malformed(f"field {path!r} has {length} characters, but the type says at most {bound}")
        found = np.frombuffer(source.data, units, length, at)
        if length and int(found.max()) > 0xFFFF:
            raise Malformed(f"field {path!r} has a wide character of more than 16 bits")
        return found.astype("<u2").tobytes().decode("utf-16-le", "replace"), end

    return read_wide if wide else read


def _texts_reader(number: int, item: TextList, order: str) -> Read:
    read_count = _count_reader(item, 4, order)
    read_text = _text_reader(item.path, item.wide, item.bound, order)

    def read(source: _Received, at: int, columns: Columns) -> int:
        count, at = read_count(source, at)
        texts = []
        for _ in range(count):
            text, at = read_text(source, at)
            texts.append(text)
        columns[number].append(texts)
        return at

    return read


def _numbers_reader(number: int, item: NumberList, order: str) -> Read:
    """Return what puts a buffer over the received bytes, or over a copy, and the number of elements."""
    width, is_bool = item.width, item.kind == "bool"
    read_count = _count_reader(item, width, order)
    dtype, native = np.dtype(order + DTYPES[item.kind]), np.dtype(DTYPES[item.kind])
    in_place = (order == _NATIVE or width == 1) and not is_bool

    def read(source: _Received, at: int, columns: Columns) -> int:
        count, at = read_count(source, at)
        if not count:
            columns[number].append((_EMPTY, 0))  # nothing is sent after the length, not even a gap
            return at
        at += -at % width
        size = count * width
        if size > source.size - at:
            raise Malformed(
                f"field {item.path!r} claims {count} elements, but {source.size - at} bytes are left"
            )
        begin = at + HEADER
        if in_place and (width == 1 or not (source.buffer.address + begin) % width):
            columns[number].append((source.buffer.slice(begin, size), count))
        else:
            found = np.frombuffer(source.data, dtype, count, at)
            values = bits(found, item.path) if is_bool else found.astype(native)
            columns[number].append((py_buffer(values), count))
        return at + size

    return read


_EMPTY: Final = py_buffer(b"")


def _records_reader(number: int, item: RecordList, order: str) -> Read:
    layout = item.layout
    read_count = _count_reader(item, layout.least, order)
    if layout.fixed:
        return _fixed_reader(number, item, order)
    readers = _readers(layout, order)

    def read(source: _Received, at: int, columns: Columns) -> int:
        count, at = read_count(source, at)
        column: RecordColumn = columns[number]
        column.lengths.append(count)
        inner = column.columns
        for _ in range(count):
            for read_item in readers:
                at = read_item(source, at, inner)
        return at

    return read


def _fixed_reader(number: int, item: RecordList, order: str) -> Read:
    """Return what puts records of fixed size into the column as structured arrays of NumPy."""
    layout = item.layout
    read_count = _count_reader(item, layout.least, order)
    layouts = [
        (way, record_dtype(way, order)) if (way := packed(layout, start)) else None for start in range(8)
    ]
    singles = [one_record(layout, start, order) for start in range(8)]

    def read(source: _Received, at: int, columns: Columns) -> int:
        count, at = read_count(source, at)
        column: RecordColumn = columns[number]
        column.lengths.append(count)
        if not count:
            return at
        found = layouts[at & 7]
        if found is not None:
            way, dtype = found
            begin = at + way.shift
            end = begin + (count - 1) * way.stride + way.size
            if end > source.size:
                raise struct.error
            column.arrays.append(np.ndarray((count,), dtype, source.data, begin, (way.stride,)))
            return end
        for _ in range(count):  # records with gaps that differ
            dtype, size = singles[at & 7]
            if at + size > source.size:
                raise struct.error
            column.arrays.append(np.ndarray((1,), dtype, source.data, at))
            at += size
        return at

    return read
