"""Show log entries on a terminal (or wherever standard output goes) without holding anyone up.

The daemon hands over entries and goes on; a thread renders and writes them. A terminal that is
stopped (Ctrl-S) or slow must not stop the supervision of nodes: when too many lines wait, further
ones are counted instead of shown. They are in the log files all the same. At the end, what waits is
written as long as somebody takes it.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.filters import LogFilter
from dora.daemon.logs.formats import Renderer
from dora.daemon.logs.terminal import control, for_stream

# Write text to a stream without being stuck in it: whoever reads it may be slow, or have stopped.
#
# A write to a full pipe or a stopped terminal does not return, and Python cannot end while a thread sits in
# one, holding the lock of `sys.stdout`. So nothing is written to a file descriptor before it takes
# something.

_PIECE_outlet: Final = 4096  # bytes that a descriptor which takes something takes at once: PIPE_BUF
_LOOK: Final = 0.2  # seconds between looks whether to go on


class NonBlockingStream:
    """Where text goes. ``taken`` counts the pieces that the stream took so far."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.taken = 0

    def write(self, text: str, go_on: Callable[[], bool]) -> bool:
        """Write text at once, as long as ``go_on()``; tells whether all of it is written.

        Raises ``OSError`` or ``ValueError`` if the stream takes no more. Characters that it cannot encode
        are replaced, not refused. On a terminal, control characters are shown; see
        `dora.daemon.logs.terminal`.
        """
        text = for_stream(self._stream, text)
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            write_text(self._stream, text)
            self.taken += 1
            return True
        self._stream.flush()  # what others wrote comes before
        data = memoryview(text.encode(self._stream.encoding, "backslashreplace"))
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            if not poll.poll(_LOOK * 1000):
                if not go_on():
                    return False
                continue
            try:
                data = data[os.write(descriptor, data[:_PIECE_outlet]) :]
            except BlockingIOError:  # another program has made our terminal non-blocking
                continue
            self.taken += 1
        return True


def _descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor behind a stream; None if it is something else, a notebook's say."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except OSError:
        return None


def write_text(stream: TextIO, text: str) -> None:
    """Write text at once; characters that the stream cannot encode are replaced, not refused.

    On a terminal, control characters are shown, except for colours.
    """
    text = for_stream(stream, text)
    try:
        control(stream, text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        control(stream, text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


MAX_WAITING = 50_000
"""Entries that may wait for the terminal."""

CLOSE_TIMEOUT = 10.0
"""Seconds after which `Console.close` gives up a terminal that takes nothing."""

_PIECE = 16 * 1024  # characters that are written together


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
        close_timeout: float = CLOSE_TIMEOUT,
        on_broken: Callable[[Exception], None] | None = None,
    ) -> None:
        self._outlet = NonBlockingStream(stream)
        self._render = render
        self._filter = log_filter or LogFilter()
        self._max_waiting = max_waiting
        self._close_timeout = close_timeout
        self._on_broken = on_broken
        self._waiting: deque[LogEntry] = deque()
        self._changed = threading.Condition()
        self._closed = self._broken = self._given_up = False
        self._unwritten = 0  # entries that wait or are being written
        self._thread: threading.Thread | None = None
        self.not_shown = 0
        """Entries that were not shown because the terminal was too slow."""

    def __call__(self, entry: LogEntry) -> None:
        """Show one entry, if the filter lets it through."""
        if not self._filter.shows(entry):
            return
        with self._changed:
            if self._closed or self._broken:
                return
            if len(self._waiting) >= self._max_waiting:
                self.not_shown += 1
                return
            self._waiting.append(entry)
            self._unwritten += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dora-console", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def render_by(self, render: Renderer) -> None:
        """Render otherwise from now on."""
        self._render = render

    def close(self) -> None:
        """Write what still waits, and take no more.

        Gives up when nothing was taken for ``close_timeout`` seconds, or at Ctrl-C; what is not written
        then counts as not shown.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is None:
            return
        try:
            taken = -1
            while self._thread.is_alive() and taken != self._outlet.taken:
                taken = self._outlet.taken
                self._thread.join(self._close_timeout)
        except KeyboardInterrupt:
            pass  # whoever waits for us wants the rest no more
        with self._changed:
            self._given_up = True
            self.not_shown += self._unwritten

    def _work(self) -> None:
        try:
            for text, count in self._pieces():
                if not self._outlet.write(text, lambda: not self._given_up):
                    return
                with self._changed:
                    if self._given_up:
                        return
                    self._unwritten -= count
        except (OSError, ValueError) as error:
            # Whoever read our output (a pipe, a terminal) is gone. The dataflow is not.
            with self._changed:
                self._broken = True
                self._waiting.clear()
                self._unwritten = 0
            if self._on_broken is not None:
                self._on_broken(error)

    def _pieces(self) -> Iterator[tuple[str, int]]:
        """Yield what is to be written next, and how many entries that is, until all is written.

        Entries that come in a burst go together: a chatty node costs few system calls.
        """
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = list(self._waiting)
                self._waiting.clear()
            lines: list[str] = []
            size = 0
            for entry in batch:
                lines.append(self._render(entry) + "\n")
                size += len(lines[-1])
                if size >= _PIECE:
                    yield "".join(lines), len(lines)
                    lines, size = [], 0
            if lines:
                yield "".join(lines), len(lines)
