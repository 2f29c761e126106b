"""The process of a node: the lines that it prints, its end."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import termios
import threading
import time
from collections.abc import Callable
from typing import Final

from dora.daemon.event_loop import READ, Loop, Timer
from dora.daemon.logs.entry import Stream
from dora.daemon.processes.process import Process

MAX_LINE: Final = 1 << 20  # bytes; output without line ends would fill the memory of the daemon


class LineSplitter:
    """Splits bytes into lines, without their ends.

    A line longer than `MAX_LINE` bytes comes in pieces. Bytes that are not UTF-8 are replaced.

    >>> lines = LineSplitter()
    >>> lines.feed(b"one\\ntw")
    ['one']
    >>> lines.feed(b"o\\r\\n"), lines.finish()
    (['two'], [])
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._rest = bytearray()
        self._max_line = max_line

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes."""
        self._rest += data
        lines = []
        if b"\n" in data:
            *complete, rest = self._rest.split(b"\n")
            self._rest = rest
            for line in complete:
                while len(line) > self._max_line:
                    lines.append(_text(line[: self._max_line]))
                    del line[: self._max_line]
                lines.append(_text(line))
        while len(self._rest) > self._max_line:
            lines.append(_text(self._rest[: self._max_line]))
            del self._rest[: self._max_line]
        return lines

    def finish(self) -> list[str]:
        """Return the unfinished last line, if there is one."""
        rest, self._rest = self._rest, bytearray()
        return [_text(rest)] if rest else []


def _text(line: bytearray) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


# How long the pipes of a process that has ended are read, at least until its own output is: another process
# that left the process group may hold them open for ever.
LINGER: Final = 0.25  # seconds
KILL_TIMEOUT: Final = 5.0  # seconds until a killed process has to be gone
# A process may print faster than lines are handled, so a pipe is read for a short time, and then it is the
# turn of everything else. A chunk may be all line ends, so it is small.
_TURN: Final = 0.005  # seconds
_CHUNK: Final = 4096  # bytes


class _Output:
    """A pipe with the output of a process."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.splitter = LineSplitter()
        self.owed = 0  # bytes that the process left in the pipe when it ended


class Child:
    """A running node process, leader of its own process group.

    ``on_line(stream, text)`` gets every line; ``on_end(exit code, signal number)`` is called once,
    after the last line. The rest of the process group is killed when the leader ends.
    """

    def __init__(
        self,
        loop: Loop,
        process: Process,
        *,
        on_line: Callable[[Stream, str], None],
        on_end: Callable[[int | None, int | None], None],
    ) -> None:
        self._loop = loop
        self._on_line = on_line
        self._on_end = on_end
        self._process = process
        self.pid = process.pid
        self.exited = False  # the leader has ended
        self._reaped = False
        self._status: int | None = None
        self._outputs: dict[int, _Output] = {}  # pipe → what is read from it, until its end
        self._linger: Timer | None = None
        self._done = False
        streams: list[tuple[Stream, int]] = [("stdout", process.stdout), ("stderr", process.stderr)]
        for stream, pipe in streams:
            os.set_blocking(pipe, False)
            self._outputs[pipe] = _Output(stream)
            loop.watch(pipe, READ, self._reader(pipe))
        self._watch_end()

    def signal(self, number: int) -> None:
        """Send a signal to the process group; one that is gone is fine."""
        if not self.exited:
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    def kill_now(self) -> None:
        """Kill and reap the process, if the daemon itself fails."""
        self.signal(signal.SIGKILL)
        if not self.exited:
            self._process.reap_now(KILL_TIMEOUT)
        self.close()

    def close(self) -> None:
        """Forget the process and its pipes."""
        self._done = True
        if self._linger is not None:
            self._linger.cancel()
        for fd in list(self._outputs):
            self._loop.unwatch(fd)
        self._outputs.clear()
        self._unwatch_end()
        self._process.close()

    # ----------------------------------------------------------------------- end

    def _watch_end(self) -> None:
        if self._process.pidfd >= 0:
            self._loop.watch(self._process.pidfd, READ, lambda _: self._leader_ended())
            return

        def wait() -> None:
            # Leaves the zombie, so that its process id stays reserved until the group is killed.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._loop.call_threadsafe(self._leader_ended)

        threading.Thread(target=wait, name=f"dora-wait-{self.pid}", daemon=True).start()

    def _unwatch_end(self) -> None:
        if self._process.pidfd >= 0:
            self._loop.unwatch(self._process.pidfd)

    def _leader_ended(self) -> None:
        if self.exited or self._done:
            return
        self._unwatch_end()
        self.signal(signal.SIGKILL)  # grandchildren; before reaping, while the id is still ours
        self.exited = True
        self._process.reap(self._loop, self._on_reaped)

    def _on_reaped(self, status: int | None) -> None:
        if self._done:
            return
        self._reaped = True
        self._status = status
        for fd, output in self._outputs.items():
            output.owed = _readable(fd)
        if self._outputs:
            self._linger = self._loop.call_later(LINGER, self._end_linger)
        else:
            self._finish()

    def _end_linger(self) -> None:
        if any(output.owed > 0 for output in self._outputs.values()):
            self._linger = self._loop.call_later(LINGER, self._end_linger)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._done:
            return
        for fd in list(self._outputs):
            self._end_of_stream(fd)
        self.close()
        if self._status is not None and self._status < 0:
            self._on_end(None, -self._status)
        else:
            self._on_end(self._status, None)

    # ----------------------------------------------------------------------- output

    def _reader(self, fd: int) -> Callable[[int], None]:
        def ready(_: int) -> None:
            self._read(fd)
            if self._reaped and not self._outputs:
                self._finish()

        return ready

    def _read(self, fd: int) -> None:
        """Read until the pipe is empty or the turn is over."""
        output = self._outputs[fd]
        end = time.monotonic() + _TURN
        while True:
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end_of_stream(fd)
                return
            output.owed -= len(data)
            for line in output.splitter.feed(data):
                self._on_line(output.stream, line)
            if time.monotonic() >= end:
                return

    def _end_of_stream(self, fd: int) -> None:
        output = self._outputs.pop(fd)
        self._loop.unwatch(fd)
        for line in output.splitter.finish():
            self._on_line(output.stream, line)


def _readable(pipe: int) -> int:
    """Return how many bytes are in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]
