"""The daemon's side of the template process: it starts one, and asks it for processes."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import structs

from dora.daemon.event_loop import READ, Loop, Timer
from dora.daemon.processes.process import is_stopped, open_pidfd
from dora.daemon.template.context import LIMITS, context, ignored_signals, umask
from dora.daemon.template.process import TemplateConnection
from dora.daemon.template.program import program_of
from dora.daemon.template.protocol import (
    REAP,
    Answer,
    ExitStatus,
    Forked,
    ForkRequest,
    PassedOn,
    Refused,
    receive_answer,
    send_request,
)
from dora.dataflow.model import NodeSpec, Scheduling, TimerSource

AT_ONCE: Final = 16  # requests that wait for an answer, with three descriptors each; more wait here
ANSWER_TIMEOUT: Final = 30.0  # seconds for an answer, apart from the time that imports take
MAX_RENEWALS: Final = 100  # of a template that ends again and again; then nodes start plainly
REAP_TIMEOUT: Final = 10.0  # seconds for an exit status; then it counts as unknown
_LOOK_EVERY: Final = 0.5  # seconds between two looks at a template that does not answer
# Errors of a connection to a template that has ended. After others, such as EMFILE, the template works on.
_NO_CONNECTION: Final = {errno.EPIPE, errno.ECONNRESET, errno.EBADF}

_ARRAYS: Final = "dora.node.arrays_before_fork"  # by name, because the daemon shares no code with nodes
_SEALING: Final = "dora.transport.sealing"


def why_plain(node: NodeSpec, command: Sequence[str]) -> str:
    """Return why a process has to be started plainly, "" if a template may be asked."""
    if not sys.platform.startswith("linux"):
        return "templates need Linux"
    if node.preload is None:
        return "`preload` is false for it"
    if node.is_shell:
        return "it is a shell command"
    if program_of(command) is None:
        return f"it does not run {sys.executable} with the option -u alone"
    return ""


def fork_request(
    node: NodeSpec,
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    *,
    is_encrypted: bool = False,
) -> ForkRequest:
    """Return the request for the process of a node. ``is_encrypted``: links to other machines are."""
    modules = [_ARRAYS] if _has_messages(node) else []
    if is_encrypted and node.outputs:
        modules.append(_SEALING)
    return ForkRequest(
        command=tuple(map(os.fsencode, command)),
        environment=tuple(os.fsencode(f"{name}={value}") for name, value in environment.items()),
        directory=directory,
        scheduling=_scheduling(node),
        umask=umask(),
        limits={number: resource.getrlimit(number) for number in LIMITS},
        ignored=ignored_signals(),
        context=context(),
        modules=tuple(modules),
        preload=tuple((package.name, package.place) for package in node.preload or ()),
    )


def _has_messages(node: NodeSpec) -> bool:
    return bool(node.outputs) or any(not isinstance(item.source, TimerSource) for item in node.inputs)


def _scheduling(node: NodeSpec) -> Scheduling:
    """Return the scheduling of a node, with the cores of this process where it names none."""
    if node.scheduling.cpu_affinity:
        return node.scheduling
    return structs.replace(node.scheduling, cpu_affinity=tuple(os.sched_getaffinity(0)))


class ForkedProcess:
    """A process that a template has forked for a node; see `dora.daemon.processes.process.Process`."""

    def __init__(self, pid: int, channel: socket.socket, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.pidfd = open_pidfd(pid)
        self.stdout = stdout
        self.stderr = stderr
        self._channel = channel

    def reap(self, loop: Loop, done: Callable[[int | None], None]) -> None:
        """Read the exit status of the zombie; if that is not possible, ask the template, or the kernel."""
        if (known := zombie_status(self.pid)) is not None:
            self._allow_reaping()
            done(known)
            return
        deadline = time.monotonic() + REAP_TIMEOUT
        timer: Timer | None = None

        def look() -> None:
            nonlocal timer
            try:
                status = exit_status(self.pidfd)
            except OSError:  # this kernel never knows
                done(None)
                return
            if status is not None or time.monotonic() >= deadline:
                done(status)
            else:
                timer = loop.call_later(0.005, look)  # it is not reaped yet

        def answered(_: int) -> None:
            try:
                answer = receive_answer(self._channel)
            except BlockingIOError:
                return
            loop.unwatch(self._channel.fileno())
            late.cancel()
            if isinstance(answer, ExitStatus):
                done(answer.status)
            else:
                look()

        def give_up() -> None:
            loop.unwatch(self._channel.fileno())
            look()

        late = loop.call_at(deadline, give_up)
        try:
            self._channel.send(REAP)
        except OSError:
            late.cancel()
            look()
            return
        loop.watch(self._channel.fileno(), READ, answered)

    def reap_now(self, timeout: float) -> None:
        if self.pidfd >= 0:
            select.select([self.pidfd], [], [], timeout)
        self._allow_reaping()

    def _allow_reaping(self) -> None:
        try:
            self._channel.send(REAP)
        except OSError:
            pass  # the template has ended

    def close(self) -> None:
        self._channel.close()
        os.close(self.stdout)
        os.close(self.stderr)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class PendingStart:
    """A process that a template was asked for, until it has started or was refused."""

    def __init__(
        self,
        client: TemplateClient,
        request: ForkRequest,
        on_started: Callable[[ForkedProcess], None],
        on_refused: Callable[[Refused], None],
    ) -> None:
        self._client = client
        self.request = request
        self._on_started = on_started
        self._on_refused = on_refused
        self.passed_to: int | None = None  # the process that has the request, if it is another one
        self.importing: int | None = None  # that one, if it imports packages for it
        self.over = False
        self._given_up = Refused("the template process has ended")
        self._channel: socket.socket | None = None
        self._pipes: list[int] = []  # where to read its standard output and error
        self.sent_at = 0.0

    def send(self, connection: socket.socket) -> None:
        """Send the request; raises ``OSError``, ``BlockingIOError`` if the template takes none now."""
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = channel
        channel.setblocking(False)
        outputs: list[int] = []
        try:
            for _ in range(2):
                readable, writable = os.pipe()
                self._pipes.append(readable)
                outputs.append(writable)
            send_request(connection, self.request, [*outputs, theirs.fileno()])
        except OSError:
            self._close()
            raise
        finally:
            for output in outputs:
                os.close(output)
            theirs.close()
        self.sent_at = time.monotonic()
        self._client.loop.watch(channel.fileno(), READ, lambda _: self.read())

    def read(self) -> None:
        """Take what the template has answered by now."""
        while self._channel is not None and not self.over:
            try:
                answer = receive_answer(self._channel)
            except BlockingIOError:
                return
            if isinstance(answer, PassedOn):
                self.passed_to = answer.pid
                self.importing = answer.pid if answer.importing else None
                self.sent_at = time.monotonic()
            else:
                self._finish(answer)

    def give_up(self, reason: str) -> None:
        """Have the process started plainly, unless the template has started it already."""
        if self._channel is not None and not self.over:
            # From now on nobody can announce a process. One that was announced before is read.
            self._given_up = Refused(reason)
            self._channel.shutdown(socket.SHUT_RD)
            self.read()
        if not self.over:
            self.refuse(Refused(reason))

    def cancel(self) -> None:
        """Have no process started; one that has started already is reported."""
        self._on_refused = lambda _: None
        self.give_up("")

    def refuse(self, refused: Refused) -> None:
        """Report that the process has to be started plainly."""
        self.over = True
        self._on_refused(refused)

    def _finish(self, answer: Answer | None) -> None:
        assert self._channel is not None
        self._client.loop.unwatch(self._channel.fileno())
        if isinstance(answer, Forked):
            self.over = True
            process = ForkedProcess(answer.pid, self._channel, *self._pipes)
            self._client.answered(self)
            self._on_started(process)
        else:
            self._close()
            self._client.answered(self)
            self.refuse(answer if isinstance(answer, Refused) else self._given_up)

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            for pipe in self._pipes:
                os.close(pipe)
            self._pipes.clear()


class TemplateClient:
    """Asks a template for processes, in the daemon's loop."""

    def __init__(self, loop: Loop, template: TemplateConnection) -> None:
        self.loop = loop
        self._template = template
        self._template.connection.setblocking(False)
        self._renewals = 0
        self._waiting: deque[PendingStart] = deque()
        self._sent: list[PendingStart] = []
        self._timer: Timer | None = None

    def start(
        self,
        request: ForkRequest,
        on_started: Callable[[ForkedProcess], None],
        on_refused: Callable[[Refused], None],
    ) -> PendingStart:
        """Ask for a process; one of the functions is called later, in the loop."""
        start = PendingStart(self, request, on_started, on_refused)
        self._waiting.append(start)
        self.loop.call_at(0.0, self._send)  # not now: a refusal would come before the caller has `start`
        if self._timer is None:
            self._timer = self.loop.call_later(_LOOK_EVERY, self._look)
        return start

    def answered(self, start: PendingStart) -> None:
        """Forget a start that was answered, and send the next one."""
        self._sent.remove(start)
        self._send()

    def close(self) -> None:
        """Forget the requests that have not been answered; none of them starts a process."""
        if self._timer is not None:
            self._timer.cancel()
        for start in [*self._waiting, *self._sent]:
            start.cancel()

    def _send(self) -> None:
        while self._waiting and len(self._sent) < AT_ONCE:
            start = self._waiting.popleft()
            if start.over:
                continue
            try:
                start.send(self._template.connection)
            except BlockingIOError:  # its queue is full; the next answer sends this one
                self._waiting.appendleft(start)
                return
            except OSError as error:
                start.refuse(Refused(f"the template process cannot be reached: {error.strerror}"))
                if error.errno in _NO_CONNECTION:
                    self._renew()
            else:
                self._sent.append(start)

    def _renew(self) -> None:
        """Have another template process for the next starts, as this one has ended."""
        if self._renewals < MAX_RENEWALS:
            self._renewals += 1
            try:
                self._template.renew()
            except OSError:
                return  # the next start tries again
            self._template.connection.setblocking(False)

    def _look(self) -> None:
        """Start plainly what a stopped template, or one that takes too long, has not started."""
        self._timer = None
        now = time.monotonic()
        for start in self._sent.copy():
            if is_stopped(start.passed_to or self._template.pid):
                start.give_up("the template process is stopped")
            elif start.importing is None and now - start.sent_at > ANSWER_TIMEOUT:
                start.give_up("the template process does not answer")
        self._send()
        if self._sent or self._waiting:
            self._timer = self.loop.call_at(now + _LOOK_EVERY, self._look)


_WCHAN: Final = 35 - 3  # the places of fields in /proc/PID/stat behind the name, see proc(5)
_EXIT_CODE: Final = 52 - 3


def zombie_status(pid: int) -> int | None:
    """Return the exit status of a process that has ended and was not reaped: the code, or minus the signal.

    None if it is no zombie, or the kernel does not tell (Linux). It does not for want of rights, and shows
    0 then, but 0 instead of 1 for the wait channel, too.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] == b"Z" and fields[_WCHAN] == b"1":
            return os.waitstatus_to_exitcode(int(fields[_EXIT_CODE]))
    except (OSError, ValueError, IndexError):
        pass
    return None


_PIDFD_GET_INFO: Final = 0xC040_FF0B
_PIDFD_INFO_EXIT: Final = 1 << 3
_INFO: Final = struct.Struct("=QQ11Ii")  # ``struct pidfd_info`` of include/uapi/linux/pidfd.h


def exit_status(pidfd: int) -> int | None:
    """Return the exit status of a process that somebody else has reaped: the code, or minus the signal.

    None if it is not reaped yet; raises ``OSError`` if the kernel cannot tell (Linux before 6.15).
    """
    buffer = bytearray(_INFO.size)
    _INFO.pack_into(buffer, 0, _PIDFD_INFO_EXIT, *(0 for _ in range(13)))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except ProcessLookupError:  # perhaps it was reaped during the call
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    fields = _INFO.unpack(buffer)
    return os.waitstatus_to_exitcode(fields[-1]) if fields[0] & _PIDFD_INFO_EXIT else None
