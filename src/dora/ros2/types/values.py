"""Values to send, in the columns that `encode` writes: from Python objects, or from an Arrow array.

A column holds the values of one item of a layout, of all rows: so the points of all polygons of a message
are looked at once. Numbers of arrays and sequences stay in the memory of NumPy or Arrow.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from dora.ros2.types.columns import ARROW_TYPES, Array, NumberArray
from dora.ros2.types.definition import FLOATS, INTEGERS
from dora.ros2.types.errors import ValueMismatch
from dora.ros2.types.layout import (
    CODES,
    DTYPES,
    CdrLayout,
    FieldNode,
    ListItem,
    NumberGroup,
    NumberItem,
    NumberList,
    RecordList,
    TextItem,
    TextList,
)

Place = Callable[[int], str]
"""Returns the path of the message in a row: ``markers[2].points[7]``, or ``""`` for the message itself."""


FixedColumns = dict[str, NumberArray]
"""Of messages with a fixed layout: a NumPy column for each place in a record, by its name in `places`."""


class RecordRows(NamedTuple):
    """The messages of a `RecordList`: the columns of all, and where each row begins and ends."""

    starts: Sequence[int]
    ends: Sequence[int]
    columns: list[Any] | FixedColumns


class _Words(str):
    """A description of a value, for an error."""


def _shown(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value.bit_length() > 1000:  # Python does not write the largest ones
        return f"int of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        text = repr(value)
        return (
            f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
            if value is not None
            else text
        )
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with the shape {value.shape}"
    if isinstance(value, pa.Array):
        return f"an Arrow array of {value.type}"
    return f"a {type(value).__name__}"


def _join(outer: str, path: str) -> str:
    return f"{outer}.{path}" if outer and path else outer or path


class Gatherer:
    """Brings values of one message type into columns."""

    def __init__(self, layout: CdrLayout, name: str) -> None:
        self.layout = layout
        self.name = name
        self._inner = {
            number: Gatherer(item.layout, name)
            for number, item in enumerate(layout.items)
            if isinstance(item, RecordList)
        }
        self._defaults = [_default(item) for item in layout.items]
        self._packs = [
            struct.Struct("=" + "".join(CODES[leaf.kind] for leaf in item.leaves)).pack
            if isinstance(item, NumberGroup)
            else None
            for item in layout.items
        ]

        # By node: the type of the last array, and its fields. Most arrays have the type of the one before.
        self._last_types: dict[int, tuple[Any, list[FieldNode]]] = {}

    # From Python.

    def from_rows(self, rows: Sequence[Any], place: Place) -> list[Any]:
        """Return the columns of dictionaries, one for each message. Raises `ValueMismatch`."""
        found: list[list[Any]] = [
            [[None] * len(item.leaves) for _ in rows]
            if isinstance(item, NumberGroup)
            else [None] * len(rows)
            for item in self.layout.items
        ]
        for row, value in enumerate(rows):
            if value is not None:
                self._take(self.layout.root, value, row, found, "", place)
        return [self._finish(number, column, place) for number, column in enumerate(found)]

    def _take(
        self, node: FieldNode, value: Any, row: int, found: list[list[Any]], path: str, place: Place
    ) -> None:
        assert node.children is not None
        if not isinstance(value, Mapping):
            raise self._fault(_join(place(row), path), "a message, as a dictionary", value)
        taken = 0
        for child in node.children:
            one = value.get(child.name)
            if one is None:
                taken += child.name in value
                continue
            taken += 1
            if child.children is not None:
                self._take(child, one, row, found, _join(path, child.name), place)
            elif child.leaf >= 0:
                found[child.item][row][child.leaf] = one
            else:
                found[child.item][row] = one
        if taken != len(value):
            raise self.extra(node, value, _join(place(row), path))

    def extra(self, node: FieldNode, names: Any, path: str) -> ValueMismatch:
        known = [child.name for child in node.children or ()]
        strange = next(str(name) for name in names if name not in known)
        fields = f"one of {', '.join(known)}" if known else "a message without fields"
        return self._fault(_join(path, strange), fields, _Words("a field that the type does not have"))

    def _fault(self, field: str, expected: str, got: Any) -> ValueMismatch:
        return ValueMismatch(self.name, field, expected, got if isinstance(got, _Words) else _shown(got))

    # Checks of a column, whatever its values came from.

    def _finish(self, number: int, column: list[Any], place: Place) -> Any:
        match self.layout.items[number]:
            case NumberGroup() as item:
                return self._finish_group(number, item, column, place)
            case TextItem() as item:
                return [
                    self._text(item.default if text is None else text, item.bound, item.path, place, row)
                    for row, text in enumerate(column)
                ]
            case NumberList() as item:
                return [
                    self._defaults[number] if value is None else self._numbers(item, value, place, row)
                    for row, value in enumerate(column)
                ]
            case TextList() as item:
                return [
                    self._texts(item, _texts_of(item) if value is None else value, place, row)
                    for row, value in enumerate(column)
                ]
            case RecordList() as item:
                return self._records(number, item, column, place)

    def _finish_group(
        self, number: int, item: NumberGroup, column: list[list[Any]], place: Place
    ) -> list[list[Any]]:
        pack: Any = self._packs[number]
        leaves = item.leaves
        bools = [index for index, leaf in enumerate(leaves) if leaf.kind == "bool"]
        for row, values in enumerate(column):
            for index, value in enumerate(values):
                if value is None:
                    values[index] = leaves[index].default
            for index in bools:
                if not isinstance(values[index], bool | np.bool_):
                    raise self._number_fault(leaves[index], values[index], place(row))
                values[index] = bool(values[index])  # `struct` packs no bools of NumPy
            try:
                pack(*values)
            except _NOT_PACKED:
                index = next(n for n, leaf in enumerate(leaves) if not _packs(leaf.kind, values[n]))
                raise self._number_fault(leaves[index], values[index], place(row)) from None
        return column

    def _number_fault(self, leaf: NumberItem, value: Any, outer: str) -> ValueMismatch:
        return self._fault(_join(outer, leaf.path), expected_number(leaf.kind), value)

    def _text(self, value: Any, bound: int, path: str, place: Place, row: int, index: int = -1) -> str:
        if not isinstance(value, str):
            raise self._fault(self._at(place, row, path, index), "a string", value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                got = _Words("a string with half of a surrogate pair")
                raise self._fault(self._at(place, row, path, index), "Unicode text", got) from None
        if bound and len(value) > bound:
            got = _Words(f"a string with {len(value)}")
            raise self._fault(self._at(place, row, path, index), f"at most {bound} characters", got)
        return value

    @staticmethod
    def _at(place: Place, row: int, path: str, index: int) -> str:
        full = _join(place(row), path)
        return full if index < 0 else f"{full}[{index}]"

    def _texts(self, item: TextList, value: Any, place: Place, row: int) -> list[str]:
        if isinstance(value, pa.Array):
            value = self._listed(value, _join(place(row), item.path), "a list of strings")
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple):
            raise self._fault(_join(place(row), item.path), "a list of strings", value)
        self._check_count(item, len(value), place, row)
        return [
            self._text(one, item.bound, item.path, place, row, index) for index, one in enumerate(value)
        ]

    def _check_count(self, item: ListItem, count: int, place: Place, row: int) -> None:
        if item.refuses(count):
            raise self._fault(_join(place(row), item.path), str(item), _Words(str(count)))

    def _numbers(self, item: NumberList, value: Any, place: Place, row: int) -> NumberArray:
        array = self._number_array(item, value, place, row)
        self._check_count(item, len(array), place, row)
        return array

    def _number_array(self, item: NumberList, value: Any, place: Place, row: int) -> NumberArray:
        """Return one-dimensional contiguous numbers of the type on the wire."""
        if isinstance(value, np.ndarray):
            found = value
        elif isinstance(value, pa.Array):
            return self.arrow_numbers(item, value, place, row)
        elif isinstance(value, bytes | bytearray | memoryview) and DTYPES[item.kind] in ("u1", "i1"):
            if isinstance(value, memoryview) and not value.c_contiguous:
                value = value.tobytes()
            found = np.frombuffer(value, DTYPES[item.kind])
        elif isinstance(value, list | tuple):
            found = self._list_array(item, value, place, row)
        elif hasattr(value, "__array__") or hasattr(value, "__array_interface__") or _has_buffer(value):
            found = np.asarray(value)
        else:
            raise self._fault(
                _join(place(row), item.path), f"a list of {expected_number(item.kind)}", value
            )
        if found.ndim != 1:
            raise self._fault(_join(place(row), item.path), "numbers in one dimension", found)
        return self._fitting(item, found, place, row)

    def _list_array(self, item: NumberList, value: Sequence[Any], place: Place, row: int) -> NumberArray:
        if not value:
            return np.empty(0, DTYPES[item.kind])
        try:
            found = np.array(value)
        except (ValueError, OverflowError):
            found = np.empty(0, object)  # the loop below names the value that does not fit
        kinds = {"bool": "b", "float32": "iuf", "float64": "iuf"}.get(item.kind, "iu")
        if found.ndim == 1 and found.dtype.kind in kinds:
            # NumPy makes of [True, 2] numbers of one type. (Of [1, 2**63] it makes floats: those go the
            # long way.)
            allowed: tuple[type, ...] = _PYTHON_TYPES[item.kind]
            if all(isinstance(one, allowed) for one in value):
                return found
        for index, one in enumerate(value):
            if not _fits(one, item.kind):
                raise self._fault(
                    f"{_join(place(row), item.path)}[{index}]", expected_number(item.kind), one
                )
        # A float32 is made of the float64 later, where one that is too large is found.
        kind = "?" if item.kind == "bool" else "f8" if item.kind in FLOATS else DTYPES[item.kind]
        return np.array(value, kind)

    def _fitting(self, item: NumberList, found: NumberArray, place: Place, row: int) -> NumberArray:
        """Return numbers as the wire has them; raises `ValueMismatch` if one does not fit."""
        wanted = np.dtype("?") if item.kind == "bool" else np.dtype(DTYPES[item.kind])
        have = found.dtype
        if have != wanted:
            is_number = have.kind in "iuf" if wanted.kind == "f" else have.kind in "iu"
            if wanted.kind == "b" or not is_number:
                if not len(found):
                    return np.empty(0, wanted)
                raise self._fault(_join(place(row), item.path), f"numbers of {item.kind}", found)
            with np.errstate(over="ignore", invalid="ignore"):
                converted = found.astype(wanted)
            if not np.can_cast(have, wanted) and len(found):
                bad = (
                    np.isinf(converted) & np.isfinite(found)
                    if wanted.kind == "f"
                    else (converted != found) | ((converted < 0) != (found < 0))
                )
                if bad.any():
                    index = int(bad.argmax())
                    path = f"{_join(place(row), item.path)}[{index}]"
                    raise self._fault(path, expected_number(item.kind), found[index])
            found = converted
        return np.ascontiguousarray(found)

    def _records(self, number: int, item: RecordList, column: list[Any], place: Place) -> RecordRows:
        flat: list[Any] = []
        starts, ends = [], []
        for row, value in enumerate(column):
            if value is None:
                value = [None] * item.count
            elif isinstance(value, pa.Array):
                value = self._listed(value, _join(place(row), item.path), "a list of messages")
            elif isinstance(value, np.ndarray):
                value = value.tolist()
            if not isinstance(value, list | tuple):
                raise self._fault(_join(place(row), item.path), "a list of messages", value)
            self._check_count(item, len(value), place, row)
            starts.append(len(flat))
            flat.extend(value)
            ends.append(len(flat))
        inner = self._inner[number]
        return RecordRows(
            starts, ends, inner.from_rows(flat, _element_place(item.path, starts, ends, place))
        )

    # From Arrow.

    def from_struct(self, array: Array, place: Place) -> list[Any]:
        """Return the columns of a struct array, one row for each message. Raises `ValueMismatch`."""
        count = len(array)
        found: list[Any] = [
            [[None] * len(item.leaves) for _ in range(count)] if isinstance(item, NumberGroup) else None
            for item in self.layout.items
        ]
        self._take_struct(self.layout.root, array, found, "", place)
        return [
            self._finish(number, [None] * count if column is None else column, place)
            if isinstance(self.layout.items[number], NumberGroup) or column is None
            else column
            for number, column in enumerate(found)
        ]

    def _take_struct(
        self, node: FieldNode, array: Array, found: list[Any], path: str, place: Place
    ) -> None:
        assert node.children is not None
        if pa.types.is_null(array.type):
            return
        last = self._last_types.get(id(node))
        if last is not None and last[0] == array.type:
            children = last[1]
        else:
            children = self._children_of(node, array, path, place)
            self._last_types[id(node)] = array.type, children
        nulls = array.null_count
        if nulls == len(array) and nulls:
            return
        # `flatten` gives the children the nulls of their parent; `field` is faster.
        parts = array.flatten() if nulls else [array.field(index) for index in range(len(children))]
        for child, part in zip(children, parts, strict=True):
            if child.children is not None:
                self._take_struct(child, part, found, _join(path, child.name), place)
            elif child.leaf >= 0:
                self._take_numbers(child, part, found[child.item], place)
            else:
                found[child.item] = self._take_column(child.item, part, place)

    def _children_of(self, node: FieldNode, array: Array, path: str, place: Place) -> list[FieldNode]:
        """Return the nodes of the fields of a struct array, in its order. Raises `ValueMismatch`."""
        kind = array.type
        if not pa.types.is_struct(kind):
            raise self._fault(_join(place(0), path), "a message, as an Arrow struct", array)
        children = {child.name: child for child in node.children or ()}
        names = [kind.field(index).name for index in range(kind.num_fields)]
        if any(name not in children for name in names):
            raise self.extra(node, names, _join(place(0), path))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self._fault(_join(place(0), path), "each field once", _Words(f"two fields {twice!r}"))
        return [children[name] for name in names]

    def _take_numbers(self, node: FieldNode, part: Array, rows: list[list[Any]], place: Place) -> None:
        leaf = node.leaf
        try:
            values = part.to_pylist()
        except _NO_PYTHON_VALUE as error:
            item: Any = self.layout.items[node.item]
            expected = expected_number(item.leaves[leaf].kind)
            raise self._unreadable(part, _join(place(0), item.leaves[leaf].path), expected, error) from None
        for row, value in zip(rows, values, strict=True):
            row[leaf] = value

    def _listed(self, array: Array, path: str, expected: str) -> list[Any]:
        """Return the values of an Arrow array; raises `ValueMismatch` as `_unreadable` says."""
        try:
            found: list[Any] = array.to_pylist()
        except _NO_PYTHON_VALUE as error:
            raise self._unreadable(array, path, expected, error) from None
        return found

    def _unreadable(self, array: Array, path: str, expected: str, error: Exception) -> ValueMismatch:
        """Return the error of values that Python has no form for: times of nanoseconds, far years, texts
        that are not UTF-8."""
        return self._fault(path, expected, _Words(f"{_shown(array)} that cannot be read: {error}"))

    def _take_column(self, number: int, part: Array, place: Place) -> Any:
        item = self.layout.items[number]
        assert not isinstance(item, NumberGroup)
        if isinstance(item, TextItem) or pa.types.is_null(part.type):
            return self._finish(number, self._listed(part, _join(place(0), item.path), "a string"), place)
        assert isinstance(item, ListItem)
        if part.null_count or not _is_list(part.type):
            if isinstance(item, NumberList) and _is_bytes(part.type):
                return self._finish(
                    number, [None if one is None else one.as_buffer() for one in part], place
                )
            if not _is_list(part.type):
                raise self._fault(_join(place(0), item.path), f"a list ({item})", part)
            values = [None if one is None or not one.is_valid else one.values for one in part]
            return self._finish(number, values, place)
        bounds = _bounds(part)
        values = part.values
        if isinstance(item, TextList):
            texts = self._listed(values, _join(place(0), item.path), "a list of strings")
            return self._finish(number, [texts[start:end] for start, end in bounds], place)
        if isinstance(item, NumberList):
            if len(bounds) == 1:
                start, end = bounds[0]
                self._check_count(item, end - start, place, 0)
                return [self.arrow_numbers(item, values.slice(start, end - start), place, 0)]
            found = []
            for row, (start, end) in enumerate(bounds):
                self._check_count(item, end - start, place, row)
                found.append(self.arrow_numbers(item, values.slice(start, end - start), place, row))
            return found
        assert isinstance(item, RecordList)
        for row, (start, end) in enumerate(bounds):
            self._check_count(item, end - start, place, row)
        starts, ends = [start for start, _ in bounds], [end for _, end in bounds]
        first, last = min(starts, default=0), max(ends, default=0)
        starts, ends = [start - first for start in starts], [end - first for end in ends]
        inner, used = self._inner[number], values.slice(first, last - first)
        columns: FixedColumns = {}
        if item.layout.fixed and inner.fixed_columns(item.layout.root, used, columns):
            return RecordRows(starts, ends, columns)
        return RecordRows(
            starts, ends, inner.from_struct(used, _element_place(item.path, starts, ends, place))
        )

    def fixed_columns(self, node: FieldNode, array: Array, columns: FixedColumns) -> bool:
        """Fill in the columns of an array whose messages are complete and have the types of the wire.

        Returns False if they do not, which is for `from_struct`.
        """
        assert node.children is not None
        kind = array.type
        names = [child.name for child in node.children]
        if not pa.types.is_struct(kind) or array.null_count or not names:
            return False
        if kind.num_fields != len(names) or any(kind.get_field_index(name) < 0 for name in names):
            return False
        for child in node.children:
            part = array.field(child.name)
            if child.children is not None:
                if not self.fixed_columns(child, part, columns):
                    return False
                continue
            item = self.layout.items[child.item]
            count = 0
            if isinstance(item, NumberList):
                count = item.count
                if part.null_count or not _is_list(part.type):
                    return False
                if any(end - start != count for start, end in _bounds(part)):
                    return False
                part, one = part.flatten(), item.kind
            else:
                assert isinstance(item, NumberGroup)
                one = item.leaves[child.leaf].kind
            if part.null_count or part.type != ARROW_TYPES[one]:
                return False
            found = part.to_numpy(zero_copy_only=False)
            columns[f"{child.item}.{max(child.leaf, 0)}"] = found.reshape(-1, count) if count else found
        return True

    def arrow_numbers(self, item: NumberList, array: Array, place: Place, row: int) -> NumberArray:
        """Return the numbers of an Arrow array, without a copy if they have the type on the wire."""
        if array.null_count:
            index = array.is_null().to_pylist().index(True)
            raise self._fault(f"{_join(place(row), item.path)}[{index}]", expected_number(item.kind), None)
        kind = array.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            if pa.types.is_dictionary(kind):
                return self.arrow_numbers(item, array.dictionary_decode(), place, row)
            if not len(array):
                return np.empty(0, DTYPES[item.kind])
            raise self._fault(_join(place(row), item.path), f"numbers of {item.kind}", array)
        return self._fitting(item, array.to_numpy(zero_copy_only=False), place, row)


_PYTHON_TYPES: Final[dict[str, tuple[Any, ...]]] = {
    "bool": (bool, np.bool_),
    **dict.fromkeys(INTEGERS, (int, np.integer)),
    **dict.fromkeys(FLOATS, (int, float, np.integer, np.floating)),
}


def expected_number(kind: str) -> str:
    """Return what a field of a primitive type takes, in words.

    >>> expected_number("uint8")
    'uint8 (0 to 255)'
    """
    limits = INTEGERS.get(kind)
    return f"{kind} ({limits[0]} to {limits[1]})" if limits else kind


_NO_PYTHON_VALUE: Final = (ValueError, OverflowError, TypeError, LookupError, pa.ArrowException)
_NOT_PACKED: Final = (struct.error, OverflowError, TypeError, ValueError)


def _packs(kind: str, value: Any) -> bool:
    try:
        struct.pack("=" + CODES[kind], value)
    except _NOT_PACKED:
        return False
    return True


def _fits(value: Any, kind: str) -> bool:
    if not isinstance(value, _PYTHON_TYPES[kind]):
        return False
    limits = INTEGERS.get(kind)
    if limits is not None:
        return limits[0] <= int(value) <= limits[1]
    try:
        float(value)
    except OverflowError:  # an int
        return False
    return True


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _default(item: Any) -> Any:
    if isinstance(item, NumberList):
        dtype = "?" if item.kind == "bool" else DTYPES[item.kind]
        return np.array(item.default, dtype) if item.default else np.zeros(item.count, dtype)
    return None


def _texts_of(item: TextList) -> Sequence[str]:
    return item.default or ("",) * item.count


def _element_place(path: str, starts: Sequence[int], ends: Sequence[int], outer: Place) -> Place:
    def place(index: int) -> str:
        row = next((row for row, end in enumerate(ends) if starts[row] <= index < end), -1)
        if row < 0:  # no element: the type of the list is wrong
            return _join(outer(0), path)
        return f"{_join(outer(row), path)}[{index - starts[row]}]"

    return place


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _bounds(part: Any) -> list[tuple[int, int]]:
    """Return where the elements of each list begin and end, in its `values`."""
    kind = part.type
    if pa.types.is_fixed_size_list(kind):
        size, offset = kind.list_size, part.offset
        return [((offset + row) * size, (offset + row + 1) * size) for row in range(len(part))]
    ends = part.offsets.to_pylist()
    return list(pairwise(ends))
