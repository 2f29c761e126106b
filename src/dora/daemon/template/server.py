"""The template process: a server that forks nodes.

The *base* template has imported dora and what nearly every node needs. A program that imports further
packages is forked by a template of its own, a fork of the base that has imported just these. So a node
finds no package loaded that it does not import.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import re
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, NamedTuple

from dora.daemon.template.checks import different_variable, is_python_text, shadowed_module
from dora.daemon.template.context import context
from dora.daemon.template.forked import become, rehearse, run
from dora.daemon.template.imports import Imports, is_loaded, is_of_python, package_names
from dora.daemon.template.packages import module_file, packages_of
from dora.daemon.template.process import BACKLOG, peer
from dora.daemon.template.program import PythonProgram, program_of
from dora.daemon.template.protocol import (
    ExitStatus,
    ForkRequest,
    PassedOn,
    Refused,
    pass_on,
    read_request,
    receive_descriptors,
    send_answer,
)
from dora.daemon.template.state import TemplateState, encode_states

# `dora.Node` and the first messages load these. By name, because the daemon shares no code with nodes.
BASE: Final = (
    "dora",
    "dora.node.node",
    "numpy",
    "numpy.ma",  # by the first array that is made of NumPy's
    "pyarrow",
    "iceoryx2",
    "dora.transport.shm.iceoryx2",
    "dora.node.before_fork",
    *("argparse", "dataclasses", "json", "pathlib"),  # by many programs
)
# Modules whose function `warm_up` makes what nodes make at their start.
WARM_UPS: Final = ("dora.node.before_fork", "dora.node.arrays_before_fork")
READY: Final = b"ready"
UNFIT: Final = b"unfit"  # it is ready to say why it can fork nothing
IDLE_TIMEOUT: Final = 600.0  # seconds
MEMORY_NEEDED: Final = 0.05  # of the memory of the machine has to be available to keep an idle template
IDLE_BEFORE_SPARE: Final = 0.03  # seconds without a request, so that nodes that start have the processors
SWEEP: Final = 1.0  # seconds between two looks for ended processes that no daemon asks about


class _InNewProcess(Exception):
    """This is a forked process: it waits for the program that it is to run, or is a template of its own."""

    def __init__(self, becomes: socket.socket | Template) -> None:
        super().__init__()
        self.becomes = becomes


class _Spare(NamedTuple):
    """A process that is forked and waits for the request that says what it runs."""

    connection: socket.socket
    pid: int


class _ChildTemplate:
    """A template of more packages, as the base knows it."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self.ready = False  # it has imported its packages
        self.starts = 0
        self.since = time.time()


class Template:
    """One template process.

    ``served`` brings requests, or connections that do. The process ends with the connection, when its
    processes have ended or nobody asks about them; one that accepts connections ends when it was idle for a
    while. ``packages`` are those that it imports, ``named`` those of them that a dataflow names, and where.
    ``before`` are the imports of the template that has forked this one; the base has none.
    """

    def __init__(
        self,
        served: socket.socket,
        environment: dict[bytes, bytes],
        packages: Sequence[str],
        named: Mapping[str, str],
        before: Imports | None = None,
    ) -> None:
        self._environment = environment
        self._packages = packages
        self._named = named
        self._is_base = before is None
        self._imports = before or Imports()
        self._listener: socket.socket | None = None
        self._poll = select.poll()
        self._connections: dict[int, socket.socket] = {}
        self._channels: dict[int, tuple[socket.socket, int]] = {}  # of processes that have not been reaped
        self._unasked: list[int] = []  # processes that nobody will ask about
        self._child_templates: dict[tuple[str, ...], _ChildTemplate] = {}
        self._unfit: set[tuple[str, ...]] = set()  # packages of those that can fork nothing
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

    @property
    def printed(self) -> bytes:
        """The output of its packages while they were imported."""
        return self._imports.printed

    def load(self) -> None:
        """Import the packages; tell the base, if this is another one."""
        self._imports.load(self._packages, self._named)
        if not self._is_base:
            for connection in self._connections.values():
                connection.send(UNFIT if self._imports.refusal.reason else READY)

    # ------------------------------------------------------------------- the loop

    def serve(self) -> None:
        """Fork processes until nobody needs this one. Raises `_InNewProcess` in each new process."""
        while self._connections or self._channels or self._is_kept():
            self._reap_unasked()
            ready = [descriptor for descriptor, _ in self._poll.poll(self._patience())]
            if not ready:
                self._fork_ahead()
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
                    self._on_child_template(descriptor)

    def _patience(self) -> float | None:
        """Return the milliseconds until there is something to do even if nothing happens."""
        if self._wants_spare:
            return IDLE_BEFORE_SPARE * 1000
        return SWEEP * 1000 if self._unasked or self._listener else None

    def _is_kept(self) -> bool:
        """Return whether this process waits for connections, without any now."""
        if self._listener is None or memory_is_short():
            return False
        return time.monotonic() - self._busy < IDLE_TIMEOUT

    def _retire(self) -> None:
        """Accept no more. The daemon of the machine starts a new base, the base one of more packages."""
        if self._listener is not None:
            self._poll.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._drop_spare()
        self._wants_spare = False
        if not self._is_base:
            for connection in self._connections.values():
                self._poll.unregister(connection)
                connection.close()
            self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if peer(connection)[1] == os.getuid():
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
            for descriptor in descriptors:
                _close(descriptor)

    def _report(self, connection: socket.socket) -> None:
        """Answer with the states of this template and of those that it has forked."""
        states = [TemplateState(os.getpid(), [], self._starts, self._since)]
        for packages, child in self._child_templates.items():
            states.append(TemplateState(child.pid, package_names(packages), child.starts, child.since))
        try:
            connection.send(encode_states(states))
        except OSError:
            pass

    def _on_request(self, descriptors: list[int]) -> None:
        """Fork a process, have another template do so, or refuse."""
        memory, _, _, number = descriptors
        with socket.socket(fileno=os.dup(number)) as channel:
            try:
                request = read_request(memory)
                program = program_of([os.fsdecode(word) for word in request.command])
                refusal = self._why_refused(request, program)
                if program is not None and not refusal.reason:
                    named = {f"{name}:": place for name, place in request.preload}
                    if missing := self._missing(request, program, named):
                        refusal = self._hand_on(missing, named, descriptors, channel)
                    else:
                        self._fork(descriptors, channel)
            except ValueError as error:
                refusal = Refused(str(error))
            except OSError as error:  # this machine has no room for one more process or file
                refusal = Refused(f"the template process cannot fork: {error.strerror}")
            if refusal.reason:
                send_answer(channel, refusal)

    def _why_refused(self, request: ForkRequest, program: PythonProgram | None) -> Refused:
        if self._imports.refusal.reason:
            return self._imports.refusal
        if program is None:
            return Refused("it runs another interpreter, or no Python")
        if request.context != context():
            return Refused("it has other rights, limits or namespaces than the template")
        variables = dict(pair.partition(b"=")[::2] for pair in request.environment)
        if name := different_variable(self._environment, variables, self._imports.reads):
            return Refused(f"`{name}` is read by packages, and has another value for this node")
        if path := self._imports.files.changed:
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

    def _missing(
        self, request: ForkRequest, program: PythonProgram, named: Iterable[str]
    ) -> tuple[str, ...]:
        """Return what has to be imported before the program can be forked.

        That is nothing for modules of Python alone: the program imports them faster than one more template.
        """
        if not self._is_base:
            return ()
        script = os.path.join(request.directory, program.script)
        main = module_file(program.module) if program.module else script
        sources = [main, *request.sources] if main else request.sources
        # Without what dora needs, the process imports it by itself: a fork all the same.
        modules = [name for name in request.modules if (name,) not in self._unfit]
        names = [*modules, *packages_of(sources, [request.directory]), *named]
        missing = tuple(dict.fromkeys(name for name in names if not is_loaded(name)))
        return missing if any(name in named or not is_of_python(name) for name in missing) else ()

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
            if not self._imports.refusal.reason:
                try:
                    self._spare = self._fork_spare()
                except OSError:
                    pass  # this machine has no room now; the next request tries again

    def _fork_spare(self) -> _Spare:
        """Fork a process that waits for a request. Raises `_InNewProcess` there, ``OSError`` here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = os.fork()
            if not pid:
                self._forget_everything()
                ours.close()
                raise _InNewProcess(socket.socket(fileno=theirs.detach()))
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
            *(child.connection for child in self._child_templates.values()),
            *([self._spare.connection] if self._spare is not None else []),
        ]
        for item in sockets:
            item.close()

    # ------------------------------------------------------------------- templates of more packages

    def _hand_on(
        self,
        missing: tuple[str, ...],
        named: dict[str, str],
        descriptors: list[int],
        channel: socket.socket,
    ) -> Refused:
        """Pass a request on to the template that has imported more packages."""
        child = self._child_templates.get(missing) or self._fork_child_template(missing, named)
        send_answer(channel, PassedOn(child.pid, importing=not child.ready))  # before its answer
        try:
            pass_on(child.connection, descriptors)
        except OSError as error:
            return Refused(f"the template of its packages cannot be reached: {error}")
        child.starts += 1
        return Refused("")

    def _fork_child_template(self, packages: tuple[str, ...], named: dict[str, str]) -> _ChildTemplate:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            theirs.close()
            child = self._child_templates[packages] = _ChildTemplate(ours, pid)
            self._poll.register(ours, select.POLLIN)
            return child
        ours.close()
        self._forget_everything()
        raise _InNewProcess(Template(theirs, self._environment, packages, named, self._imports))

    def _on_child_template(self, descriptor: int) -> None:
        found = [
            item for item in self._child_templates.items() if item[1].connection.fileno() == descriptor
        ]
        if not found:
            return  # the event was that of an earlier descriptor with this number
        packages, child = found[0]
        try:
            answer = child.connection.recv(16)
        except OSError:
            answer = b""
        child.ready = bool(answer)
        if answer == UNFIT:
            self._unfit.add(packages)
        if not child.ready:
            self._poll.unregister(child.connection)
            child.connection.close()
            self._unasked.append(child.pid)
            del self._child_templates[packages]

    # ------------------------------------------------------------------- ends of processes

    def _on_channel(self, descriptor: int) -> None:
        """Reap a process and tell its exit status; without a daemon that asks, reap it when it ends."""
        channel, pid = self._channels[descriptor]
        try:
            asked = channel.recv(16)
        except BlockingIOError:  # the event was that of an earlier descriptor with this number
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


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass


# --------------------------------------------------------------------------- the process


def serve() -> None:
    """Be a template process until nobody needs it; in a forked process, run its program.

    The command line names the descriptor of the connection, or of the socket that accepts connections.
    """
    _end_with_parent()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # it holds one file for each node that runs
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    packages = [name for name in BASE if importlib.util.find_spec(name.partition(".")[0]) is not None]
    served = socket.socket(fileno=int(sys.argv[1]))
    if served.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        served.listen(BACKLOG)  # again: daemons get the id of the process that was the last to call it
    template = Template(served, dict(os.environb), packages, {})
    while True:
        try:
            template.load()
            template.serve()
        except _InNewProcess as new:
            new.__traceback__ = None  # its frames hold the template
            if isinstance(new.becomes, socket.socket):
                connection = new.becomes
                break
            template = new.becomes
        else:
            os._exit(0)
    printed = template.printed
    del template
    program = _wait_for_program(connection, printed)
    run(program, _new_main(program))


def _rehearse() -> None:
    """Do what a node does at its start, in a process that is going to do it later."""
    rehearse()
    for name in WARM_UPS:
        if (module := sys.modules.get(name)) is not None:
            module.warm_up()


def _wait_for_program(connection: socket.socket, printed: bytes) -> PythonProgram:
    """Become the process that the next request asks for, and return its program; end if none comes."""
    try:
        with connection:
            if not select.select([connection], (), (), 0)[0]:
                _rehearse()
            descriptors = receive_descriptors(connection)
        if not descriptors:
            os._exit(0)
        memory, output, errors, number = descriptors
        request = read_request(memory)
        program = program_of([os.fsdecode(word) for word in request.command])
        assert program is not None  # the template has looked
    except BaseException:  # noqa: BLE001 - no fault may end here in the code of the template
        os._exit(0)
    with socket.socket(fileno=number) as channel:
        become(request, program, output, errors, channel, printed)
    for descriptor in (memory, output, errors):
        _close(descriptor)
    return program


def _end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG; forks do not inherit it
    if os.getppid() == 1:
        os._exit(0)


def _new_main(program: PythonProgram) -> dict[str, Any]:
    """Return the namespace of a new module ``__main__``, as it is before a script runs.

    The old one is exempt from garbage collection.
    """
    old = vars(sys.modules["__main__"])
    main = sys.modules["__main__"] = ModuleType("__main__")
    namespace = vars(main)
    namespace.update({name: value for name, value in old.items() if name.startswith("__")})
    path = os.path.join(os.getcwd(), program.script) if program.script else old["__file__"]
    loader = type(old["__loader__"])
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __annotations__={},
        __file__=path,
        __loader__=loader("__main__", path),
    )
    return namespace
