"""Show log entries on a terminal (or wherever standard output goes) without holding anyone up.

The daemon hands over entries and goes on; a thread renders and writes them. A terminal that is
stopped (Ctrl-S) or slow must not stop the supervision of nodes: when too many lines wait, further
ones are counted instead of shown. They are in the log files all the same.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

from dora.logs.entry import LogEntry
from dora.logs.filters import LogFilter
from dora.logs.formats import Renderer

MAX_WAITING = 50_000
"""Entries that may wait for the terminal."""

CLOSE_TIMEOUT = 10.0
"""Seconds that `Console.close` waits for a terminal that does not take the rest."""


class Console:
    """A place for log entries: call it with each one.

    May be called from any thread. `close` waits until everything is written. ``on_broken`` is called
    once, in the console's thread, when the stream takes no more.
    """

    def __init__(
        self,
        stream: TextIO,
        render: Renderer,
        log_filter: LogFilter | None = None,
        *,
        max_waiting: int = MAX_WAITING,
        on_broken: Callable[[], None] | None = None,
    ) -> None:
        self._stream = stream
        self._render = render
        self._filter = log_filter or LogFilter()
        self._max_waiting = max_waiting
        self._on_broken = on_broken
        self._waiting: deque[LogEntry] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.not_shown = 0
        """Entries that were not shown because the terminal was too slow."""

    def __call__(self, entry: LogEntry) -> None:
        """Show one entry, if the filter lets it through."""
        if not self._filter.shows(entry):
            return
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) >= self._max_waiting:
                self.not_shown += 1
                return
            self._waiting.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dora-console", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def close(self) -> None:
        """Write what still waits, and take no more. Gives up after `CLOSE_TIMEOUT`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    def _work(self) -> None:
        broken = False
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = list(self._waiting)
                self._waiting.clear()
            if broken:
                continue
            # One write for the whole batch: a chatty node costs one system call per burst.
            text = "".join(self._render(entry) + "\n" for entry in batch)
            try:
                write_text(self._stream, text)
            except (OSError, ValueError):
                # Whoever read our output (a pipe, a terminal) is gone. The dataflow is not.
                broken = True
                if self._on_broken is not None:
                    self._on_broken()


def write_text(stream: TextIO, text: str) -> None:
    """Write text at once; characters that the stream cannot encode are replaced, not refused."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
