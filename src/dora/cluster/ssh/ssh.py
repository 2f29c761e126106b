"""Commands on the machines of a cluster, by the system's ssh, with its configuration and keys.

ssh never asks: a machine that needs a password, or is unknown, is an error with a remedy.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any, Final, TypeVar

from dora.cluster.ssh.file import Machine
from dora.daemon.work import Work
from dora.errors import DoraError

CONNECT_TIMEOUT: Final = 10  # seconds; a machine that is off is named then
COMMAND_TIMEOUT: Final = 60.0  # seconds; a script itself may wait 30 s for the end of a daemon
MAX_AT_ONCE: Final = 16  # machines; each takes a thread and an ssh process
_FAILED: Final = 255  # the exit status of ssh itself
_MAX_ERRORS: Final = 100  # lines of standard error that are kept

_Result = TypeVar("_Result")

# Text in the output of ssh → sentence and remedy; `{}` is the command to log in by hand.
_FAULTS: Final = (
    ("Permission denied", "it wants more than your ssh keys; `{}` has to work without a password"),
    (
        "Host key verification failed",
        "its host key is unknown, or another one; say `{}` once and check it",
    ),
    ("Could not resolve hostname", "no host of that name is known; check the name"),
    ("Connection refused", "no ssh server listens there; check host and port"),
    ("timed out", "it does not answer; check the host, and that the machine is on"),
    ("No route to host", "there is no way to it; check the host, and that the machine is on"),
    ("Network is unreachable", "there is no way to it; check the host and your network"),
)


class MachineFault(DoraError):
    """Something did not work on a machine; ``str(error)`` begins with the machine."""

    def __init__(self, machine: Machine, reason: str) -> None:
        super().__init__(f"{machine.id}: {reason}")
        self.machine = machine
        self.reason = reason


def login(machine: Machine) -> list[str]:
    """Return the command that logs in on a machine."""
    user = ["-l", machine.user] if machine.user else []
    port = ["-p", str(machine.port)] if machine.port else []
    return ["ssh", *port, *user, machine.host]


def command_line(machine: Machine, script: str, *, options: Sequence[str] = ("-T",)) -> list[str]:
    """Return the command that runs a script (POSIX sh) on a machine, whatever the user's shell is there.

    ``options`` go to ssh; the default ones are for pipes instead of a terminal.
    """
    # ssh ends after three probes without an answer, its default. Without probes, a cut would go unnoticed.
    settings = ("BatchMode=yes", f"ConnectTimeout={CONNECT_TIMEOUT}", "ServerAliveInterval=5")
    words = [word for setting in settings for word in ("-o", setting)]
    shared = ["-S", machine.connection] if machine.connection else []
    _, *where = login(machine)
    return ["ssh", *options, *words, *shared, *where, f"exec sh -c {shlex.quote(script)}"]


def run(machine: Machine, script: str, *, stdin: str = "", timeout: float = COMMAND_TIMEOUT) -> str:
    """Run a script on a machine, with ``stdin`` as its standard input; return what it printed.

    Raises `MachineFault` if the machine cannot be reached, if it takes longer than ``timeout`` seconds,
    or if the script fails, with the last line that it printed to standard error.
    """
    return _run(machine, script, timeout, input=stdin.encode())


def send_file(
    machine: Machine, script: Callable[[Machine, str], str], path: str, timeout: float, work: Work
) -> str:
    """Run ``script(machine, name)`` with a file as its standard input; otherwise as `run`.

    ``work``: of the file; when all of it is sent, nothing more is known.
    """
    with open(path, "rb") as file:
        work.become(0, os.path.getsize(path))
        readable, writable = os.pipe()

        def send() -> None:
            with open(writable, "wb", buffering=0) as pipe:
                try:
                    shutil.copyfileobj(CountedReads(file, work), pipe)
                except BrokenPipeError:
                    pass  # the command has ended
            work.become(0, 0)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            return _run(machine, script(machine, os.path.basename(path)), timeout, stdin=readable)
        finally:
            os.close(readable)
            thread.join()


class CountedReads:
    """A file whose bytes are added to some work when they are read."""

    def __init__(self, file: IO[bytes], work: Work) -> None:
        self._file = file
        self._work = work

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._work.advance(len(data))
        return data


def _run(machine: Machine, script: str, timeout: float, **stdin: Any) -> str:
    try:
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command_line(machine, script), capture_output=True, timeout=timeout, **stdin
        )
    except FileNotFoundError:
        raise MachineFault(machine, "there is no `ssh` here; install OpenSSH") from None
    except subprocess.TimeoutExpired:
        raise MachineFault(machine, f"it took longer than {timeout:.0f} s, and was given up") from None
    if done.returncode:
        raise MachineFault(machine, reason(machine, done.returncode, done.stderr.decode(errors="replace")))
    return done.stdout.decode(errors="replace")


def reason(machine: Machine, status: int, output: str) -> str:
    """Return why a command on a machine failed, from its exit status and what it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if status == _FAILED:
        hand = shlex.join(login(machine))
        for sign, meaning in _FAULTS:
            if any(sign in line for line in lines):
                return f"ssh to {machine.host} failed: {meaning.format(hand)}"
    last = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "")
    if status == 127:
        return (
            f"there is no command `{machine.dora}` on {machine.host}; install dora-dataflow there, or say "
            "with `dora: PATH` of the machine where it is"
        )
    return last.removeprefix("error:").strip() or f"the command ended with exit status {status}"


def on_all(
    machines: Iterable[Machine], work: Callable[[Machine], _Result]
) -> tuple[list[tuple[Machine, _Result]], list[MachineFault]]:
    """Run a function for all machines at once; return the results, in their order, and what went wrong."""

    def attempt(machine: Machine) -> _Result | MachineFault:
        try:
            return work(machine)
        except MachineFault as fault:
            return fault

    chosen = list(machines)
    results: list[tuple[Machine, _Result]] = []
    faults: list[MachineFault] = []
    with ThreadPoolExecutor(min(len(chosen), MAX_AT_ONCE) or 1) as pool:
        for machine, found in zip(chosen, pool.map(attempt, chosen), strict=True):
            if isinstance(found, MachineFault):
                faults.append(found)
            else:
                results.append((machine, found))
    return results, faults


def piped(
    machine: Machine, script: str, *, options: Sequence[str] = ("-T",), own_session: bool = False
) -> subprocess.Popen[Any]:
    """Start a script on a machine, with pipes to it; raises `MachineFault` without ssh.

    ``options`` as for `command_line`. ``own_session``: Ctrl-C in the terminal does not reach ssh.
    """
    try:
        return subprocess.Popen(
            command_line(machine, script, options=options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=own_session,
        )
    except FileNotFoundError:
        raise MachineFault(machine, "there is no `ssh` here; install OpenSSH") from None


class PipedScript:
    """A script that runs on a machine, with pipes to it; ``with`` ends it.

    A thread reads its standard error, so that it never waits for that.
    """

    def __init__(
        self, machine: Machine, script: str, *, options: Sequence[str] = ("-T",), own_session: bool = False
    ) -> None:
        """Start it; arguments and errors as of `piped`."""
        self._machine = machine
        self.process = piped(machine, script, options=options, own_session=own_session)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout
        self._errors: deque[bytes] = deque(maxlen=_MAX_ERRORS)
        self._listener = threading.Thread(target=self._read_errors, daemon=True)
        self._listener.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self._errors.extend(stream)

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return the exit status, and the last lines of standard error."""
        status = self.process.wait()
        self._listener.join()
        return status, b"".join(self._errors).decode(errors="replace")

    def fault(self) -> MachineFault:
        """Wait for its end, and return why it has failed."""
        return MachineFault(self._machine, reason(self._machine, *self.wait()))

    def close_stdin(self) -> None:
        """End its standard input."""
        with suppress(BrokenPipeError):  # nobody takes what was still to be sent
            self.stdin.close()

    def __enter__(self) -> PipedScript:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.close_stdin()
        self.stdout.close()
