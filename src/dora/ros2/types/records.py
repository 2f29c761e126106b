"""Records of fixed size in a row: points, poses, colours. NumPy reads and writes all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dora.ros2.types.layout import DTYPES, CdrLayout, NumberGroup, NumberList


@dataclass(frozen=True)
class PackedRecords:
    """Where the values of a fixed layout are, in a row of records that begins at some position.

    ``shift`` bytes come before the first record; each has ``size`` bytes, and begins ``stride`` after the
    one before. ``columns`` are the places in a record, in the order of items and leaves.
    """

    shift: int
    size: int
    stride: int
    columns: tuple[
        tuple[str, int, str, int], ...
    ]  # name, offset, dtype without order, elements of an array or 0


def packed(layout: CdrLayout, start: int) -> PackedRecords | None:
    """Return how records of a fixed layout follow one another from a position, modulo 8.

    None: they have different gaps, and take a loop.
    """
    shift = places(layout, start)[0][1]
    begin = start + shift
    columns = places(layout, begin)
    size = size_of(columns)
    width = int(columns[0][2][1:])
    stride = size + -(begin + size) % width
    # All later records have the gaps of the first one if they begin like it.
    if stride % 8 and any(places(layout, begin + n * stride) != columns for n in range(1, 8)):
        return None
    return PackedRecords(shift, size, stride, tuple(columns))


def size_of(columns: list[tuple[str, int, str, int]]) -> int:
    """Return the bytes of a record with these places."""
    return max(offset + int(dtype[1:]) * (count or 1) for _, offset, dtype, count in columns)


def places(layout: CdrLayout, start: int) -> list[tuple[str, int, str, int]]:
    """Return the columns of one record that begins at a position: offsets from there."""
    at, found = start, []
    for index, item in enumerate(layout.items):
        if isinstance(item, NumberGroup):
            parts = [(f"{index}.{number}", leaf.kind, 0) for number, leaf in enumerate(item.leaves)]
        else:
            assert isinstance(item, NumberList)
            parts = [(f"{index}.0", item.kind, item.count)]
        for name, kind, count in parts:
            dtype = DTYPES[kind]
            width = int(dtype[1:])
            at += -at % width
            found.append((name, at - start, dtype, count))
            at += width * (count or 1)
    return found


def record_dtype(way: PackedRecords, order: str) -> np.dtype[Any]:
    """Return NumPy's type of one record."""
    return np.dtype(
        {
            "names": [name for name, *_ in way.columns],
            "formats": [
                (order + dtype, (count,)) if count else order + dtype for _, _, dtype, count in way.columns
            ],
            "offsets": [offset for _, offset, _, _ in way.columns],
            "itemsize": way.size,
        }
    )


def one_record(layout: CdrLayout, start: int, order: str) -> tuple[np.dtype[Any], int]:
    """Return NumPy's type and the size of one record, with the gap that is before it at a position."""
    columns = places(layout, start)
    size = size_of(columns)
    return record_dtype(PackedRecords(0, size, size, tuple(columns)), order), size
