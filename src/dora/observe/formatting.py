"""Format messages, shortened where they are long, and figures: memory, sizes, rates, named values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import MetadataError, as_datetime, decode_metadata

SHOWN_VALUES: Final = 16  # of an array, unless all are wanted
SHOWN_TEXT: Final = 200  # characters of one text, likewise


class FormattedValue:
    """The values of one message to show. ``length`` counts all values; ``data`` may have fewer."""

    def __init__(self, message: Message, *, full: bool) -> None:
        """Decode; for a payload or metadata that cannot be decoded, ``problem`` says why."""
        self.time_ns = message.time_ns
        self.metadata: dict[str, Any] = {}
        self.data: list[Any] = []
        self.length = 0
        self.type = ""
        self.problem = ""
        try:
            self.metadata = {
                key: plain(value, full) for key, value in decode_metadata(message.metadata).items()
            }
            array = decode_arrow(message)
            self.length = len(array)
            self.type = str(array.type)
            part = array if full else array.slice(0, SHOWN_VALUES)
            self.data = [plain(value, full) for value in part.to_pylist()]
        except (MetadataError, PayloadError) as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - Arrow values that Python has no form for
            self.problem = f"values of type {self.type} cannot be shown: {error}"

    def clock(self) -> str:
        """Return the local time of the message, to the millisecond."""
        return as_datetime(self.time_ns).astimezone().strftime("%H:%M:%S.%f")[:-3]

    def as_line(self) -> str:
        """Return data and metadata for people."""
        if self.problem:
            return f"({self.problem})"
        data = _json(self.data)
        if self.length > len(self.data):
            left = self.length - len(self.data)
            data = f"{data[:-1]}, … {left:,} more {self.type}]"
        return f"data={data} metadata={_json(self.metadata)}"

    def as_json(self, name: str) -> str:
        """Return one line of JSON; ``length`` is in it if not all values are."""
        fields: dict[str, Any] = {
            "timestamp": as_datetime(self.time_ns).isoformat().replace("+00:00", "Z"),
            "name": name,
            "data": self.data,
            "metadata": self.metadata,
        }
        if self.length > len(self.data):
            fields["length"] = self.length
        if self.problem:
            fields["error"] = self.problem
        return _json(fields)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def plain(value: Any, full: bool = False) -> Any:
    """Return a value that JSON knows, shortened unless ``full``; what it does not know becomes text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return value if full or len(value) <= SHOWN_TEXT else f"{value[:SHOWN_TEXT]}…"
        case bytes():
            return plain(value.hex(), full)
        case list() | tuple():
            part = value if full else value[:SHOWN_VALUES]
            shown = [plain(item, full) for item in part]
            return shown if len(part) == len(value) else [*shown, f"… {len(value) - len(part):,} more"]
        case dict():
            return {str(key): plain(item, full) for key, item in value.items()}
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


def parse_data(text: str) -> Any:
    """Return the Arrow array that JSON means: a list is the values, anything else one value.

    Raises ``ValueError`` for what is no JSON or has no Arrow type.

    >>> parse_data("[1, 2]").to_pylist(), str(parse_data('"hello"').type), len(parse_data("{}"))
    ([1, 2], 'string', 1)
    """
    import pyarrow as pa

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    try:
        return pa.array(value if isinstance(value, list) else [value])
    except (pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"has no Arrow type: {error}") from None


# Figures.


def megabytes(size: float) -> str:
    """Return an amount of memory.

    >>> [megabytes(size) for size in (0, 1_500, 12_345_678, 3_200_000_000)]
    ['0.0 MB', '0.0 MB', '12.3 MB', '3.2 GB']
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def file_size(size: int) -> str:
    """Return the size of a file.

    >>> [file_size(size) for size in (12, 1_500, 12_345_678, 7_000_000_000)]
    ['12 B', '1.5 kB', '12.3 MB', '7.0 GB']
    """
    return bandwidth(size).removesuffix("/s")


def bandwidth(bytes_per_second: float) -> str:
    """Return an amount per second.

    >>> [bandwidth(size) for size in (0, 12, 1_500, 12_345_678, 3_200_000_000)]
    ['0 B/s', '12 B/s', '1.5 kB/s', '12.3 MB/s', '3.2 GB/s']
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_per_second >= factor:
            return f"{bytes_per_second / factor:.1f} {unit}/s"
    return f"{bytes_per_second:.0f} B/s"


def fields(pairs: Sequence[tuple[str, Any]]) -> str:
    """Return names and values below each other; a value of several lines stays in its column."""
    width = max(len(name) for name, _ in pairs) + 2
    lines = []
    for name, value in pairs:
        first, *others = str(value).splitlines() or [""]
        lines.append(f"{name:<{width}}{first}".rstrip())
        lines += [f"{'':<{width}}{other}" for other in others]
    return "\n".join(lines)
