"""Number types of plain bodies, with their names in NumPy and Arrow.

A plain body is the one buffer of a fixed-width array without nulls; the schema section of its message
is a format string of Arrow's C data interface.
https://arrow.apache.org/docs/format/CDataInterface.html#data-type-description-format-strings
"""

from __future__ import annotations

from typing import Any, Final

from dora.errors import UnsupportedData

# Format, names in NumPy and Arrow, bytes of a value.
_TYPES: Final = (
    (b"c", "|i1", "int8", 1),
    (b"C", "|u1", "uint8", 1),
    (b"s", "<i2", "int16", 2),
    (b"S", "<u2", "uint16", 2),
    (b"i", "<i4", "int32", 4),
    (b"I", "<u4", "uint32", 4),
    (b"l", "<i8", "int64", 8),
    (b"L", "<u8", "uint64", 8),
    (b"e", "<f2", "float16", 2),
    (b"f", "<f4", "float32", 4),
    (b"g", "<f8", "float64", 8),
)
FORMAT_OF_DTYPE: Final = {dtype: format_ for format_, dtype, _, _ in _TYPES}
DTYPE_OF_FORMAT: Final = {format_: dtype for format_, dtype, _, _ in _TYPES}
ARROW_NAMES: Final = {format_: name for format_, _, name, _ in _TYPES}
WIDTHS: Final = {format_: width for format_, _, _, width in _TYPES}


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
