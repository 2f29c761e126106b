"""The log of a process that runs for months: a file that does not grow for ever, and no floods of lines.

Coordinator and daemon have children, which run the dataflows, with the same standard error. So a full file
cannot be renamed: the children would go on writing to it. It is copied, and emptied (logrotate calls this
``copytruncate``). Every process writes at the end of the file, wherever that is. A line that a child writes
between the copy and the emptying, some microseconds, is lost. A pipe to one writer was rejected: it would
lose every line after that process is killed.

Anybody who reaches the port of a server can send bytes that are no request. A line for each would fill the
disk, and hide all other lines. So log lines that a stranger can cause are limited to one a second, and the
rest is counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from dora._shared_folders import open_file, open_folder, open_in, rotate

LIMIT: Final = 10 << 20  # bytes; with the files that are kept, a log takes 50 MiB
KEPT: Final = 4  # files beside the one that is written
_LOOK_EVERY: Final = 1.0  # seconds between looks at the size; the file may exceed the limit meanwhile
_BLOCK: Final = 1 << 20  # bytes of a copy that are in memory at once


class ProcessLog:
    """Standard output and error of this process go to a file from now on; ``check`` empties a full one."""

    def __init__(self, path: str, limit: int = LIMIT, kept: int = KEPT) -> None:
        """Open the file, to append to it; raises ``OSError``."""
        self._path = os.path.abspath(path)
        self._limit = limit
        self._kept = kept
        file = open_file(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        self._file = file

    def watch(self) -> None:
        """Check the size every second, in a thread, as long as this process lives."""
        threading.Thread(target=self._watch, name="dora-log-file", daemon=True).start()

    def check(self) -> None:
        """Begin a new file if this one is full. If no copy can be made, its content is lost."""
        if os.fstat(self._file).st_size <= self._limit:
            return
        with contextlib.suppress(OSError):  # the folder is gone, or the disk is full
            self._copy()
        os.ftruncate(self._file, 0)

    def _copy(self) -> None:
        directory, name = os.path.split(self._path)
        folder = open_folder(directory, below=directory)
        unfinished = f"{name}.{os.getpid()}"
        try:
            try:
                copy = open_in(folder, unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                with open(copy, "wb", buffering=0) as file:
                    place = 0
                    while block := os.pread(self._file, _BLOCK, place):
                        place += len(block)
                        file.write(block)
                rotate(folder, name, self._kept, unfinished)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished, dir_fd=folder)
                raise
        finally:
            os.close(folder)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            self.check()


# --------------------------------------------------------------------------- limited lines

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
        self._lock = threading.Lock()  # any thread may log, and a thread of its own reports the counts
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
