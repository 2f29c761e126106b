"""Encode CDR: from a value to the bytes that ROS sends, as Fast DDS writes them in `rclpy`.

The order of bytes is little-endian. Pieces are collected and joined once, so that the bytes of an image are
copied once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dora.ros2.types.columns import NumberArray
from dora.ros2.types.errors import ValueMismatch
from dora.ros2.types.layout import (
    DTYPES,
    CdrLayout,
    Item,
    NumberGroup,
    NumberList,
    RecordList,
    TextItem,
    TextList,
)
from dora.ros2.types.records import one_record, packed, record_dtype
from dora.ros2.types.values import FixedColumns, Gatherer, RecordRows

_HEADER: Final = b"\x00\x01\x00\x00"  # plain CDR, little-endian
_GAPS: Final = tuple(bytes(n) for n in range(8))
_length = struct.Struct("<I").pack

# From the pieces, the position after them, the columns and the row; returns the position after the value.
Write = Callable[[list[Any], int, list[Any], int], int]


class Encoder:
    """Encodes values of one type."""

    def __init__(self, layout: CdrLayout, name: str) -> None:
        self._gatherer = Gatherer(layout, name)
        self._name = name
        self._writers = _writers(layout)

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a dictionary, or of a struct array of one row. Raises `ValueMismatch`."""
        columns = self._columns(value)
        pieces: list[Any] = [_HEADER]
        at = 0
        for write in self._writers:
            at = write(pieces, at, columns, 0)
        return b"".join(pieces)

    def _columns(self, value: Any) -> list[Any]:
        if isinstance(value, pa.StructScalar):
            # Not `as_py`: Python has no form for some values, such as times of nanoseconds.
            value = pa.array([value], value.type) if value.is_valid else None
        if isinstance(value, Mapping):
            return self._gatherer.from_rows([value], _here)
        if isinstance(value, pa.RecordBatch):
            value = value.to_struct_array()
        if isinstance(value, pa.Array) and pa.types.is_struct(value.type):
            if len(value) != 1:
                raise ValueMismatch(self._name, "", "a struct array of one row", f"{len(value)} rows")
            return self._gatherer.from_struct(value, _here)
        got = (
            f"an Arrow array of {value.type}"
            if isinstance(value, pa.Array)
            else f"a {type(value).__name__}"
        )
        raise ValueMismatch(self._name, "", "a dictionary, or an Arrow struct array of one row", got)


def _here(_row: int) -> str:
    """Return where the only message is: nowhere in particular."""
    return ""


def _writers(layout: CdrLayout) -> list[Write]:
    return [_writer(number, item) for number, item in enumerate(layout.items)]


def _writer(number: int, item: Item) -> Write:
    match item:
        case NumberGroup():
            return _group_writer(number, item)
        case TextItem():
            write_text = _write_wide if item.wide else _write_text

            def write(pieces: list[Any], at: int, columns: list[Any], row: int) -> int:
                return write_text(pieces, at, columns[number][row])

            return write
        case NumberList():
            return _numbers_writer(number, item)
        case TextList():
            return _texts_writer(number, item)
        case RecordList():
            return _records_writer(number, item)


def _group_writer(number: int, item: NumberGroup) -> Write:
    layouts = [(one.pack, one.size) for one in item.structs("<")]

    def write(pieces: list[Any], at: int, columns: list[Any], row: int) -> int:
        pack, size = layouts[at & 7]
        pieces.append(pack(*columns[number][row]))
        return at + size

    return write


def _write_text(pieces: list[Any], at: int, text: str) -> int:
    data = text.encode()
    gap = -at & 3
    pieces.append(_GAPS[gap] + _length(len(data) + 1) + data + b"\0")
    return at + gap + 5 + len(data)


def _write_wide(pieces: list[Any], at: int, text: str) -> int:
    units = np.frombuffer(text.encode("utf-16-le"), "<u2")
    gap = -at & 3
    pieces.append(_GAPS[gap] + _length(len(units)) + units.astype("<u4").tobytes())
    return at + gap + 4 + 4 * len(units)


def _count(pieces: list[Any], at: int, count: int) -> int:
    gap = -at & 3
    pieces.append(_GAPS[gap] + _length(count))
    return at + gap + 4


def _numbers_writer(number: int, item: NumberList) -> Write:
    width, fixed = item.width, item.count
    dtype = np.dtype("?" if item.kind == "bool" else "<" + DTYPES[item.kind])

    def write(pieces: list[Any], at: int, columns: list[Any], row: int) -> int:
        found: NumberArray = columns[number][row]
        count = len(found)
        if not fixed:
            at = _count(pieces, at, count)
        if not count:
            return at  # without a gap before what is not there
        gap = -at % width
        if gap:
            pieces.append(_GAPS[gap])
        pieces.append(found.astype(dtype, copy=False))
        return at + gap + count * width

    return write


def _texts_writer(number: int, item: TextList) -> Write:
    write_text = _write_wide if item.wide else _write_text
    fixed = item.count

    def write(pieces: list[Any], at: int, columns: list[Any], row: int) -> int:
        texts = columns[number][row]
        if not fixed:
            at = _count(pieces, at, len(texts))
        for text in texts:
            at = write_text(pieces, at, text)
        return at

    return write


def _records_writer(number: int, item: RecordList) -> Write:
    writers, fixed = _writers(item.layout), item.count
    write_fixed = _fixed_writer(item.layout) if item.layout.fixed else None

    def write(pieces: list[Any], at: int, columns: list[Any], row: int) -> int:
        rows: RecordRows = columns[number]
        start, end = rows.starts[row], rows.ends[row]
        if not fixed:
            at = _count(pieces, at, end - start)
        inner = rows.columns
        if isinstance(inner, dict):
            assert write_fixed is not None
            return write_fixed(pieces, at, inner, start, end)
        for index in range(start, end):
            for write_item in writers:
                at = write_item(pieces, at, inner, index)
        return at

    return write


def _fixed_writer(layout: CdrLayout) -> Callable[[list[Any], int, FixedColumns, int, int], int]:
    """Return what writes records of fixed size that are in columns of NumPy."""
    layouts = [
        (way, record_dtype(way, "<")) if (way := packed(layout, start)) else None for start in range(8)
    ]
    singles = [one_record(layout, start, "<") for start in range(8)]

    def write(pieces: list[Any], at: int, columns: FixedColumns, start: int, end: int) -> int:
        count = end - start
        if not count:
            return at
        found = layouts[at & 7]
        if found is not None:
            way, dtype = found
            size = way.shift + (count - 1) * way.stride + way.size
            data = bytearray(size)
            records = np.ndarray((count,), dtype, data, way.shift, (way.stride,))
            for name, column in columns.items():
                records[name] = column[start:end]
            pieces.append(data)
            return at + size
        for index in range(start, end):  # records with gaps that differ
            dtype, size = singles[at & 7]
            record = np.zeros(1, dtype)
            for name, column in columns.items():
                record[name] = column[index]
            pieces.append(record.tobytes())
            at += size
        return at

    return write
