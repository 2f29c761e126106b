"""The process of a node: its start, the lines that it prints, its end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from dora.daemon.event_loop import READ, Loop, Timer
from dora.daemon.logs.entry import Stream
from dora.daemon.processes.launch_spec import CannotSpawn

MAX_LINE = 1 << 20  # bytes


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


# How long the pipes of a process that has ended are read: another process that left the process group may
# hold them open for ever.
LINGER = 0.25  # seconds
_CHUNK = 65536


class Child:
    """A running node process, leader of its own process group.

    ``on_line(stream, text)`` gets every line; ``on_end(exit code, signal number)`` is called once,
    after the last line. The rest of the process group is killed when the leader ends.
    """

    def __init__(
        self,
        loop: Loop,
        command: list[str],
        *,
        env: dict[str, str],
        cwd: str,
        cpu_affinity: tuple[int, ...],
        on_line: Callable[[Stream, str], None],
        on_end: Callable[[int | None, int | None], None],
    ) -> None:
        self._loop = loop
        self._on_line = on_line
        self._on_end = on_end
        self._popen = _start(command, env, cwd, cpu_affinity)
        self.pid = self._popen.pid
        self.exited = False  # the leader has ended
        self._splitters: dict[int, tuple[Stream, LineSplitter]] = {}
        self._linger: Timer | None = None
        self._done = False
        self._pidfd = -1
        streams: list[tuple[Stream, IO[bytes] | None]] = [
            ("stdout", self._popen.stdout),
            ("stderr", self._popen.stderr),
        ]
        for stream, pipe in streams:
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._splitters[pipe.fileno()] = (stream, LineSplitter())
            loop.watch(pipe.fileno(), READ, self._reader(pipe.fileno()))
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
            try:
                self._popen.wait(5.0)
            except subprocess.TimeoutExpired:
                pass
        self.close()

    def close(self) -> None:
        """Forget the process and its pipes."""
        self._done = True
        if self._linger is not None:
            self._linger.cancel()
        for fd in list(self._splitters):
            self._loop.unwatch(fd)
        self._splitters.clear()
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        self._close_pidfd()

    # ----------------------------------------------------------------------- end

    def _watch_end(self) -> None:
        if hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                pass  # an old kernel
            else:
                self._loop.watch(self._pidfd, READ, lambda _: self._leader_ended())
                return

        def wait() -> None:
            # Leaves the zombie, so that its process id stays reserved until the group is killed.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._loop.call_threadsafe(self._leader_ended)

        threading.Thread(target=wait, name=f"dora-wait-{self.pid}", daemon=True).start()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _leader_ended(self) -> None:
        if self.exited or self._done:
            return
        self._close_pidfd()
        self.signal(signal.SIGKILL)  # grandchildren; before reaping, while the id is still ours
        self.exited = True
        self._popen.wait()
        for fd in list(self._splitters):
            self._read(fd)
        if self._splitters:
            self._linger = self._loop.call_at(time.monotonic() + LINGER, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._done:
            return
        for fd in list(self._splitters):
            self._end_of_stream(fd)
        self.close()
        code = self._popen.returncode
        if code < 0:
            self._on_end(None, -code)
        else:
            self._on_end(code, None)

    # ----------------------------------------------------------------------- output

    def _reader(self, fd: int) -> Callable[[int], None]:
        def ready(_: int) -> None:
            self._read(fd)
            if self.exited and not self._splitters:
                self._finish()

        return ready

    def _read(self, fd: int) -> None:
        """Read one chunk while the process lives, everything once it has ended."""
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
            stream, splitter = self._splitters[fd]
            for line in splitter.feed(data):
                self._on_line(stream, line)
            if not self.exited or self._done:
                return

    def _end_of_stream(self, fd: int) -> None:
        stream, splitter = self._splitters.pop(fd)
        self._loop.unwatch(fd)
        for line in splitter.finish():
            self._on_line(stream, line)


def _start(
    command: list[str], env: dict[str, str], cwd: str, cpu_affinity: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    """Start a process; raises `CannotSpawn`."""
    before: set[int] | None = None
    try:
        if cpu_affinity and hasattr(os, "sched_setaffinity"):
            # Set for this thread and inherited: so the process never runs anywhere else.
            before = os.sched_getaffinity(0)
            try:
                os.sched_setaffinity(0, cpu_affinity)
            except OSError as error:
                raise CannotSpawn(
                    f"`cpu_affinity` {list(cpu_affinity)} is not possible here; this process may use the "
                    f"cores {sorted(before)}"
                ) from error
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
        )
    except OSError as error:
        raise CannotSpawn(why_not_started(error, command[0], cwd)) from error
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def why_not_started(error: OSError, program: str, cwd: str) -> str:
    """Return why a program could not be started in a folder, as half a sentence."""
    if not os.path.isdir(cwd):
        return f"its working directory {cwd} does not exist"
    if isinstance(error, FileNotFoundError):
        if os.path.isfile(program):
            return f"the interpreter named in the first line of {program} does not exist"
        return f"there is no program `{program}` on PATH"
    if isinstance(error, PermissionError):
        return f"`{program}` may not be executed (make it executable, or name its interpreter first)"
    if error.errno == errno.ENOEXEC:
        return f"{program} is neither a program of this machine nor a script with a `#!` line"
    return f"{program}: {error.strerror}"
