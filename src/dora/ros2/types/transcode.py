"""Write a received message as dora sends it: from CDR to the body of an Arrow record batch.

`dora.ros2.types.decode` makes an array, and Arrow a record batch of it: some fifty objects, for a bridge
that looks at none of them. Here a type gets a function of its own, whose source is written for its fields.
The function has no loops and few calls, because each call costs some microseconds in a process that has
slept. It reads regular messages; all others, and bytes that are no message, go the long way by an array.

The description of the batch is made once for a type, with the numbers that never change; the others are
filled in for each message. The format is Arrow's `IPC format
<https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message>`_.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from dora.ros2.types.columns import Build, Columns, arrow_type, builder, new_columns
from dora.ros2.types.layout import (
    CODES,
    HEADER,
    MAX_LENGTH,
    CdrLayout,
    FieldNode,
    NumberGroup,
    NumberList,
    TextItem,
)
from dora.wire.encode import EncodedArray, Payload, batch_of, schema_section
from dora.wire.message import Encoding

_ALIGNMENT: Final = 8  # bytes, of each buffer
_JOINED: Final = 256 * 1024  # bytes; a larger body is copied once, straight to where it is wanted
_PADS: Final = [bytes(size) for size in range(_ALIGNMENT)]
_PREFIX: Final = 8  # bytes before the description of a batch: a mark, and its size
_HEADER_SLOT, _BODY_SIZE_SLOT = 2, 3  # fields of the table `Message` of Arrow's Message.fbs
_NODES_SLOT, _BUFFERS_SLOT = 1, 2  # of the table `RecordBatch`

Transcode = Callable[[bytes], EncodedArray]
Read = Callable[[Any, int, Any], int]  # see `dora.ros2.types.decode`
Number = int | str  # of the description: a constant, or an expression of the function


class Irregular(Exception):
    """The message needs the long way."""


def compile_transcode(
    layout: CdrLayout, sample: Any, readers: Sequence[Read], received: Callable[..., Any]
) -> Transcode:
    """Return the function of a type.

    ``sample`` is the array of any message, ``readers`` read the items in the native order of bytes, and
    ``received`` holds a message for them. The function raises `Irregular`,
    ``struct.error`` and `dora.ros2.types.columns.Malformed`.
    """
    return _Function(layout, sample, readers, received).compile()


class _Template:
    """The description of a batch of one type: bytes, and where its numbers are."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        data = batch.serialize().to_pybytes()
        self.size = _PREFIX + struct.unpack_from("<i", data, 4)[0]
        self.bytes = bytearray(data[: self.size])
        message = _PREFIX + struct.unpack_from("<I", data, _PREFIX)[0]
        self.body_size = self._field(message, _BODY_SIZE_SLOT)  # None: Arrow leaves a zero out
        table = self._field(message, _HEADER_SLOT)
        assert table is not None
        table += struct.unpack_from("<I", data, table)[0]
        self.nodes = self._vector(table, _NODES_SLOT)  # for each array: its length, and 0 nulls
        self.buffers = self._vector(table, _BUFFERS_SLOT)  # for each buffer: its offset, and its size

    def _field(self, table: int, slot: int) -> int | None:
        """Return where a field of a FlatBuffers table is; None if it is left out."""
        names = table - struct.unpack_from("<i", self.bytes, table)[0]
        if 4 + 2 * slot >= struct.unpack_from("<H", self.bytes, names)[0]:
            return None
        offset = struct.unpack_from("<H", self.bytes, names + 4 + 2 * slot)[0]
        return table + offset if offset else None

    def _vector(self, table: int, slot: int) -> int:
        """Return where the first number of a vector is."""
        field = self._field(table, slot)
        assert field is not None
        return field + int(struct.unpack_from("<I", self.bytes, field)[0]) + 4


class _Function:
    """The function of a type: its source, and what the source names."""

    def __init__(
        self, layout: CdrLayout, sample: Any, readers: Sequence[Read], received: Callable[..., Any]
    ) -> None:
        self._layout, self._sample, self._readers = layout, sample, readers
        self._reading: list[str] = []
        self._writing: list[str] = []
        # Numbers, and the offsets of texts and lists, have the same size in each message. They come first.
        self._fixed_format, self._fixed_values, self._fixed_size = "=", list[str](), 0
        self._parts: list[str] = []
        self._nodes: list[Number] = []
        self._buffers: list[Number] = []
        self._names: dict[str, Any] = {
            "EncodedArray": EncodedArray,
            "Irregular": Irregular,
            "PADS": _PADS,
            "length": struct.Struct("=I").unpack_from,
            "payload": _payload,
            "received": received,
            "new_columns": lambda: new_columns(layout),
        }
        self._needs_columns = False

    def compile(self) -> Transcode:
        for number, item in enumerate(self._layout.items):
            if isinstance(item, NumberGroup):
                self._read_group(number, item)
            elif isinstance(item, TextItem) and not item.wide and not item.bound:
                self._read_text(number)
            elif isinstance(item, NumberList) and item.kind != "bool":
                self._read_numbers(number, item)
            else:  # rare ones are read as for an array
                self._names[f"read{number}"] = self._readers[number]
                self._reading.append(f"at = read{number}(source, at, columns)")
                self._needs_columns = True
        self._visit(self._layout.root)
        names = self._names
        exec(compile(self._source(), f"<transcode {self._layout.name}>", "exec"), names)
        found: Transcode = names["transcode"]
        return found

    def _source(self) -> str:
        batch = batch_of(self._sample)
        template = _Template(batch)
        names, lines = self._names, [f"body = memoryview(data)[{HEADER}:]", "size = len(body)", "at = 0"]
        if self._needs_columns:
            lines += ["source, columns = received(data), new_columns()"]
        lines += self._reading
        names["pack_fixed"] = struct.Struct(self._fixed_format).pack
        lines += [f"end = {self._fixed_size}", *self._writing]
        filled = []
        for name, at, numbers in (
            ("nodes", template.nodes, self._nodes),
            ("buffers", template.buffers, self._buffers),
            ("body_size", template.body_size, ["end"] if self._writing else [self._fixed_size]),
        ):
            if at is None:
                continue
            pack = struct.Struct(f"<{len(numbers)}q").pack_into
            if all(isinstance(number, int) for number in numbers):
                pack(template.bytes, at, *numbers)
            else:
                names[f"pack_{name}"] = pack
                values = ", ".join(map(str, numbers))
                filled.append(f"pack_{name}(description, {at}, {values})")
        names["DESCRIPTION"] = bytes(template.bytes)
        lines.append(f"description = {'bytearray(DESCRIPTION)' if filled else 'DESCRIPTION'}")
        parts = ", ".join(["description", f"pack_fixed({', '.join(self._fixed_values)})", *self._parts])
        names["ARROW"], names["SCHEMA"] = self._sample.type, schema_section(batch)
        found = f"return EncodedArray(ARROW, payload(SCHEMA, {template.size} + end, ({parts})))"
        return "\n    ".join(["def transcode(data):", *lines, *filled, found]) + "\n"

    # Reading, in the order of the bytes.

    def _read_group(self, number: int, item: NumberGroup) -> None:
        values = [f"value{number}_{leaf}" for leaf in range(len(item.leaves))]
        self._names[f"layouts{number}"] = [(one.unpack_from, one.size) for one in item.structs("=")]
        self._reading += [
            f"unpack, width = layouts{number}[at & 7]",
            f"{', '.join(values)}, = unpack(body, at)",
            "at += width",
        ]
        for leaf, value in zip(item.leaves, values, strict=True):
            if leaf.kind == "bool":
                self._reading.append(f"if {value} > 1: raise Irregular")

    def _read_length(self, name: str) -> None:
        self._reading += ["at += -at & 3", f"{name}, = length(body, at)", "at += 4"]

    def _read_text(self, number: int) -> None:
        text = f"text{number}"
        self._read_length("count")
        self._reading += [
            "end = at + count",
            "if end > size: raise Irregular",
            f"{text} = bytes(body[at : end - 1 if count and not body[end - 1] else end])",
            f"if not {text}.isascii(): {text} = {text}.decode('utf-8', 'replace').encode()",
            "at = end",
        ]

    def _read_numbers(self, number: int, item: NumberList) -> None:
        count, values = f"count{number}", f"values{number}"
        gap = [f"at += -at & {item.width - 1}"] if item.width > 1 else []
        if item.count:
            self._reading += [
                *gap,
                f"end = at + {item.count * item.width}",
                "if end > size: raise Irregular",
                f"{values} = bytes(body[at:end])",
                "at = end",
            ]
            return
        self._read_length(count)
        self._reading += [
            f"if {count} > {item.most or MAX_LENGTH}: raise Irregular",
            f"{values} = b''",
            f"if {count}:",  # nothing is sent after the length, not even a gap
            *(f"    {line}" for line in gap),
            f"    end = at + {count} * {item.width}",
            "    if end > size: raise Irregular",
            f"    {values} = body[at:end]",
            "    at = end",
        ]

    # Writing: the numbers of arrays and buffers, as Arrow counts them, outer ones first.

    def _visit(self, node: FieldNode) -> None:
        if node.children is not None:
            self._add_node(1)
            self._buffers += [0, 0]
            for child in node.children:
                self._visit(child)
            return
        number, item = node.item, self._layout.items[node.item]
        if isinstance(item, NumberGroup):
            self._add_node(1)
            self._buffers += [0, 0]
            code = CODES[item.leaves[node.leaf].kind]
            self._add_fixed(code, struct.calcsize("=" + code), f"value{number}_{node.leaf}")
        elif isinstance(item, TextItem):
            self._add_node(1)
            self._buffers += [0, 0]
            text = f"text{number}"
            if item.wide or item.bound:
                self._writing.append(f"{text} = columns[{number}][0].encode()")
            self._add_fixed("ii", 8, "0", f"len({text})")
            self._add_part(text, f"len({text})")
        elif isinstance(item, NumberList):
            count, values = f"count{number}", f"values{number}"
            if item.kind == "bool":
                self._writing.append(f"{values}, {count} = columns[{number}][0]")
            self._add_node(1)
            self._buffers += [0, 0]
            fixed = item.count and item.kind != "bool"
            self._add_fixed("ii", 8, "0", str(item.count) if fixed else count)
            self._add_node(item.count or count)
            self._buffers += [0, 0]
            if fixed:
                self._add_fixed(f"{item.count * item.width}s", item.count * item.width, values)
            else:
                size = f"{values}.size" if item.kind == "bool" else f"{count} * {item.width}"
                self._add_part(values, size)
        else:
            self._add_array(node)

    def _add_node(self, length: Number) -> None:
        self._nodes += [length, 0]

    def _add_fixed(self, codes: str, size: int, *values: str) -> None:
        """Add a buffer that has the same size in each message."""
        gap = -size % _ALIGNMENT
        self._buffers += [self._fixed_size, size]
        self._fixed_format += f"{codes}{gap}x"
        self._fixed_values += values
        self._fixed_size += size + gap

    def _add_part(self, part: str, size: str) -> None:
        """Add a buffer whose size differs from message to message."""
        index = len(self._parts)
        begin, length = f"begin{index}", f"size{index}"
        self._writing += [f"{begin}, {length} = end, {size}", f"end += {length} + 7 & -8"]
        self._buffers += [begin, length]
        self._parts += [part, f"PADS[-{length} & 7]"]

    def _add_array(self, node: FieldNode) -> None:
        """Add a sequence of messages or texts, by the array that is made for a program, too."""
        index = len(self._parts)
        arrays, buffers = _count(arrow_type(node, self._layout))
        self._names[f"array{index}"] = _ArrayParts(builder(node, self._layout))
        found = f"nodes{index}, buffers{index}, parts{index}"
        self._writing.append(f"{found}, end = array{index}(columns, end)")
        self._nodes += [f"nodes{index}[{at}]" for at in range(2 * arrays)]
        self._buffers += [f"buffers{index}[{at}]" for at in range(2 * buffers)]
        self._parts.append(f"*parts{index}")


class _ArrayParts:
    """Gives the parts of an array of Arrow in a batch."""

    def __init__(self, build: Build) -> None:
        self._build = build

    def __call__(self, columns: Columns, end: int) -> tuple[list[int], list[int], list[Any], int]:
        """Return lengths and null counts, offsets and sizes of the buffers, the parts, and their end."""
        array = self._build(columns, 1)
        nodes = [number for length in _lengths(array) for number in (length, 0)]
        buffers, parts = list[int](), list[Any]()
        for buffer in array.buffers():
            if buffer is None:
                buffers += [0, 0]
            else:
                buffers += [end, buffer.size]
                parts += [buffer, _PADS[-buffer.size % _ALIGNMENT]]
                end += buffer.size + -buffer.size % _ALIGNMENT
        return nodes, buffers, parts, end


def _lengths(array: Any) -> Iterator[int]:
    yield len(array)
    if pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            yield from _lengths(array.field(index))
    elif pa.types.is_list(array.type):
        yield from _lengths(array.values)


def _count(kind: Any) -> tuple[int, int]:
    """Return how many arrays and buffers an array of a type has."""
    if pa.types.is_struct(kind):
        parts = [_count(kind.field(index).type) for index in range(kind.num_fields)]
        return 1 + sum(arrays for arrays, _ in parts), 1 + sum(buffers for _, buffers in parts)
    if pa.types.is_list(kind):
        arrays, buffers = _count(kind.value_type)
        return 1 + arrays, 2 + buffers
    return 1, 3 if pa.types.is_string(kind) else 2


def _payload(schema: bytes, size: int, parts: Sequence[Any]) -> Payload:
    """Return the parts of a batch, ``size`` bytes in all, as a payload."""
    if size < _JOINED:
        return Payload(Encoding.BATCH, schema, size, 0, None, b"".join(parts))

    def copy(target: memoryview) -> None:
        at = 0
        for part in parts:
            view = memoryview(part).cast("B")
            target[at : at + view.nbytes] = view
            at += view.nbytes

    return Payload(Encoding.BATCH, schema, size, write=copy)
