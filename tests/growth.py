"""Count work instead of time, for tests of how it grows with the size of a dataflow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(act: Callable[[], object]) -> int:
    """Return how many lines of Python something takes, rounds of loops included."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def assert_grows_linearly(work: Callable[[int], int], small: int = 30) -> None:
    """Check that four times the size takes at most about four times the work."""
    work(small)  # imports, and what is made once
    little, much = work(small), work(4 * small)
    assert much <= 4.4 * little, f"size {small}: {little}, size {4 * small}: {much}"
