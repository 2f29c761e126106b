"""Shows log entries on standard output without blocking the daemon.

The daemon queues entries; a thread renders and writes them. A terminal that is stopped (Ctrl-S) or slow
must not stop the supervision of nodes: if too many entries wait, further ones are counted instead of shown.
The log files contain them nevertheless. At the end, the waiting entries are written for as long as the
stream takes them.

A write to a full pipe or a stopped terminal does not return, and Python cannot end while a thread is in one
and holds the lock of `sys.stdout`. So `NonBlockingStream` polls the file descriptor before each write.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TextIO

from dora.daemon.logs.entry import LogEntry, LogFilter
from dora.daemon.logs.formats import Renderer
from dora.daemon.logs.terminal import control, for_stream

_WRITE_SIZE: Final = 4096  # bytes that a writable descriptor takes without blocking: PIPE_BUF
_POLL_TIMEOUT: Final = 0.2  # seconds between two calls of ``go_on``; so long a thread may outlive `close`


class NonBlockingStream:
    """A stream that is only written to while it takes text. ``writes`` counts the writes so far."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.writes = 0

    def is_writable(self) -> bool:
        """Return whether the stream takes text at the moment."""
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def write(self, text: str, go_on: Callable[[], bool], before: str = "") -> bool:
        """Write text at once, as long as ``go_on()``; return whether all of it is written.

        ``before`` is an escape sequence of dora's own in front of it.

        Raises ``OSError`` or ``ValueError`` if the stream is closed or broken. Characters that it cannot
        encode are replaced. On a terminal, control characters are escaped; see `dora.daemon.logs.terminal`.
        """
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            write_text(self._stream, text)
            self.writes += 1
            return True
        self._stream.flush()  # what was written before comes first
        text = before + for_stream(self._stream, text)
        data = memoryview(text.encode(self._stream.encoding, "backslashreplace"))
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            if not poll.poll(_POLL_TIMEOUT * 1000):
                if not go_on():
                    return False
                continue
            try:
                data = data[os.write(descriptor, data[:_WRITE_SIZE]) :]
            except BlockingIOError:  # another program has made our terminal non-blocking
                continue
            self.writes += 1
        return True


def _descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor behind a stream; None if it has none, as in a notebook."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except OSError:
        return None


def write_text(stream: TextIO, text: str) -> None:
    """Write text at once; characters that the stream cannot encode are replaced.

    On a terminal, control characters are escaped, except for colours.
    """
    text = for_stream(stream, text)
    try:
        control(stream, text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        control(stream, text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


# Without a limit, the memory of the daemon would grow while a terminal is stopped.
MAX_WAITING = 50_000
"""Entries that may wait for the terminal."""

# Each write begins it again, so a reader that is slow gets everything.
CLOSE_TIMEOUT = 10.0
"""Seconds after which `Console.close` gives up on a terminal that takes nothing."""

_BATCH_SIZE = 16 * 1024  # characters that are written together
_REFRESH: Final = 1.0  # seconds between two looks at the status line
_ERASE: Final = "\r\x1b[2K"  # the line of the cursor
_ERASE_ABOVE: Final = "\x1b[A\x1b[2K"  # the line above it


class _OwnLine(NamedTuple):
    """A line of dora's own; a notice goes to standard error."""

    text: str
    is_notice: bool


class Console:
    """A sink for log entries, to be called with each one from any thread.

    `close` waits until everything is written. ``on_broken`` is called once, in the console's thread, if the
    stream is closed or broken; lines for standard error are written nevertheless. ``adapt`` may be set to a
    function that returns the entry to show instead.
    """

    def __init__(
        self,
        stream: TextIO,
        render: Renderer,
        log_filter: LogFilter | None = None,
        *,
        max_waiting: int = MAX_WAITING,
        close_timeout: float = CLOSE_TIMEOUT,
        on_broken: Callable[[Exception], None] | None = None,
    ) -> None:
        self._stream = NonBlockingStream(stream)
        self._notices = NonBlockingStream(sys.stderr)
        self._status: Callable[[], str] | None = None
        self._shown_status = ""
        self._render = render
        self.adapt: Callable[[LogEntry], LogEntry] | None = None
        self._filter = log_filter or LogFilter()
        self._max_waiting = max_waiting
        self._close_timeout = close_timeout
        self._on_broken = on_broken
        self._waiting: deque[LogEntry | _OwnLine] = deque()
        # Threads that log put entries in, and the console's thread takes them out. It is not held during a
        # write, so a terminal that is stopped holds up nobody who logs.
        self._changed = threading.Condition()
        self._closed = self._broken = self._given_up = False
        self._stale = False  # the status line is to be drawn anew
        self._unwritten = 0  # entries that wait or are being written
        self._thread: threading.Thread | None = None
        self.not_shown = 0
        """Entries that were not shown because the terminal was too slow."""

    def __call__(self, entry: LogEntry) -> None:
        """Show one entry, if it passes the filter."""
        if not self._filter.shows(entry):
            return
        with self._changed:
            if self._closed or self._broken:
                return
            if len(self._waiting) >= self._max_waiting:
                self.not_shown += 1
                return
            self._put(entry)

    def say(self, text: str, *, to_output: bool = False) -> None:
        """Write a line of dora's own, after the entries so far, to standard error or to the stream."""
        with self._changed:
            if not (self._closed or (self._broken and to_output)):
                self._put(_OwnLine(text, not to_output))

    def show_below(self, status: Callable[[], str]) -> None:
        """Keep a status line below the entries; for a stream that is a terminal.

        ``status`` is called each second, and after each output, on the console's thread. It returns the
        line or lines, each of which has to fit into the width of the terminal, or "" for none.
        """
        with self._changed:
            if self._broken:
                return
            self._status = status
            self._start()

    def refresh(self) -> None:
        """Draw the status line anew."""
        with self._changed:
            self._stale = True
            self._changed.notify()

    def _put(self, item: LogEntry | _OwnLine) -> None:
        self._waiting.append(item)
        self._unwritten += 1
        self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="dora-console", daemon=True)
            self._thread.start()
        else:
            self._changed.notify()

    def render_by(self, render: Renderer) -> None:
        """Change how entries are rendered."""
        self._render = render

    def close(self) -> None:
        """Write all waiting entries, and accept no more.

        Gives up if nothing could be written for ``close_timeout`` seconds, or at Ctrl-C. Unwritten entries
        then count as not shown.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is None:
            return
        try:
            self._wait_for(self._thread)
        except KeyboardInterrupt:
            pass  # the user does not want to wait for the rest
        with self._changed:  # at once, so that an entry counts either as written or as not shown
            self._given_up = True
            self.not_shown += self._unwritten

    def _wait_for(self, thread: threading.Thread) -> None:
        """Wait until the thread ends, or nothing could be written for ``close_timeout`` seconds."""
        writes, since = self._stream.writes, time.monotonic()
        while thread.is_alive():
            # In short steps, since a signal that comes just before a wait does not interrupt it.
            thread.join(min(_POLL_TIMEOUT, self._close_timeout))
            if writes != self._stream.writes:
                writes, since = self._stream.writes, time.monotonic()
            elif time.monotonic() - since >= self._close_timeout:
                return

    def _work(self) -> None:
        for text, count, is_notice in self._batches():
            # Both streams are the same terminal if there is a status line.
            stream = self._notices if is_notice and self._status is None else self._stream
            try:
                is_written = self._write(stream, text)
            except (OSError, ValueError) as error:
                is_written = True  # its reader is gone, so it is for nobody; the dataflow goes on
                if stream is self._stream:
                    self._end_output(error)
            if not is_written:
                return
            with self._changed:
                if self._given_up:
                    return
                self._unwritten -= count

    def _write(self, stream: NonBlockingStream, text: str) -> bool:
        """Write text to a stream, and draw the status line anew; return False if that was given up."""
        if self._broken and stream is self._stream:
            return True  # it was written for nobody
        erase, status = self._next_status(has_text=bool(text))
        if not (text or erase):
            return True
        return stream.write(text + status, lambda: not self._given_up, erase)

    def _end_output(self, error: Exception) -> None:
        """Take no more entries: the reader of standard output is gone."""
        with self._changed:
            self._broken = True
            self._status = None
        if self._on_broken is not None:
            self._on_broken(error)

    def _next_status(self, *, has_text: bool) -> tuple[str, str]:
        """Return what erases the status line (or "") and the one to draw after the text that follows."""
        if self._status is None:
            return "", ""
        status = "" if self._closed and not self._waiting else self._status()
        # A status line alone is left out where a log entry would wait for the terminal.
        if not has_text and (status == self._shown_status or not self._stream.is_writable()):
            return "", ""
        erase = _ERASE if self._shown_status or status else ""
        erase += _ERASE_ABOVE * self._shown_status.count("\n")
        self._shown_status = status
        return erase, status

    def _batches(self) -> Iterator[tuple[str, int, bool]]:
        """Yield text to write, its number of entries, and whether it is a line of dora's own.

        Ends when the console is closed and empty. Entries of a burst are joined, so a chatty node costs few
        system calls. With a status line, there is an empty text each second.
        """
        while True:
            with self._changed:
                if not (self._waiting or self._closed or self._stale):
                    self._changed.wait(None if self._status is None else _REFRESH)
                self._stale = False  # before the line is drawn: a refresh meanwhile asks for the next one
                batch = list(self._waiting)
                self._waiting.clear()
                is_last = self._closed and not batch
            if not batch:
                yield "", 0, False
            if is_last:
                return
            lines: list[str] = []
            size = 0
            for item in batch:
                if isinstance(item, _OwnLine):
                    if lines:
                        yield "".join(lines), len(lines), False
                    yield f"{item.text}\n", 1, item.is_notice
                    lines, size = [], 0
                    continue
                entry = item if self.adapt is None else self.adapt(item)
                lines.append(self._render(entry) + "\n")
                size += len(lines[-1])
                if size >= _BATCH_SIZE:
                    yield "".join(lines), len(lines), False
                    lines, size = [], 0
            if lines:
                yield "".join(lines), len(lines), False
