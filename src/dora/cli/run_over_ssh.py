"""``dora run --on``: run a dataflow on another machine over ssh, as if it ran in this terminal.

Everything goes through one ssh connection: this dora and the folder of the dataflow to the robot, the page
of ``--ui`` back, and a `dora.cli.session`, which runs the dataflow there as ``dora run`` does here. Its
output is passed on as it is.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from subprocess import Popen
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final

import click
import msgspec

from dora._paths import LINK_PORT_VARIABLE
from dora.cli.command_run import open_in_browser
from dora.cli.process import termination_as_interrupt
from dora.cli.progress_bar import duration, progress_mode, showing
from dora.cli.run_on_both import LOCAL, run_on_both
from dora.cli.session import LINE_EVERY, LONGEST_ORDER, Order
from dora.cluster.dashboard.page_file import remove_page_file
from dora.cluster.ssh.connection import SshConnection
from dora.cluster.ssh.copy import copy_folder
from dora.cluster.ssh.environment import MachineFacts, found_in, look, name_of_environment, provide
from dora.cluster.ssh.folder import Entry, scan_folder
from dora.cluster.ssh.ssh import MachineFault, piped, reason
from dora.daemon.load_dataflow import is_url, load_for_run
from dora.daemon.signals import SignalEchoes
from dora.daemon.work import Work
from dora.dataflow.model import HERE, Dataflow, Deploy, NodeSpec
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.cli.command_run import CommandRun
    from dora.cluster.ssh.file import Machine
    from dora.daemon.build.lockfile import Lock

_LOCAL: Final = Deploy(machine=LOCAL)
_CHUNK: Final = 1 << 16
_COLOURS: Final = ("NO_COLOR", "TERM")  # variables of the user that decide about colours
_LOST: Final = 255  # the exit status of ssh itself
_ADDED: Final = 8192  # bytes of an order for what is added later: folder, port, size of the terminal


def run_over_ssh(
    machine: Machine,
    path: str,
    command_run: CommandRun,
    lock: Lock | None,
    *,
    detach: bool,
    link_port: int | None = None,
) -> int:
    """Run a dataflow on a machine; return the exit status of ``dora run`` there.

    With ``detach``, return when it runs. ``link_port`` is for `run_on_both`. Raises `MachineFault` if the
    machine cannot be reached or used.
    """
    _check_options(path, command_run, lock, detach)
    dataflow = load_for_run(path, command_run.options, here=False)
    nodes_here = _check_nodes(machine, dataflow)
    if nodes_here:
        _check_options_with_local_nodes(nodes_here[0], lock, detach, link_port)
    elif link_port is not None:
        raise DoraError(
            f"--link-port is for links with nodes that run here, and no node has `machine: {LOCAL}`"
        )
    order = _order(machine, dataflow, command_run, lock, detach)
    folder = dataflow.working_dir
    files = scan_folder(folder)
    name = name_of_environment()
    with termination_as_interrupt(signal.SIGHUP), SshConnection(machine, look(name)) as connection:
        found = found_in(connection.answer)
        prepared, copy = _prepare(connection.machine, found, folder, files, command_run.progress)
        with ExitStack() as stack:
            if command_run.options.hot_reload:
                stack.enter_context(_keep_copied(prepared, folder, files))
            if nodes_here:
                return run_on_both(connection, prepared, found, copy, dataflow, command_run, link_port)
            order = msgspec.structs.replace(order, folder=copy)
            session = _Session(connection, prepared, order, open_page=command_run.open_page)
            return session.run()


def _order(
    machine: Machine,
    dataflow: Dataflow,
    command_run: CommandRun,
    lock: Lock | None,
    detach: bool,
) -> Order:
    """Return the order without the folder; raises `DoraError` if it is too long."""
    ui = command_run.ui or command_run.open_page
    order = Order(
        host=machine.id,
        file=os.path.relpath(dataflow.file or "", dataflow.working_dir),
        run=msgspec.structs.replace(command_run, ui=ui, open_page=False),
        grace=command_run.options.grace,
        lock=lock,
        detach=detach,
        environment={name: os.environ[name] for name in _COLOURS if name in os.environ},
    )
    size = len(msgspec.json.encode(order))
    if size > LONGEST_ORDER - _ADDED:
        raise DoraError(
            f"the options take {size:,} bytes, and {LONGEST_ORDER - _ADDED:,} go over ssh; give long "
            "values in a file in the folder of the dataflow"
        )
    return order


def _check_options(path: str, command_run: CommandRun, lock: Lock | None, detach: bool) -> None:
    """Raise ``UsageError`` for options that make no sense together."""
    if is_url(path):
        raise click.UsageError("--on copies the folder of FILE, which cannot be a URL")
    if detach:
        for given, option in (
            (command_run.open_page, "--open"),
            (command_run.ui, "--ui"),
            (command_run.options.hot_reload, "--hot-reload"),
        ):
            if given:
                raise click.UsageError(f"{option} needs this command to stay, and --detach lets it end")
    if command_run.foxglove:
        raise click.UsageError("--foxglove shows nodes of this machine; run `dora foxglove` on the other")
    if lock is not None and lock.write:
        raise click.UsageError("--write-lockfile would write on the other machine; use `dora build` here")
    if lock is not None and lock.path:
        raise click.UsageError("--lockfile cannot be used with --on; the lockfile lies beside FILE then")


def _check_options_with_local_nodes(
    node: NodeSpec, lock: Lock | None, detach: bool, link_port: int | None
) -> None:
    """Raise `DoraError` for options that make no sense if a node runs on this machine."""
    where = f"node `{node.id}` runs here" + (f" ({node.place})" if node.place else "")
    if detach:
        raise DoraError(f"{where}, so this command has to stay; --detach lets it end")
    if lock is not None:
        raise DoraError(f"{where}, and --locked is for runs on one machine")
    if link_port == 0 and os.environ.get(LINK_PORT_VARIABLE) == "0":
        raise DoraError(
            f"--link-port 0 and {LINK_PORT_VARIABLE}=0 leave no machine a port for links; leave out one"
        )


def _check_nodes(machine: Machine, dataflow: Dataflow) -> list[NodeSpec]:
    """Return the nodes that run on this machine.

    Raises `DoraError` for a node that can run on neither machine: for a third one, or not in the folder.
    """
    here = []
    for node in dataflow.nodes:
        where = f" ({node.place})" if node.place else ""
        if msgspec.structs.replace(node.deploy, is_sent=False) == _LOCAL:  # everything is copied anyway
            here.append(node)
            continue
        if node.deploy != HERE:
            raise DoraError(
                f"node `{node.id}` has a `deploy`{where} that is not `machine: {LOCAL}`, and --on knows "
                f"only {machine.id} and this machine; `dora cluster` spreads a dataflow over more"
            )
        for program in (node.path, *(operator.python for operator in node.operators)):
            if program is not None and os.path.normpath(program).startswith("../"):
                raise DoraError(
                    f"node `{node.id}`{where}: {program} is not in the folder of the dataflow file, and "
                    "only that is copied; move the program into it, or the dataflow file further up"
                )
    return here


def _prepare(
    machine: Machine, found: MachineFacts, folder: str, files: dict[str, Entry], progress: str
) -> tuple[Machine, str]:
    """Make the environment if necessary, and copy the folder.

    Returns the machine with the `dora` of the environment, and the copy.
    """
    mode = progress_mode(progress)
    work = Work()
    begun = time.monotonic()
    with showing(mode, f"installing dora on {machine.id}", work):
        dora = provide(machine, found, work)
    if not found.has_environment:
        _say(f"{machine.id}: installed dora in {found.folder} ({duration(time.monotonic() - begun)})")
    prepared = msgspec.structs.replace(machine, dora=dora)
    work = Work()
    with showing(mode, f"copying to {machine.id}", work):
        copied = copy_folder(prepared, folder, files, work)
    if copied.sent:
        _say(f"{machine.id}: copied {copied.sent} file(s), {copied.size:,} bytes, to {copied.folder}")
    return prepared, copied.folder


def _say(text: str) -> None:
    click.echo(text, err=True)


# --------------------------------------------------------------------------- session


class _Session:
    """The process on the machine that runs the dataflow, and what passes between it and the user."""

    def __init__(
        self, connection: SshConnection, machine: Machine, order: Order, *, open_page: bool
    ) -> None:
        self._connection = connection
        self._machine = machine
        self._order = order
        self._open_page = open_page
        self._mark = secrets.token_hex(8)
        self._is_ready = False
        self._before = b""  # what was printed before it was ready: by shells
        self._interrupts = 0
        self._echoes = SignalEchoes()
        self._process: Popen[Any] | None = None
        self._ended = threading.Event()

    def run(self) -> int:
        """Carry out the order; return the exit status."""
        on_terminal = sys.stdout.isatty() and sys.stderr.isatty()
        dora = shlex.quote(self._machine.dora)
        folder = shlex.quote(os.path.dirname(self._machine.dora))
        script = f'PATH={folder}:"$HOME/.local/bin:$PATH"; exec {dora} cluster session {self._mark}'
        # Ctrl-C must not reach ssh, so ssh has no terminal, and is told to ask for one nevertheless.
        options = ("-tt",) if on_terminal else ("-T",)
        process = self._process = piped(self._machine, script, options=options, own_session=True)
        try:
            with self._signals(on_terminal):
                self._pass_on(process)
            status = process.wait()
        finally:
            self._ended.set()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                _close(stream)
            if self._open_page:
                remove_page_file(self._order.page_port)
        if status == _LOST or status < 0:
            raise self._connection.fault()
        if not self._is_ready:
            reported = self._before.decode(errors="replace")
            raise MachineFault(self._machine, reason(self._machine, status, reported))
        return status

    def _pass_on(self, process: Popen[Any]) -> None:
        """Pass on what the process prints, until it has ended."""
        out = MarkedOutput(f"\0{self._mark} ".encode(), self._print, self._take)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, out.feed)  # type: ignore[arg-type]
            selector.register(process.stderr, selectors.EVENT_READ, self._print_error)  # type: ignore[arg-type]
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, _CHUNK)
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        out.end()

    def _report_alive(self) -> None:
        """Write to the other end now and then, so that it knows that this end lives.

        In a thread of its own: on a terminal that is stopped (Ctrl-S), the output waits, and the dataflow
        must not.
        """
        while not self._ended.wait(LINE_EVERY):
            self._tell("alive")

    def _take(self, words: list[str]) -> None:
        """Take a line that the other end has marked."""
        if words[0] == "ready":
            order = self._order
            if order.run is not None and order.run.ui:
                from dora.cluster.dashboard.local import free_port

                order = msgspec.structs.replace(order, page_port=free_port())
            self._order = msgspec.structs.replace(order, size=_size())
            self._tell(msgspec.json.encode(self._order).decode())
            # Only now: a handler of signals must not write into the middle of the order.
            self._is_ready = True
            threading.Thread(target=self._report_alive, daemon=True).start()
        elif words[0] == "page" and len(words) == 3 and words[1].isdecimal():
            self._connection.forward(self._order.page_port, int(words[1]))
            if self._open_page and words[2].startswith(f"http://127.0.0.1:{self._order.page_port}/"):
                open_in_browser(words[2])

    def _print(self, data: bytes) -> None:
        self._write(sys.stdout.buffer, data)

    def _print_error(self, data: bytes) -> None:
        self._write(sys.stderr.buffer, data)

    def _write(self, stream: BinaryIO, data: bytes) -> None:
        if self._is_ready:
            stream.write(data)
            stream.flush()
        else:
            self._before += data[-_CHUNK:]

    def _tell(self, line: str) -> None:
        """Write a line to the other end; may be called by a handler of signals."""
        assert self._process is not None and self._process.stdin is not None
        data = line.encode() + b"\n"
        # No lock: a handler would wait for the code that it has interrupted. Short lines are written at
        # once, and while the order is written, nobody else writes.
        try:
            while data:
                data = data[os.write(self._process.stdin.fileno(), data) :]
        except (BrokenPipeError, ValueError):
            pass  # it has ended, which is seen elsewhere

    @contextmanager
    def _signals(self, on_terminal: bool) -> Iterator[None]:
        """Pass on Ctrl-C, SIGTERM, SIGHUP and changes of the terminal's size in this block."""
        handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(
            (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._on_interrupt
        )
        if on_terminal:
            handlers[signal.SIGWINCH] = self._on_resize
        before = {
            number: signal.signal(number, handler)
            for number, handler in handlers.items()
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._echoes.is_echo(number):
            return
        if not self._is_ready:
            raise KeyboardInterrupt
        self._interrupts += 1
        self._tell("interrupt")
        if self._interrupts > 2:  # the other end does not react to two of them
            raise KeyboardInterrupt

    def _on_resize(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._is_ready and (size := _size()) is not None:
            self._tell(f"size {size[0]} {size[1]}")


class MarkedOutput:
    """Takes marked lines out of a stream of bytes, and passes on the rest."""

    def __init__(
        self, mark: bytes, write: Callable[[bytes], None], on_line: Callable[[list[str]], None]
    ) -> None:
        self._mark = mark
        self._write = write
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; keep those that may be the beginning of a marked line."""
        self._rest += data
        while (begin := self._rest.find(self._mark)) >= 0 and b"\n" in self._rest[begin:]:
            line, _, rest = self._rest[begin + len(self._mark) :].partition(b"\n")
            before, self._rest = self._rest[:begin], rest
            if before:
                self._write(before)
            self._on_line(line.decode(errors="replace").split())
        if begin < 0:
            begin = len(self._rest) - self._begun()
        if begin:
            self._write(self._rest[:begin])
            self._rest = self._rest[begin:]

    def _begun(self) -> int:
        """Return how many bytes at the end may be the beginning of the mark."""
        for length in range(min(len(self._mark) - 1, len(self._rest)), 0, -1):
            if self._rest.endswith(self._mark[:length]):
                return length
        return 0

    def end(self) -> None:
        """Pass on what is left."""
        if self._rest:
            self._write(self._rest)


def _size() -> tuple[int, int] | None:
    """Return columns and lines of the terminal, None if there is none."""
    try:
        return tuple(os.get_terminal_size(sys.stdout.fileno()))  # type: ignore[return-value]
    except OSError:
        return None


def _close(stream: IO[bytes] | None) -> None:
    assert stream is not None
    try:
        stream.close()
    except BrokenPipeError:
        pass  # the other end has gone


# --------------------------------------------------------------------------- hot reload

_LOOK_EVERY: Final = 0.2  # seconds between two looks at the folder
_SHARE: Final = 20  # a look at a large folder takes at most this part of a processor


@contextmanager
def _keep_copied(machine: Machine, folder: str, files: dict[str, Entry]) -> Iterator[None]:
    """Copy what is saved in the folder while this block runs; the other end reloads it."""
    ended = threading.Event()
    thread = threading.Thread(target=_copy_changes, args=(machine, folder, files, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _copy_changes(machine: Machine, folder: str, known: dict[str, Entry], ended: threading.Event) -> None:
    pause = _LOOK_EVERY
    seen = known
    reported = ""
    while not ended.wait(pause):
        begun = time.monotonic()
        try:
            now = scan_folder(folder)
            pause = max(_LOOK_EVERY, _SHARE * (time.monotonic() - begun))
            if now != known and now == seen:  # twice the same: nobody is just saving
                copy_folder(machine, folder, now)
                known, reported = now, ""
            seen = now
        except (DoraError, OSError, ValueError) as error:  # whatever it is, the next change may be copied
            if str(error) != reported and not ended.is_set():
                reported = str(error)
                _say(f"warning: {reported}")
