"""Columns of received values, and the Arrow arrays that are made of them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dora.ros2.types.layout import (
    CODES,
    DTYPES,
    CdrLayout,
    FieldNode,
    NumberGroup,
    NumberList,
    RecordList,
    TextItem,
    TextList,
)
from dora.ros2.types.records import places

ARROW_TYPES: Final[dict[str, Any]] = {
    kind: getattr(pa, kind)() for kind in CODES if kind not in ("bool", "byte", "char")
} | {"bool": pa.bool_(), "byte": pa.uint8(), "char": pa.uint8()}

Array = Any  # a `pyarrow.Array`; the stubs of pyarrow know it by its values only
NumberArray = np.ndarray[Any, Any]
Columns = list[Any]  # for each item: a list of its values, or a `RecordColumn`
Build = Callable[[Columns, int], Array]  # from the columns, and the number of rows

# The stubs of pyarrow take no arrays of NumPy, and no structs.
py_buffer: Any = pa.py_buffer
_from_buffers: Any = pa.Array.from_buffers
_STRING: Final = pa.string()


class Malformed(ValueError):
    """Received bytes are wrong; the text says why."""


class RecordColumn:
    """The values of a `RecordList` item: how many each row has, and the columns of all of them."""

    __slots__ = ("arrays", "columns", "lengths")

    def __init__(self, layout: CdrLayout) -> None:
        self.lengths: list[int] = []
        self.arrays: list[NumberArray] = []  # structured, if the layout is fixed
        self.columns: Columns = [] if layout.fixed else new_columns(layout)


def new_columns(layout: CdrLayout) -> Columns:
    return [RecordColumn(item.layout) if isinstance(item, RecordList) else [] for item in layout.items]


def bits(found: NumberArray, path: str) -> NumberArray:
    """Return bools as Arrow has them, eight in a byte."""
    if int(found.max()) > 1:
        raise Malformed(f"field {path!r} has a bool that is neither 0 nor 1")
    return np.packbits(found, bitorder="little")


def arrow_type(node: FieldNode, layout: CdrLayout) -> Any:
    """Return the Arrow type of a field: structs for messages, lists for arrays and sequences."""
    if node.children is not None:
        return pa.struct([pa.field(child.name, arrow_type(child, layout)) for child in node.children])
    match layout.items[node.item]:
        case NumberGroup(leaves=leaves):
            return ARROW_TYPES[leaves[node.leaf].kind]
        case TextItem():
            return pa.string()
        case NumberList(kind=kind):
            return pa.list_(ARROW_TYPES[kind])
        case TextList():
            return pa.list_(pa.string())
        case RecordList(layout=inner):
            return pa.list_(arrow_type(inner.root, inner))


def builder(node: FieldNode, layout: CdrLayout) -> Build:
    if node.children is not None:
        return _struct_builder(node, layout, [builder(child, layout) for child in node.children])
    number = node.item
    match layout.items[number]:
        case NumberGroup(leaves=leaves):
            return _number_builder(number, node.leaf, leaves[node.leaf].kind, leaves[node.leaf].path)
        case TextItem():

            def build_texts(columns: Columns, _rows: int) -> Array:
                return pa.array(columns[number], _STRING)

            return build_texts
        case NumberList() as item:
            return _numbers_builder(number, item)
        case TextList():
            kind = pa.list_(_STRING)

            def build_lists(columns: Columns, _rows: int) -> Array:
                return pa.array(columns[number], kind)

            return build_lists
        case RecordList() as item:
            return _records_builder(number, item)


def _struct_builder(node: FieldNode, layout: CdrLayout, children: list[Build]) -> Build:
    kind = arrow_type(node, layout)

    def build(columns: Columns, rows: int) -> Array:
        return _from_buffers(kind, rows, [None], children=[child(columns, rows) for child in children])

    return build


def _number_builder(number: int, leaf: int, kind: str, path: str) -> Build:
    arrow, is_bool = ARROW_TYPES[kind], kind == "bool"
    pack = struct.Struct("=" + CODES[kind] + "7x").pack

    def build(columns: Columns, rows: int) -> Array:
        column = columns[number]
        if rows == 1:  # a third of what `pa.array` takes
            value = column[0][leaf]
            if is_bool and value > 1:
                raise _not_bool(path)
            return _from_buffers(arrow, 1, [None, py_buffer(pack(value))])
        values = [row[leaf] for row in column]
        if is_bool:
            if values and max(values) > 1:
                raise _not_bool(path)
            values = [value == 1 for value in values]
        return pa.array(values, arrow)

    return build


def _not_bool(path: str) -> Malformed:
    return Malformed(f"field {path!r} has a bool that is neither 0 nor 1")


def _offsets(lengths: list[int], path: str) -> Any:
    if len(lengths) == 1:
        return py_buffer(struct.pack("=ii", 0, lengths[0]))
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    if int(ends[-1]) >= 2**31:
        raise Malformed(f"field {path!r} has more elements in all than an Arrow list can hold")
    return py_buffer(ends.astype(np.int32))


def _list(kind: Any, lengths: list[int], values: Array, path: str) -> Array:
    return _from_buffers(kind, len(lengths), [None, _offsets(lengths, path)], children=[values])


def _numbers_builder(number: int, item: NumberList) -> Build:
    arrow, path = ARROW_TYPES[item.kind], item.path
    kind, is_bool, native = pa.list_(arrow), item.kind == "bool", np.dtype(DTYPES[item.kind])

    def build(columns: Columns, _rows: int) -> Array:
        column = columns[number]
        if len(column) == 1:
            buffer, count = column[0]
            return _list(kind, [count], _from_buffers(arrow, count, [None, buffer]), path)
        lengths = [count for _, count in column]
        if is_bool:
            parts = [_from_buffers(arrow, count, [None, buffer]) for buffer, count in column]
            values = pa.concat_arrays(parts) if parts else pa.array([], arrow)
        else:
            buffers = [np.frombuffer(buffer, native) for buffer, _ in column]
            values = pa.array(np.concatenate(buffers) if buffers else np.empty(0, native), arrow)
        return _list(kind, lengths, values, path)

    return build


def _records_builder(number: int, item: RecordList) -> Build:
    inner = item.layout
    kind = pa.list_(arrow_type(inner.root, inner))
    if inner.fixed:
        build_fixed = _fixed_builder(inner.root, inner)
        names = [name for name, *_ in places(inner, 0)]

        def build(columns: Columns, _rows: int) -> Array:
            column: RecordColumn = columns[number]
            found = {name: _column(column.arrays, name) for name in names} if column.arrays else {}
            count = sum(column.lengths)
            return _list(kind, column.lengths, build_fixed(found, count), item.path)

        return build
    build_rows = builder(inner.root, inner)

    def build_each(columns: Columns, _rows: int) -> Array:
        column: RecordColumn = columns[number]
        values = build_rows(column.columns, sum(column.lengths))
        return _list(kind, column.lengths, values, item.path)

    return build_each


def _column(arrays: list[NumberArray], name: str) -> NumberArray:
    parts = [array[name] for array in arrays]
    full = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(full, full.dtype.newbyteorder("="))


def _fixed_builder(node: FieldNode, layout: CdrLayout) -> Callable[[dict[str, NumberArray], int], Array]:
    """Return what builds the arrays of fixed records from their columns; without columns, of no record."""
    kind = arrow_type(node, layout)
    if node.children is not None:
        children = [_fixed_builder(child, layout) for child in node.children]

        def build_struct(found: dict[str, Any], rows: int) -> Array:
            return _from_buffers(kind, rows, [None], children=[child(found, rows) for child in children])

        return build_struct
    item = layout.items[node.item]
    if isinstance(item, NumberGroup):
        leaf = item.leaves[node.leaf]
        name, one, path, count = f"{node.item}.{node.leaf}", leaf.kind, leaf.path, 0
    else:
        assert isinstance(item, NumberList)
        name, one, path, count = f"{node.item}.0", item.kind, item.path, item.count
    arrow = ARROW_TYPES[one]

    def build(found: dict[str, Any], rows: int) -> Array:
        if not found:
            return pa.array([], kind)
        values = found[name].reshape(-1)
        buffer = py_buffer(bits(values, path) if one == "bool" else values)
        array = _from_buffers(arrow, len(values), [None, buffer])
        return _list(kind, [count] * rows, array, path) if count else array

    return build
