"""Limit log lines that a stranger can cause to one a second, and count the rest.

Anybody who reaches the port of a server can send bytes that are no request. A line for each would fill the
disk, and hide all other lines.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

BAD_REQUESTS: Final = "dora.coordinator.requests"
"""The logger for requests that cannot be understood."""

_LIMITED: Final = (BAD_REQUESTS, "asyncio", "uvicorn", "websockets")  # and the loggers below them
_PERIOD: Final = 1.0  # seconds


class LimitedLines(logging.Filter):
    """Lets one record a second of each of these loggers through, and reports the number of the others.

    For handlers that write for all loggers: each writes the same records.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        """``call_later`` calls a function after so many seconds; by default in a thread."""
        super().__init__()
        self._clock = clock
        self._call_later = call_later or _call_in_thread
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}  # logger → when its next record may pass
        self._held: dict[str, int] = {}  # logger → records that were not written

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        if not _is_limited(record.name) or hasattr(record, "is_count"):
            return True
        attributes = vars(record)
        if "passes_limit" not in attributes:  # the first handler decides for all
            attributes["passes_limit"] = self._passes(record)
        return bool(attributes["passes_limit"])

    def _passes(self, record: logging.LogRecord) -> bool:
        name = record.name
        with self._lock:
            now = self._clock()
            if now >= self._next.get(name, now) and name not in self._held:
                self._next[name] = now + _PERIOD
                return True
            is_first = name not in self._held
            self._held[name] = self._held.get(name, 0) + 1
        if is_first:
            self._call_later(max(self._next[name] - now, 0.0), lambda: self._report(name, record.levelno))
        return False

    def _report(self, name: str, level: int) -> None:
        with self._lock:
            count = self._held.pop(name)
            self._next[name] = self._clock() + _PERIOD
        text = "%d more such line%s within a second"
        logging.getLogger(name).log(level, text, count, "" if count == 1 else "s", extra={"is_count": True})


def limit_lines() -> None:
    """Limit the lines of all handlers of the root logger."""
    limit = LimitedLines()
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)


def _is_limited(name: str) -> bool:
    return any(name == limited or name.startswith(f"{limited}.") for limited in _LIMITED)


def _call_in_thread(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
