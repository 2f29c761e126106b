"""Write a received message as dora sends it: from columns of one row to the body of an Arrow record batch.

`dora.ros2.types.columns` makes an array of the same columns, and Arrow a record batch of the array: some
fifty objects, for a bridge that looks at none of them. Here the description of the batch is made once for a
type; lengths and offsets are filled in for each message. The format is Arrow's `IPC format
<https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message>`_.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa

from dora.ros2.types.columns import Columns, Malformed, arrow_type, builder
from dora.ros2.types.layout import CODES, CdrLayout, FieldNode, NumberGroup, NumberList, TextItem
from dora.wire.encode import EncodedArray, Payload, batch_of, schema_section
from dora.wire.message import Encoding

_ALIGNMENT: Final = 8  # bytes, of each buffer
_JOINED: Final = 256 * 1024  # bytes; a larger body is copied once, straight to where it is wanted
_PADS: Final = [bytes(size) for size in range(_ALIGNMENT)]
_OFFSETS: Final = struct.Struct("=ii").pack  # of a list or a text in one row
_PREFIX: Final = 8  # bytes before the description of a batch: a mark, and its size
_HEADER_SLOT, _BODY_SIZE_SLOT = 2, 3  # fields of the table `Message` of Arrow's Message.fbs
_NODES_SLOT, _BUFFERS_SLOT = 1, 2  # of the table `RecordBatch`

Write = Callable[[Any, "_OpenBatch"], None]  # from a column


class _OpenBatch:
    """A batch that is being written: the parts of the body, and what its description says of them."""

    __slots__ = ("at", "buffers", "lengths", "parts")

    def __init__(self, lengths: list[int], buffers: list[int]) -> None:
        self.lengths = lengths  # for each array: its length, and 0 nulls
        self.buffers = buffers  # for each buffer: its offset, and its size
        self.parts: list[Any] = []
        self.at = 0

    def add(self, buffer: int, part: Any, size: int) -> None:
        """Append a part of the body, which is a buffer of the description."""
        self.buffers[2 * buffer] = self.at
        self.buffers[2 * buffer + 1] = size
        self.parts.append(part)
        pad = -size % _ALIGNMENT
        if pad:
            self.parts.append(_PADS[pad])
        self.at += size + pad


class BatchWriter:
    """Writes messages of one type."""

    def __init__(self, layout: CdrLayout, sample: pa.StructArray) -> None:
        """``sample`` is any message of the type."""
        batch = batch_of(sample)
        self._arrow = sample.type
        self._schema = schema_section(batch)
        self._template = _Template(batch)
        places = _BatchLayout(layout)
        self._lengths, self._buffers = [1, 0] * places.arrays, [0, 0] * places.buffers
        self._writers = places.writers

    def write(self, columns: Columns) -> EncodedArray:
        """Return the message of columns with one row. Raises `Malformed`."""
        row = _OpenBatch(self._lengths.copy(), self._buffers.copy())
        for number, write in self._writers:
            write(columns[number], row)
        parts = [self._template.fill(row.lengths, row.buffers, row.at), *row.parts]
        size = self._template.size + row.at
        if size < _JOINED:
            payload = Payload(Encoding.BATCH, self._schema, size, 0, None, b"".join(parts))
        else:

            def copy(target: memoryview) -> None:
                at = 0
                for part in parts:
                    view = memoryview(part).cast("B")
                    target[at : at + view.nbytes] = view
                    at += view.nbytes

            payload = Payload(Encoding.BATCH, self._schema, size, write=copy)
        return EncodedArray(self._arrow, payload)


class _Template:
    """The description of a batch of one type, in which only numbers change."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        data = batch.serialize().to_pybytes()
        self.size = _PREFIX + struct.unpack_from("<i", data, 4)[0]
        self._bytes = data[: self.size]
        message = _PREFIX + struct.unpack_from("<I", data, _PREFIX)[0]
        body_size = self._field(message, _BODY_SIZE_SLOT)
        table = self._field(message, _HEADER_SLOT)
        assert table is not None
        table += struct.unpack_from("<I", data, table)[0]
        self._body_size = body_size  # None: Arrow leaves a zero out, and no message of the type has a body
        self._nodes = self._vector(self._field(table, _NODES_SLOT))
        self._buffers = self._vector(self._field(table, _BUFFERS_SLOT))

    def _field(self, table: int, slot: int) -> int | None:
        """Return where a field of a FlatBuffers table is; None if it is left out."""
        names = table - struct.unpack_from("<i", self._bytes, table)[0]
        if 4 + 2 * slot >= struct.unpack_from("<H", self._bytes, names)[0]:
            return None
        offset = struct.unpack_from("<H", self._bytes, names + 4 + 2 * slot)[0]
        return table + offset if offset else None

    def _vector(self, field: int | None) -> tuple[Callable[..., None], int]:
        """Return what fills a vector of pairs of numbers, and where they begin."""
        assert field is not None
        begin = field + struct.unpack_from("<I", self._bytes, field)[0]
        count = struct.unpack_from("<I", self._bytes, begin)[0]
        return struct.Struct(f"<{2 * count}q").pack_into, begin + 4

    def fill(self, lengths: list[int], buffers: list[int], body_size: int) -> bytearray:
        """Return the description of a batch."""
        found = bytearray(self._bytes)
        pack, at = self._nodes
        pack(found, at, *lengths)
        pack, at = self._buffers
        pack(found, at, *buffers)
        if self._body_size is not None:
            struct.pack_into("<q", found, self._body_size, body_size)
        return found


class _BatchLayout:
    """The numbers of arrays and buffers, as Arrow counts them: outer ones first; and who writes them."""

    def __init__(self, layout: CdrLayout) -> None:
        self._layout = layout
        self.arrays = self.buffers = 0
        self.writers: list[tuple[int, Write]] = []  # item, what writes it
        self._leaves: dict[int, dict[int, int]] = {}  # group → leaf → its buffer
        self._visit(layout.root)
        for number, buffers in self._leaves.items():
            group = layout.items[number]
            assert isinstance(group, NumberGroup)
            self.writers.append((number, _group_writer(group, buffers)))

    def _visit(self, node: FieldNode) -> None:
        array, buffer = self.arrays, self.buffers
        if node.children is not None:
            self.arrays, self.buffers = array + 1, buffer + 1
            for child in node.children:
                self._visit(child)
            return
        item = self._layout.items[node.item]
        if isinstance(item, NumberGroup):
            self._leaves.setdefault(node.item, {})[node.leaf] = buffer + 1
            self.arrays, self.buffers = array + 1, buffer + 2
        elif isinstance(item, TextItem):
            self.writers.append((node.item, _text_writer(buffer + 1)))
            self.arrays, self.buffers = array + 1, buffer + 3
        elif isinstance(item, NumberList):
            self.writers.append((node.item, _numbers_writer(array + 1, buffer)))
            self.arrays, self.buffers = array + 2, buffer + 4
        else:
            self.writers.append((node.item, self._array_writer(node, array, buffer)))
            arrays, buffers = _count(arrow_type(node, self._layout))
            self.arrays, self.buffers = array + arrays, buffer + buffers

    def _array_writer(self, node: FieldNode, first_array: int, first_buffer: int) -> Write:
        """Return what writes a sequence of messages or texts: the array that is made for a program, too."""
        build = builder(node, self._layout)
        columns: Columns = [None] * len(self._layout.items)

        def write(column: Any, row: _OpenBatch) -> None:
            own = columns.copy()
            own[node.item] = column
            array = build(own, 1)
            for number, length in enumerate(_lengths(array), first_array):
                row.lengths[2 * number] = length
            for number, buffer in enumerate(array.buffers(), first_buffer):
                if buffer is not None:
                    row.add(number, buffer, buffer.size)

        return write


def _count(kind: Any) -> tuple[int, int]:
    """Return how many arrays and buffers an array of a type has."""
    if pa.types.is_struct(kind):
        parts = [_count(kind.field(index).type) for index in range(kind.num_fields)]
        return 1 + sum(arrays for arrays, _ in parts), 1 + sum(buffers for _, buffers in parts)
    if pa.types.is_list(kind):
        arrays, buffers = _count(kind.value_type)
        return 1 + arrays, 2 + buffers
    return 1, 3 if pa.types.is_string(kind) else 2


def _lengths(array: Any) -> Iterator[int]:
    yield len(array)
    if pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            yield from _lengths(array.field(index))
    elif pa.types.is_list(array.type):
        yield from _lengths(array.values)


def _group_writer(group: NumberGroup, buffers: dict[int, int]) -> Write:
    """Return what writes the numbers of a group: all of them are one part, each is a buffer in it."""
    text, places, bools = "=", [], []
    for leaf, item in enumerate(group.leaves):
        size = struct.calcsize("=" + CODES[item.kind])
        text += f"{CODES[item.kind]}{_ALIGNMENT - size}x"
        if leaf in buffers:  # a message without fields has none
            places.append((2 * buffers[leaf], _ALIGNMENT * leaf, size))
        if item.kind == "bool":
            bools.append((leaf, item.path))
    packing = struct.Struct(text)

    def write(column: Any, row: _OpenBatch) -> None:
        (values,) = column
        for leaf, path in bools:
            if values[leaf] > 1:
                raise Malformed(f"field {path!r} has a bool that is neither 0 nor 1")
        at, found = row.at, row.buffers
        for index, offset, size in places:
            found[index] = at + offset
            found[index + 1] = size
        row.parts.append(packing.pack(*values))
        row.at = at + packing.size

    return write


def _text_writer(first_buffer: int) -> Write:
    def write(column: Any, row: _OpenBatch) -> None:
        data = column[0].encode()
        row.add(first_buffer, _OFFSETS(0, len(data)), 8)
        row.add(first_buffer + 1, data, len(data))

    return write


def _numbers_writer(values: int, first_buffer: int) -> Write:
    """Return what writes a list: its offsets, and its values, which are an array of their own."""

    def write(column: Any, row: _OpenBatch) -> None:
        buffer, count = column[0]
        row.lengths[2 * values] = count
        row.add(first_buffer + 1, _OFFSETS(0, count), 8)
        row.add(first_buffer + 3, buffer, buffer.size)

    return write
