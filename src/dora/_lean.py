"""Import msgspec without an optional dependency, to save start-up time of every node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Make ``import name`` fail inside the block, unless the module is loaded already.

    For optional imports of other packages: msgspec imports ``typing_extensions`` (12 ms) if it is
    installed, and ``typing`` otherwise, which is the same from Python 3.11 on.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with absent("typing_extensions"):
    import msgspec as msgspec
