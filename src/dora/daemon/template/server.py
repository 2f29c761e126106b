"""The template process: a server that forks nodes.

The *base* template has imported dora and what nearly every node needs. Nodes for which the dataflow names
further packages are forked by a *child template*, a fork of the base that has imported these. So a node
finds no package loaded that the dataflow does not name for it.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from dora._ownership import peer_of
from dora.daemon.template.checks import different_variable, is_python_text, shadowed_module
from dora.daemon.template.children import (
    MAX_CHILDREN,
    ChildTemplate,
    PackageSet,
    adopt_orphans,
    close_all,
    crash_of,
    end_with_parent,
    kill_with_descendants,
)
from dora.daemon.template.context import context
from dora.daemon.template.imports import Imports, fault_of, package_names
from dora.daemon.template.program import PythonProgram, program_of
from dora.daemon.template.protocol import (
    ExitStatus,
    ForkRequest,
    PassedOn,
    Refused,
    TemplateState,
    pass_on,
    read_request,
    receive_answer,
    receive_descriptors,
    send_answer,
    send_states,
)

IDLE_TIMEOUT: Final = 600.0  # seconds after its last connection; then its memory is given back
MEMORY_NEEDED: Final = 0.05  # of the memory of the machine has to be available to keep an idle template
IDLE_BEFORE_SPARE: Final = 0.03  # seconds without a request, so that nodes that start have the processors
SWEEP: Final = 1.0  # seconds between two looks for ended processes that no daemon asks about


class InNewProcess(Exception):
    """This is a forked process: it waits for the program that it is to run, or is a template of its own."""

    def __init__(self, becomes: socket.socket | Template) -> None:
        super().__init__()
        self.becomes = becomes


class _Spare(NamedTuple):
    """A process that is forked and waits for the request that says what it runs."""

    connection: socket.socket
    pid: int


class Template:
    """One template process.

    ``served`` brings requests, or connections that do. The process ends with the connection, when its
    processes have ended or nobody asks about them; one that accepts connections ends when it was idle for a
    while. ``environment`` is the one in which it imports ``wanted``; ``named`` are those modules of it that
    a dataflow names, with their places. ``before`` are the imports of the base, in a child template.
    ``retired`` is the pipe, if any, in which the base says that it accepts no more connections.
    """

    def __init__(
        self,
        served: socket.socket,
        environment: dict[bytes, bytes],
        wanted: PackageSet,
        named: Mapping[str, str],
        before: Imports | None = None,
        retired: Sequence[int] = (),
    ) -> None:
        self._environment = environment
        self._wanted = wanted
        self._named = named
        self._retired = retired
        self._is_base = before is None
        self.imports = before or Imports()
        self._listener: socket.socket | None = None
        self._poll = select.poll()
        self._connections: dict[int, socket.socket] = {}
        self._channels: dict[int, tuple[socket.socket, int]] = {}  # of processes that have not been reaped
        self._unasked: list[int] = []  # processes that nobody will ask about
        self._children: dict[PackageSet, ChildTemplate] = {}  # the one that was used last comes last
        self._spare: _Spare | None = None
        self._wants_spare = True
        if served.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            served.setblocking(False)
            self._listener = served
            self._poll.register(served, select.POLLIN)
        else:
            self._add(served)
        self._busy = time.monotonic()  # when it was last
        self._since = time.time()
        self._starts = 0

    def _add(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def load(self) -> None:
        """Import what is wanted. One that is not the base tells it, and ends if it can fork nothing."""
        adopt_orphans(True)  # of the processes that packages start, to find all of them
        try:
            if self._wanted.directory:
                os.chdir(self._wanted.directory)
            self.imports.load(self._wanted.modules, self._named)
            os.chdir("/")
        except OSError as error:
            self.imports.refusal = Refused(f"{self._wanted.directory} cannot be used: {error.strerror}")
        adopt_orphans(False)
        if not self._is_base:
            (connection,) = self._connections.values()
            if not send_answer(connection, self.imports.refusal) or self.imports.refusal.reason:
                os._exit(0)
            end_with_parent(False)

    # ------------------------------------------------------------------- the loop

    def serve(self) -> None:
        """Fork processes until nobody needs this one. Raises `InNewProcess` in each new process."""
        while self._connections or self._channels or self._is_kept():
            self._reap_unasked()
            self._end_hung_imports()
            ready = [descriptor for descriptor, _ in self._poll.poll(self._patience())]
            if not ready:
                self._fork_ahead()
            # Connections come last: each request may fork, and ends of processes need not wait for that.
            for descriptor in sorted(ready, key=self._connections.__contains__):
                if self._listener is not None and descriptor == self._listener.fileno():
                    self._accept(self._listener)
                elif descriptor in self._connections:
                    self._on_connection(self._connections[descriptor])
                elif descriptor in self._channels:
                    self._on_channel(descriptor)
                elif self._spare is not None and descriptor == self._spare.connection.fileno():
                    self._drop_spare()  # somebody has killed it
                else:
                    self._on_child(descriptor)

    def _patience(self) -> float | None:
        """Return the milliseconds until there is something to do even if nothing happens."""
        if self._wants_spare:
            return IDLE_BEFORE_SPARE * 1000
        is_importing = any(child.is_importing for child in self._children.values())
        return SWEEP * 1000 if self._unasked or self._listener or is_importing else None

    def _is_kept(self) -> bool:
        """Return whether this process waits for connections, without any now."""
        if self._listener is None or memory_is_short():
            return False
        return time.monotonic() - self._busy < IDLE_TIMEOUT

    def _retire(self) -> None:
        """Take no more requests; end when the processes that were forked have ended.

        A run that has a connection asks a new template then. The daemon of the machine starts one at once.
        """
        for pipe in self._retired:
            os.write(pipe, b"r")
        for item in [*self._connections.values(), *([self._listener] if self._listener else [])]:
            self._poll.unregister(item)
            item.close()
        self._connections.clear()
        self._listener = None
        for wanted in list(self._children):
            self._drop_child(wanted)
        self._drop_spare()
        self._wants_spare = False

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if peer_of(connection)[1] == os.getuid():
            self._add(connection)
        else:
            connection.close()

    def _on_connection(self, connection: socket.socket) -> None:
        """Take one request: ends of processes come in between."""
        try:
            descriptors = receive_descriptors(connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            descriptors = None
        if not descriptors:
            if descriptors is None:
                self._busy = time.monotonic()
            else:  # a question, which keeps no template
                self._report(connection)
            self._poll.unregister(connection)
            del self._connections[connection.fileno()]
            connection.close()
            return
        try:
            self._on_request(descriptors)
        finally:
            close_all(descriptors)

    def _report(self, connection: socket.socket) -> None:
        """Answer with the states of this template and of those that it has forked."""
        states = [TemplateState(os.getpid(), [], self._starts, self._since)]
        for wanted, child in self._children.items():
            if not child.refusal.reason:
                names = package_names(wanted.modules)
                states.append(TemplateState(child.pid, names, child.starts, child.since))
        try:
            send_states(connection, states)
        except OSError:
            pass  # nobody waits for the answer any more

    def _on_request(self, descriptors: list[int]) -> None:
        """Fork a process, have another template do so, or refuse."""
        memory, _, _, number = descriptors
        with socket.socket(fileno=os.dup(number)) as channel:
            try:
                request = read_request(memory)
                program = program_of([os.fsdecode(word) for word in request.command])
                refusal = self._why_refused(request, program)
                if program is not None and not refusal.reason:
                    wanted = self._wanted_by(request)
                    if wanted.modules:
                        refusal = self._hand_on(wanted, dict(request.preload), descriptors, channel)
                    else:
                        self._fork(descriptors, channel)
            except ValueError as error:
                refusal = Refused(str(error))
            except OSError as error:  # this machine has no room for one more process or file
                refusal = Refused(f"the template process cannot fork: {error.strerror}")
            if refusal.reason:
                send_answer(channel, refusal)

    def _why_refused(self, request: ForkRequest, program: PythonProgram | None) -> Refused:
        if self.imports.refusal.reason:
            return self.imports.refusal
        if program is None:
            return Refused("it runs another interpreter, or no Python")
        if request.context != context():
            return Refused("it has other rights, limits or namespaces than the template")
        variables = dict(pair.partition(b"=")[::2] for pair in request.environment)
        if name := different_variable(self._environment, variables, self.imports.reads):
            return Refused(f"`{name}` is read by packages, and has another value for this node")
        if path := self.imports.files.changed:
            self._retire()
            return Refused(f"{path} has changed since it was imported")
        if not os.path.isdir(request.directory):
            return Refused("its folder does not exist")
        if program.script:
            script = os.path.join(request.directory, program.script)
            if not is_python_text(script):
                return Refused("its script is no text that Python can read")
            if name := shadowed_module(os.path.dirname(os.path.realpath(script))):
                return Refused(f"a file beside its script has the name of the module `{name}`")
        elif name := shadowed_module(request.directory):
            return Refused(f"a file in its folder has the name of the module `{name}`")
        return Refused("")

    def _wanted_by(self, request: ForkRequest) -> PackageSet:
        """Return what has to be imported before the process can be forked; no modules if nothing has."""
        if not self._is_base:
            return PackageSet(())
        modules = tuple(name for name in request.modules if name not in sys.modules)
        refused = self._children.get(PackageSet(modules))
        if refused is not None and refused.refusal.reason:
            modules = ()  # without what dora needs, the process imports it by itself: a fork all the same
        named = [name for name, _ in request.preload if name not in sys.modules]
        if not named:
            return PackageSet(modules)
        return PackageSet(tuple(dict.fromkeys([*modules, *named])), request.directory)

    # ------------------------------------------------------------------- processes

    def _fork(self, descriptors: list[int], channel: socket.socket) -> None:
        """Pass a request on to the spare process, or to a fork that is made now; raises ``OSError``."""
        pid = self._use_spare(descriptors, channel)
        if pid is None:
            self._spare = self._fork_spare()
            pid = self._use_spare(descriptors, channel)
        if pid is None:
            raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
        self._starts += 1
        self._wants_spare = True
        kept = socket.socket(fileno=channel.detach())
        kept.setblocking(False)
        self._channels[kept.fileno()] = (kept, pid)
        self._poll.register(kept, select.POLLIN)

    def _fork_ahead(self) -> None:
        """Fork the process of the next request, which then need not wait for that."""
        if self._wants_spare:
            self._wants_spare = False
            if not self.imports.refusal.reason:
                try:
                    self._spare = self._fork_spare()
                except OSError:
                    pass  # this machine has no room now; the next request tries again

    def _fork_spare(self) -> _Spare:
        """Fork a process that waits for a request. Raises `InNewProcess` there, ``OSError`` here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = os.fork()
            if not pid:
                self._forget_everything()
                ours.close()
                raise InNewProcess(socket.socket(fileno=theirs.detach()))
            connection = socket.socket(fileno=ours.detach())
        self._poll.register(connection, select.POLLIN)
        return _Spare(connection, pid)

    def _use_spare(self, descriptors: list[int], channel: socket.socket) -> int | None:
        """Pass a request on to the spare process, and return its id; None if there is none that lives."""
        if (spare := self._spare) is None:
            return None
        self._spare = None
        self._poll.unregister(spare.connection)
        with spare.connection:
            send_answer(channel, PassedOn(spare.pid, importing=False))  # before its answer
            try:
                pass_on(spare.connection, descriptors)
            except OSError:
                self._unasked.append(spare.pid)
                return None
        return spare.pid

    def _drop_spare(self) -> None:
        """Have the spare process end, if there is one: it does at the end of its connection."""
        if self._spare is not None:
            self._poll.unregister(self._spare.connection)
            self._spare.connection.close()
            self._unasked.append(self._spare.pid)
            self._spare = None

    def _forget_everything(self) -> None:
        """Close, in a forked process, what belongs to the template."""
        sockets = [
            *([self._listener] if self._listener is not None else []),
            *self._connections.values(),
            *(channel for channel, _ in self._channels.values()),
            *([self._spare.connection] if self._spare is not None else []),
        ]
        for item in sockets:
            item.close()
        for child in self._children.values():
            child.close()
        close_all(self._retired)

    # ------------------------------------------------------------------- templates of more packages

    def _hand_on(
        self, wanted: PackageSet, named: dict[str, str], descriptors: list[int], channel: socket.socket
    ) -> Refused:
        """Pass a request on to the template that imports what it wants."""
        child = self._children.pop(wanted, None) or self._fork_child(wanted, named)
        self._children[wanted] = child
        if child.refusal.reason:
            return child.refusal
        send_answer(channel, PassedOn(child.pid, importing=child.is_importing))  # before its answer
        return child.take(descriptors)

    def _fork_child(self, wanted: PackageSet, named: dict[str, str]) -> ChildTemplate:
        if len(self._children) >= MAX_CHILDREN:
            self._drop_child(next(iter(self._children)))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            theirs.close()
            self._poll.register(ours, select.POLLIN)
            return ChildTemplate(ours, pid, named)
        ours.close()
        self._forget_everything()
        end_with_parent(True)  # until it has imported them; then it stays for its nodes
        raise InNewProcess(Template(theirs, self._environment, wanted, named, self.imports))

    def _on_child(self, descriptor: int) -> None:
        """Take the answer of a template that has imported its packages, or notice its end."""
        found = [item for item in self._children.items() if item[1].connection.fileno() == descriptor]
        if not found:
            return  # the event belongs to an earlier descriptor with this number
        wanted, child = found[0]
        try:
            answer = receive_answer(child.connection)
        except BlockingIOError:
            return
        if isinstance(answer, Refused) and not answer.reason:
            child.has_imported()
        elif isinstance(answer, Refused):
            self._end_child(child, answer)
        elif child.is_importing and (crash := crash_of(child.pid)):
            self._end_child(child, fault_of(wanted.modules, f"ends the process: {crash}", child.named))
        else:
            self._drop_child(wanted)

    def _end_hung_imports(self) -> None:
        for wanted, child in self._children.items():
            if lateness := child.lateness:
                kill_with_descendants(child.pid)
                self._end_child(child, fault_of(wanted.modules, lateness, child.named))

    def _drop_child(self, wanted: PackageSet) -> None:
        """Forget a template of more packages. It ends when its nodes have ended."""
        child = self._children.pop(wanted)
        if child.is_importing:
            kill_with_descendants(child.pid)
        self._end_child(child, Refused("the template of its packages has ended"))

    def _end_child(self, child: ChildTemplate, refusal: Refused) -> None:
        if not child.refusal.reason:
            self._poll.unregister(child.connection)
            child.refusal = refusal
            child.end(refusal)
            self._unasked.append(child.pid)

    # ------------------------------------------------------------------- ends of processes

    def _on_channel(self, descriptor: int) -> None:
        """Reap a process and tell its exit status; without a daemon that asks, reap it when it ends."""
        channel, pid = self._channels[descriptor]
        try:
            asked = channel.recv(16)
        except BlockingIOError:  # the event belongs to an earlier descriptor with this number
            return
        except OSError:
            asked = b""
        del self._channels[descriptor]
        self._poll.unregister(channel)
        if asked:
            _, status = os.waitpid(pid, 0)
            send_answer(channel, ExitStatus(os.waitstatus_to_exitcode(status)))
        else:
            self._unasked.append(pid)
        channel.close()

    def _reap_unasked(self) -> None:
        for pid in self._unasked.copy():
            try:
                ended = os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:
                ended = pid
            if ended:
                self._unasked.remove(pid)


def memory_is_short() -> bool:
    """Return whether little of the memory of this machine is available."""
    with open("/proc/meminfo", encoding="ascii") as file:
        found = dict(re.findall(r"^(MemTotal|MemAvailable): *(\d+)", file.read(), re.MULTILINE))
    return int(found["MemAvailable"]) < MEMORY_NEEDED * int(found["MemTotal"])
