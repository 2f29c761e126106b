"""Run the programs of a build, show their output line by line, and end them when the build ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from dora.daemon.guardian import RUN_ID, kill_run
from dora.daemon.logs.diagnostics import debug_log
from dora.daemon.logs.entry import LogEntry, Stream
from dora.daemon.processes.process import why_not_started
from dora.daemon.supervisor.result import describe_exit
from dora.daemon.watchdog import Watchdog
from dora.daemon.work import BuildProgress, ReadLine, Work
from dora.dataflow.addresses import without_user
from dora.dataflow.model import LogLevel
from dora.errors import BuildError
from dora.wire.correlation import uuid7

TAIL_LINES = 20
"""How many of the last lines of its output are repeated when a command fails."""

POLL_EVERY = 0.5  # seconds that a Ctrl-C may wait, see `_lines`

_LINE = re.compile(rb"\n")
_PART = re.compile(rb"[\r\n]")  # a program shows its progress in one line, again and again

_SHELL_COMMANDS = frozenset({"cd", "source", ".", "export"})
_SHELL_WORDS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})


class BuildLog:
    """Log of a build for one node; may be used from several threads."""

    def __init__(self, on_log: Callable[[LogEntry], None], node_id: str, progress: BuildProgress) -> None:
        self._on_log = on_log
        self._node_id = node_id
        self._progress = progress

    def begin(self, message: str) -> Work:
        """Log what begins now; return its work."""
        work = self._progress.begin(self._node_id)
        self.write(message)
        return work

    def write(self, message: str, level: LogLevel = "info") -> None:
        """Log a message of the build."""
        self._entry(level, message, "daemon")

    def line(self, text: str) -> None:
        """Log a line that a program printed."""
        self._entry("stdout", text, "stdout")

    def _entry(self, level: LogLevel, message: str, stream: Stream) -> None:
        self._on_log(LogEntry(time.time_ns(), level, self._node_id, message, stream=stream, target="build"))


class CommandFailed(BuildError):
    """A program could not be started, or failed; ``lines`` is the output that the message ends with."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message + quoted(lines))
        self.lines = lines


class Stopped(Exception):
    """The build has ended meanwhile, because another command failed."""


class Processes:
    """The programs that run for a build, at most one per thread.

    ``parallel``: several run at the same time. Their output is mixed, so the error of a failed program
    repeats all that it printed, otherwise only the end. Each program is a process group and ends with the
    processes that it started: a compiler that lives on would keep its output, and so the build, open. A
    single program stays in the terminal's group, because it may ask there for a passphrase. If it is ended
    early, the processes that it started are ended with `close`. A guardian ends all of them if this process
    is killed.
    """

    def __init__(self, parallel: bool = False) -> None:
        self._parallel = parallel
        # The main thread stops all programs while the threads of a parallel build start some. A program is
        # started under the lock, so `stop` either finds it or prevents it.
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._ended_early = False
        self._mark = uuid7()
        self._watchdog: Watchdog | None = None
        self._untold = ""  # why no guardian runs, until a log can be told

    def close(self) -> None:
        """End the guardian, and before it what a program left that was ended early; none runs any more."""
        if self._ended_early:
            kill_run(self._mark)
        if self._watchdog is not None:
            self._watchdog.dismiss()

    def stop(self) -> None:
        """End all running programs; none can be started afterwards."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            self._end(process)

    def run(
        self,
        words: Sequence[str],
        *,
        what: str,
        cwd: str,
        env: Mapping[str, str],
        log: BuildLog | None,
        written: str = "",
        stdin: str | None = None,
        read: ReadLine | None = None,
    ) -> list[str]:
        """Run a program to its end; return the lines that it printed.

        ``what`` names it in errors, ``written`` is the command in the dataflow file. ``read`` gets each
        line first, and takes out those about the progress. Raises `CommandFailed` if it cannot be started
        or does not exit with status 0.
        """
        hint = shell_hint(written)
        diagnostics = debug_log("dora.build")
        if diagnostics is not None:
            diagnostics.debug("%s in %s", without_user(shlex.join(words)), cwd)
        begun = time.monotonic()
        try:
            with self._lock:
                if self._stopped:
                    raise Stopped
                # Before the first program: a kill of this process leaves none behind.
                if self._watchdog is None:
                    self._watchdog = Watchdog(self._mark)
                    self._untold = self._watchdog.fault
                process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env={**env, RUN_ID: self._mark},
                    stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    process_group=0 if self._parallel else None,
                )
                self._running.add(process)
        except OSError as error:
            reason = why_not_started(error, words[0], cwd)
            raise CommandFailed(f"{what} cannot be started: {reason}{hint}") from None
        lines: list[str] = []
        with process:
            try:
                if log is not None and self._untold:
                    fault, self._untold = self._untold, ""
                    log.write(fault, "warn")
                if process.stdin is not None and stdin is not None:
                    # A program that has ended early says why in its output.
                    with contextlib.suppress(BrokenPipeError), process.stdin:
                        process.stdin.write(stdin.encode())
                assert process.stdout is not None
                for raw in _lines(process.stdout.fileno(), _LINE if read is None else _PART):
                    line = raw.decode("utf-8", "replace").rstrip("\r\n")
                    if read is not None and (read(line) or not line):
                        continue
                    lines.append(line)
                    if log is not None:
                        log.line(lines[-1])
                status = process.wait()
            except BaseException:
                self._end(process)
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
        if diagnostics is not None:
            diagnostics.debug("%s: status %d after %.2f s", words[0], status, time.monotonic() - begun)
        if status != 0:
            shown = lines if self._parallel or log is None else lines[-TAIL_LINES:]
            raise CommandFailed(f"{what} {_describe_status(status)}{hint}", shown)
        return lines

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._ended_early = True
        self._signal(process, signal.SIGTERM)
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            pass  # it ignores SIGTERM
        self._signal(process, signal.SIGKILL)  # in a group also processes that ignored SIGTERM

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        if not self._parallel:
            process.send_signal(number)
            return
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):  # all have ended; macOS raises the second
            pass


def _lines(descriptor: int, end: re.Pattern[bytes]) -> Iterator[bytes]:
    """Yield the lines that arrive at a pipe, until its end.

    A signal just before a read, or to another thread, does not interrupt the read. So every wait is
    bounded, and Ctrl-C works.
    """
    rest = b""
    poll = select.poll()  # `select` knows the first 1024 descriptors only
    poll.register(descriptor, select.POLLIN)
    while True:
        while not poll.poll(POLL_EVERY * 1000):
            pass
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        *lines, rest = end.split(rest + data)
        yield from lines
    if rest:
        yield rest


def quoted(lines: Sequence[str]) -> str:
    """Return lines of a program for the end of an error message, "" if there are none."""
    return "".join(f"\n  | {line}" for line in lines)


def shell_hint(command: str) -> str:
    """Return a hint if only a shell would understand a command, else ""."""
    words = command.split()
    if not words or (words[0] not in _SHELL_COMMANDS and not _SHELL_WORDS.intersection(words)):
        return ""
    return "\n  help: build commands run without a shell: write one command per line, or `sh -c '...'`"


def _describe_status(status: int) -> str:
    return describe_exit(status, None) if status > 0 else describe_exit(None, -status)
