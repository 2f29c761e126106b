"""Figures as text: memory, sizes, rates, and named values below each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
