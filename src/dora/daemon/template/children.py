"""Templates of more packages, as the base template knows them."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from dora.daemon.template.protocol import CHANNEL, Refused, pass_on, send_answer

IMPORT_TIMEOUT: Final = 300.0  # seconds; PyTorch may take a minute from an SD card, or on a busy machine
MAX_CHILDREN: Final = 16  # more have to end: each may hold hundreds of megabytes
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_END_TIMEOUT: Final = 5.0  # seconds between the end of a connection and of its process, on a busy machine
_KILL_TIMEOUT: Final = 2.0  # seconds; a process that waits for a broken disk cannot be killed


class PackageSet(NamedTuple):
    """The packages of such a template. Nodes that want the same share one.

    ``directory``: where the packages are imported, since some read files there. Empty for dora's own
    modules.
    """

    modules: tuple[str, ...]
    directory: str = ""


class ChildTemplate:
    """A template of more packages: it imports them and forks nodes, or has a reason why it cannot."""

    def __init__(self, connection: socket.socket, pid: int, named: Mapping[str, str]) -> None:
        self.connection = connection
        self.pid = pid
        self.named = named  # by the dataflow, with the places in its file
        self.deadline: float | None = time.monotonic() + IMPORT_TIMEOUT  # of its imports
        self.refusal = Refused("")
        self.starts = 0
        self.since = time.time()
        self._waiting: list[list[int]] = []  # descriptors of requests, while it imports

    @property
    def is_importing(self) -> bool:
        return self.deadline is not None

    @property
    def lateness(self) -> str:
        """Return why the import is too late, or ""."""
        is_late = self.deadline is not None and time.monotonic() > self.deadline
        return f"takes longer than {IMPORT_TIMEOUT:.0f} s" if is_late else ""

    def take(self, descriptors: list[int]) -> Refused:
        """Pass a request on; while it imports, keep it."""
        self.starts += 1
        if self.is_importing:
            # Copies: the caller closes its own.
            self._waiting.append([os.dup(descriptor) for descriptor in descriptors])
            return Refused("")
        return self._pass_on(descriptors)

    def has_imported(self) -> None:
        """Pass on the requests that have waited."""
        self.deadline = None
        self._answer_waiting(self._pass_on)

    def end(self, refusal: Refused) -> None:
        """Take no more requests, and refuse those that wait."""
        self.deadline = None
        self.connection.close()
        self._answer_waiting(lambda _: refusal)

    def close(self) -> None:
        """Close, in a forked process, what belongs to the base."""
        self.connection.close()
        for descriptors in self._waiting:
            close_all(descriptors)

    def _pass_on(self, descriptors: list[int]) -> Refused:
        try:
            pass_on(self.connection, descriptors)
        except OSError as error:
            return Refused(f"the template of its packages cannot be reached: {error.strerror}")
        return Refused("")

    def _answer_waiting(self, answer: Callable[[list[int]], Refused]) -> None:
        waiting, self._waiting = self._waiting, []
        for descriptors in waiting:
            if (refusal := answer(descriptors)).reason:
                with socket.socket(fileno=os.dup(descriptors[CHANNEL])) as channel:
                    send_answer(channel, refusal)
            close_all(descriptors)


def close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass  # it is closed already


def crash_of(pid: int) -> str:
    """Return how a child of this process has ended, "" if somebody has killed it. It is not reaped.

    It has closed its connection; one that lives nevertheless is killed.
    """
    pidfd = os.pidfd_open(pid)
    if not select.select([pidfd], [], [], _END_TIMEOUT)[0]:
        kill_with_descendants(pid)
    os.close(pidfd)
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if end is None:
        return ""
    if end.si_code == os.CLD_EXITED:  # before any look at the number: an exit status is no signal
        return f"exit status {end.si_status}"
    if end.si_status in (signal.SIGKILL, signal.SIGTERM):
        return ""
    try:
        return signal.Signals(end.si_status).name
    except ValueError:  # most real-time signals have no name
        return f"signal {end.si_status}"


def end_with_parent(enabled: bool) -> None:
    """Have the kernel kill this process when the one that started it dies. Forks do not inherit that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL) if enabled else 0, 0, 0, 0)
    if enabled and os.getppid() == 1:  # it died before the call, so no signal would come
        os._exit(0)


def adopt_orphans(enabled: bool) -> None:
    """Make this process the parent of orphans among its descendants. Forks do not inherit that."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Return the living processes that a process has started, and in turn their own."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                for child in map(int, file.read().split()):
                    if not _has_ended(child):
                        found += [child, *descendants(child)]
    except OSError:
        pass  # it has ended meanwhile
    return found


_NUM_THREADS: Final = 20 - 3  # its place behind the name in /proc/PID/stat, see proc(5)


def _has_ended(pid: int) -> bool:
    """Return whether a process has ended with all its threads; the first may have ended before others."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0] in (b"Z", b"X") and int(fields[_NUM_THREADS]) <= 1
    except OSError:
        return True


def kill_descendants(pid: int) -> bool:
    """Kill all processes that a process has started; return whether there were any."""
    deadline = time.monotonic() + _KILL_TIMEOUT
    killed = False
    while (found := descendants(pid)) and time.monotonic() < deadline:
        killed = True
        for child in found:
            kill(child)
        time.sleep(0.001)  # until they have ended, and others that they have started meanwhile are seen
    return killed


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass  # it has ended


def kill_with_descendants(pid: int) -> None:
    """Kill a process and all that it has started. It is stopped before, so that it starts no more."""
    kill(pid, signal.SIGSTOP)
    kill_descendants(pid)
    kill(pid)
