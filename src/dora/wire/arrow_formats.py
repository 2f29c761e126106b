"""Number types of plain bodies, with their names in NumPy and Arrow.

A plain body is the one buffer of a fixed-width array without nulls; the schema section of its message
is a format string of Arrow's C data interface.
https://arrow.apache.org/docs/format/CDataInterface.html#data-type-description-format-strings
"""

from __future__ import annotations

from typing import Any, Final

from dora.errors import UnsupportedData

FORMAT_OF_DTYPE: Final = {
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
DTYPE_OF_FORMAT: Final = {format_: dtype for dtype, format_ in FORMAT_OF_DTYPE.items()}
ARROW_NAMES: Final = {
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
WIDTHS: Final = {
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


def plain_format(dtype: Any) -> tuple[bytes, str, int]:
    """Return (schema section, NumPy dtype string, item size) of a NumPy dtype for a loan.

    Raises `UnsupportedData` for dtypes that are not plain numbers.
    """
    import numpy as np

    resolved = np.dtype(dtype)
    format_ = FORMAT_OF_DTYPE.get(resolved.str)
    if format_ is None:
        raise UnsupportedData(
            f"a loan needs a plain number type such as uint8 or float32, not {resolved} "
            "(send arrays of other types with send_output)"
        )
    return format_, resolved.str, resolved.itemsize
