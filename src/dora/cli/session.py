"""The other end of ``dora run --on``: ``dora cluster session``, which ssh starts on the robot.

It prints a mark and reads an `Order`. Then it does what the order says, as a command in a terminal would.
Meanwhile it reads what the user's end writes: a line now and then, "interrupt" for Ctrl-C, "size C R" for
another size of the terminal. Without a line for `PATIENCE`, or at the end of its input, the user's end is
gone: the dataflow is stopped as by Ctrl-C. So nothing goes on by itself when a cable is pulled, when the
user's end is killed, or ssh.

A line for the user's end begins with the mark, which is new for each session, so that a node does not print
it by chance. It can be anywhere in the output.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import msgspec

from dora.cli.command_run import CommandRun
from dora.cli.process import termination_as_interrupt
from dora.cluster.agent.identity import lock_path, running_daemon
from dora.cluster.ssh.kept_environments import held, write_command
from dora.cluster.ssh.retention import coordinators_of, release, retained_for, running_in
from dora.daemon.build.lockfile import Lock
from dora.wire.decoders import from_json

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

LINE_EVERY: Final = 2.0  # seconds between two lines from the user's end
# Seconds. Shorter, and a weak Wi-Fi would stop the robot; longer, and it would move on alone for longer.
# ssh at the user's end gives up after 15 s.
PATIENCE: Final = 20.0
_KILL_AFTER: Final = 30.0  # seconds for the end besides the grace of the nodes
LONGEST_ORDER: Final = 1 << 20  # bytes
_POLL: Final = 0.05  # seconds
LOCALHOST: Final = "127.0.0.1"


class Component(msgspec.Struct, frozen=True):
    """A daemon of a run with nodes on both machines, or its coordinator (``machine`` "").

    At ``port`` of this machine is the coordinator, or the end of ssh's way to it. ``address`` is where the
    other machine reaches this one, and ``link_port`` its port for links; None: as the environment says.
    """

    port: int
    machine: str = ""
    address: str = ""
    link_port: int | None = None


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run to carry out: the dataflow file, from the folder of the copy, and the options of `dora run`."""

    host: str = ""  # as the user calls this machine
    folder: str = ""
    file: str = ""
    run: CommandRun | None = None
    lock: Lock | None = None
    page_port: int = 0  # where the user's machine reaches the page
    size: tuple[int, int] | None = None  # columns and lines of the user's terminal
    environment: dict[str, str] = {}  # variables
    component: Component | None = None  # instead of a run
    grace: float | None = None  # seconds that nodes have to end
    detach: bool = False  # leave it running when it has started
    started: int = -1  # in a process that is left: the descriptor on which it reports its start


def marked(mark: str, *words: str) -> bytes:
    """Return a line for the user's end."""
    return f"\0{mark} {' '.join(words)}\n".encode()


def ready_line(mark: str) -> bytes:
    """Return the line with which a session says that it waits for its order."""
    return marked(mark, "ready")


def serve(mark: str) -> int:
    """Take an order from standard input and carry it out; return the exit status.

    ``mark`` "": nobody waits for marked lines.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # ssh's; the end of the input says the same
    if os.isatty(0):
        _take_keys_as_they_are()
    if mark:
        _write(ready_line(mark))
    source = _InputLines()
    line = source.read_line()
    if not line:
        return 1
    order = from_json(line, Order)
    if order.size is not None:
        _set_size(*order.size)
    if order.started < 0:
        args = (source, end_timeout(order.grace))
        threading.Thread(target=_follow_user, args=args, daemon=True).start()
    os.environ.update(order.environment)
    if order.component is not None and not order.folder:
        return _run_component(order.component)
    os.environ.pop("XDG_RUNTIME_DIR", None)  # it would end with the last session of the user
    os.chdir(order.folder)
    with held(), running_in(order.folder):
        if order.component is not None:
            return _run_component(order.component)
        return _detach(order, write_command()) if order.detach else _run(order, mark)


def end_timeout(grace: float | None) -> float:
    """Return within how many seconds a stop ends a session whose nodes have so many seconds to end."""
    # SIGTERM follows after the grace, and SIGKILL after half of it.
    return 1.5 * (grace or 10.0) + _KILL_AFTER


def _run_component(component: Component) -> int:
    """Run the coordinator or a daemon of a run that has nodes on both machines."""
    from dora.cli.main import run_command_line

    machine, port = component.machine, component.port
    if not machine:
        options = ["--interface", LOCALHOST, "--port", str(port), "--store", "memory", "--quiet"]
        return run_command_line(["coordinator", *options])
    options = ["--coordinator-addr", LOCALHOST, "--coordinator-port", str(port)]
    options += ["--machine-id", machine, "--interface", component.address]
    if component.link_port is not None:
        options += ["--link-port", str(component.link_port)]
    for coordinator in coordinators_of(machine):  # of daemons that were killed
        address, _, its_port = coordinator.rpartition(":")
        if address == LOCALHOST and running_daemon(LOCALHOST, int(its_port), machine) is None:
            release(retained_for(machine, coordinator), machine)
            _unlink(lock_path(LOCALHOST, int(its_port), machine))
    try:
        return run_command_line(["daemon", *options])
    finally:  # nobody else would: its coordinator ends too, and the next one has another port
        release(retained_for(machine, f"{LOCALHOST}:{port}"), machine)
        _unlink(lock_path(LOCALHOST, port, machine))


def _unlink(path: str) -> None:
    """Remove a lock file; a daemon that ended early has made none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _run(order: Order, mark: str) -> int:
    def publish(address: str) -> str:
        """Report to the user's end where the page is; return the address that works there."""
        parts = urlsplit(address)
        there = parts._replace(netloc=f"{parts.hostname}:{order.page_port}").geturl()
        _write(marked(mark, "page", str(parts.port), there))
        return there

    def report_start(daemon: Daemon) -> None:
        """Write the id of the dataflow once all nodes are ready."""

        def look() -> None:
            if daemon.supervisor.state.opened:
                _show_nothing_more()  # first: with the id, the reader of the output goes away
                os.write(order.started, daemon.context.dataflow_id.encode())
                os.close(order.started)
            else:
                daemon.loop.call_at(time.monotonic() + _POLL, look)

        daemon.loop.call_at(time.monotonic() + _POLL, look)

    assert order.run is not None
    return order.run.run_file(
        order.file,
        order.lock,
        on_daemon=report_start if order.started >= 0 else None,
        publish=publish if order.page_port else None,
        host=order.host,
    )


def _detach(order: Order, command: str) -> int:
    """Run the order in a process of its own, which stays; wait until it has started, or has ended.

    ``command`` is this `dora` for a shell of the user on this machine.
    """
    readable, writable = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "dora", "cluster", "session"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[writable],
        start_new_session=True,
    )
    os.close(writable)
    assert process.stdin is not None and process.stdout is not None
    try:
        with termination_as_interrupt():
            left = msgspec.structs.replace(order, detach=False, started=writable)
            process.stdin.write(msgspec.json.encode(left) + b"\n")
            process.stdin.close()
            dataflow_id = _pass_on_until_started(process.stdout.fileno(), readable)
            if not dataflow_id:
                return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(readable)
        process.stdout.close()
    dora = f"  ssh {order.host} {command}"
    click.echo(f"dataflow started: {dataflow_id}; to see and to stop it:")
    click.echo(f"{dora} logs -f {dataflow_id}\n{dora} stop {dataflow_id}")
    return 0


def _pass_on_until_started(output: int, started: int) -> str:
    """Print what a process writes until it reports its start; return the id of the dataflow.

    "" if it has ended before.
    """
    sources = {output, started}
    while sources:
        for source in select.select(sources, [], [])[0]:
            data = os.read(source, 1 << 16)
            if not data:
                sources.remove(source)
            elif source == output:
                _write(data)
            else:
                # Its pipe has all that it printed before, which nobody would read later.
                if output in sources and select.select([output], [], [], 0.0)[0]:
                    _write(os.read(output, 1 << 16))
                return data.decode()
    return ""


class _InputLines:
    """The lines of standard input."""

    def __init__(self) -> None:
        self._rest = b""

    def read_line(self, timeout: float | None = None) -> bytes:
        """Return the next line with its end; b"" at the end of the input, or after ``timeout`` seconds."""
        while b"\n" not in self._rest:
            if not select.select([0], [], [], timeout)[0]:
                return b""
            try:
                data = os.read(0, 1 << 16)
            except OSError:  # the terminal of ssh is gone
                data = b""
            if not data or len(self._rest) > LONGEST_ORDER:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"


def _follow_user(source: _InputLines, timeout: float) -> None:
    """Do what the user's end says, until it is gone; then stop the dataflow."""
    while line := source.read_line(PATIENCE):
        if line == b"interrupt\n":
            os.kill(os.getpid(), signal.SIGINT)
        elif found := re.fullmatch(rb"size (\d{1,4}) (\d{1,4})\n", line):
            _set_size(int(found[1]), int(found[2]))
    _show_nothing_more()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(timeout)
    os.kill(os.getpid(), signal.SIGTERM)  # kills the nodes
    time.sleep(_KILL_AFTER)
    os._exit(1)


def _show_nothing_more() -> None:
    """Discard what is printed: nobody reads it, and an error at a write would disturb the run."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _take_keys_as_they_are() -> None:
    """Make the terminal of ssh neither echo nor interpret what the user's end writes."""
    mode = termios.tcgetattr(0)
    mode[0] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON)
    mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    termios.tcsetattr(0, termios.TCSANOW, mode)


def _set_size(columns: int, lines: int) -> None:
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def _write(data: bytes) -> None:
    sys.stdout.flush()
    os.write(1, data)
