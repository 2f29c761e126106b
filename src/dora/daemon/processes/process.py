"""A process that was started for a node, plainly or by a template, as `Child` sees it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from typing import Final, Protocol

from dora.daemon.event_loop import Loop
from dora.daemon.guardian import KILL_TIMEOUT
from dora.daemon.processes.launch_spec import CannotSpawn
from dora.daemon.processes.scheduling import in_own_thread, set_scheduling
from dora.dataflow.model import Scheduling

AS_THE_DAEMON: Final = Scheduling()


class Process(Protocol):
    """A running process, leader of its own process group; its zombie stays until `reap`."""

    pid: int
    pidfd: int  # -1 where there are none (old kernels, macOS)
    stdout: int  # where its output is read
    stderr: int

    def reap(self, loop: Loop, done: Callable[[int | None], None]) -> None:
        """Call ``done`` with the exit status: the code, minus the signal, None if nobody knows it.

        To be called when the process has ended, and its process group was killed.
        """

    def reap_now(self, timeout: float) -> None:
        """Wait until the process has ended, at most ``timeout`` seconds, and forget its status."""

    def close(self) -> None:
        """Close the pipes and the pidfd."""


class PlainProcess:
    """A process that this one has executed."""

    def __init__(
        self,
        command: list[str],
        *,
        env: dict[str, str],
        cwd: str,
        scheduling: Scheduling = AS_THE_DAEMON,
    ) -> None:
        """Start it; raises `CannotSpawn`."""
        if scheduling == AS_THE_DAEMON:
            self._popen = _start(command, env, cwd)
        else:
            self._popen = in_own_thread(lambda: _start_scheduled(command, env, cwd, scheduling))
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.pid = self._popen.pid
        self.pidfd = open_pidfd(self.pid)  # it is not reaped yet, so no other process has its id
        self.stdout = self._popen.stdout.fileno()
        self.stderr = self._popen.stderr.fileno()

    def reap(self, loop: Loop, done: Callable[[int | None], None]) -> None:  # noqa: ARG002
        done(self._popen.wait())

    def reap_now(self, timeout: float) -> None:
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            pass  # the daemon ends nevertheless

    def close(self) -> None:
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def open_pidfd(pid: int) -> int:
    """Return a descriptor that is readable when a process has ended, -1 if there is none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended that was killed, or has nothing more to do."""
    try:
        process.wait(KILL_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass  # it waits for a broken disk; the daemon goes on without it


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal or a debugger (Linux)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def _start_scheduled(
    command: list[str], env: dict[str, str], cwd: str, scheduling: Scheduling
) -> subprocess.Popen[bytes]:
    """Start a process that inherits the scheduling of this thread; raises `CannotSpawn`."""
    try:
        set_scheduling(scheduling)
    except OSError as error:
        raise CannotSpawn(str(error)) from error
    return _start(command, env, cwd)


def _start(command: list[str], env: dict[str, str], cwd: str) -> subprocess.Popen[bytes]:
    """Start a process; raises `CannotSpawn`."""
    try:
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
