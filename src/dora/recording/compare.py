"""Whether two messages say the same, and where they do not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dora.wire.decode import decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import decode_metadata

# What a message carries of when and where it was sent, and says nothing about its content.
_OF_THE_RUN: Final = ("timestamp", "open_telemetry_context")
_SHOWN: Final = 60  # characters of a value


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be apart: ``absolute``, or ``relative`` to the first one; the larger counts."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, a: float, b: float) -> bool:
        if a == b or (math.isnan(a) and math.isnan(b)):
            return True
        return abs(a - b) <= max(self.absolute, self.relative * abs(a))


EXACT: Final = Tolerance()


def parse_tolerance(text: str) -> Tolerance:
    """Return the tolerance that ``0.001`` or ``0.1%`` means; raises ``ValueError``.

    >>> parse_tolerance("1e-3"), parse_tolerance("5%")
    (Tolerance(absolute=0.001, relative=0.0), Tolerance(absolute=0.0, relative=0.05))
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(%?)\s*", text)
    try:
        number = float(found[1]) if found else -1.0
    except ValueError:
        number = -1.0
    if found is None or not 0 <= number < math.inf:
        raise ValueError(f"`{text}` is not a tolerance: write for example 0.001, 1e-6 or 0.1%")
    return Tolerance(relative=number / 100) if found[2] else Tolerance(absolute=number)


def difference(a: Message, b: Message, tolerance: Tolerance = EXACT, *, metadata: bool = False) -> str:
    """Say where two messages differ first; "" if they do not.

    ``metadata``: compare that too, but for the time stamp. Raises `PayloadError` and `MetadataError`.
    """
    if metadata and (found := _of_metadata(a, b, tolerance)):
        return found
    if a.encoding == b.encoding and a.schema == b.schema and _body(a) == _body(b):
        return ""
    return of_arrays(decode_arrow(a), decode_arrow(b), tolerance)


def of_arrays(a: Any, b: Any, tolerance: Tolerance = EXACT) -> str:
    """Say where two Arrow arrays differ first; "" if they do not."""
    import pyarrow as pa

    if a.type != b.type:
        return f"the type is {a.type} and {b.type}"
    if len(a) != len(b):
        return f"there are {len(a):,} and {len(b):,} values"
    numeric = pa.types.is_integer(a.type) or pa.types.is_floating(a.type)
    if numeric and not a.null_count and not b.null_count:
        return _of_numbers(a.to_numpy(), b.to_numpy(), tolerance)
    for index, (left, right) in enumerate(zip(_values(a), _values(b), strict=True)):
        if found := _of_values(left, right, f"[{index}]", tolerance):
            return found
    return ""


def _values(array: Any) -> list[Any]:
    import pyarrow as pa

    try:
        values: list[Any] = array.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # a time that Python has no form for
        values = [str(scalar) for scalar in array]
    return values


def _of_numbers(a: Any, b: Any, tolerance: Tolerance) -> str:
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        same = a == b
        if a.dtype.kind == "f":
            same |= np.isnan(a) & np.isnan(b)
        if tolerance != EXACT and not same.all():
            left, right = a.astype(np.float64), b.astype(np.float64)
            room = np.maximum(tolerance.absolute, tolerance.relative * np.abs(left))
            same |= np.abs(left - right) <= room
    if same.all():
        return ""
    index = int(np.argmin(same))
    more = int(same.size - np.count_nonzero(same)) - 1
    told = f"[{index}] is {a[index]} and {b[index]}"
    return f"{told}, and {more:,} more" if more else told


def _of_values(a: Any, b: Any, where: str, tolerance: Tolerance) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in (*a, *(key for key in b if key not in a)):
            if key not in a or key not in b:
                return f"{where}.{key} is only in the {'first' if key in a else 'second'}"
            if found := _of_values(a[key], b[key], f"{where}.{key}", tolerance):
                return found
        return ""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{where} has {len(a):,} and {len(b):,} values"
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            if found := _of_values(left, right, f"{where}[{index}]", tolerance):
                return found
        return ""
    if _is_number(a) and _is_number(b):
        return "" if tolerance.allows(a, b) else f"{where} is {a} and {b}"
    return "" if a == b and type(a) is type(b) else f"{where} is {_shown(a)} and {_shown(b)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _of_metadata(a: Message, b: Message, tolerance: Tolerance) -> str:
    return _of_values(_metadata(a), _metadata(b), "metadata", tolerance)


def _metadata(message: Message) -> Mapping[str, Any]:
    plain: dict[str, Any] = decode_metadata(message.metadata)
    return {key: value for key, value in plain.items() if key not in _OF_THE_RUN}


def _body(message: Message) -> bytes:
    if message.owner is None:
        return message.small_body
    from ctypes import string_at

    return string_at(message.address + message.body_offset, message.body_size)


def as_json(value: Any) -> str:
    """Return one line of JSON."""
    return msgspec.json.encode(value).decode()
