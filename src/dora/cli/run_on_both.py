"""``dora run --on`` for a dataflow with nodes on both machines: here are those with ``machine: local``.

Such a dataflow needs a coordinator and a daemon on each machine. They belong to this run alone: they are
started for it, have a token of its own, and end with it, also when this process is killed. The coordinator
runs here. ssh leads a port of the robot to it. Links between nodes go directly from machine to machine,
between the addresses that the ssh connection has, with certificates that the coordinator signs.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, Final

import click
import msgspec

from dora.cli.attach import Watching, attach_to
from dora.cli.command_run import open_in_browser
from dora.cli.run_reporter import reporter_for
from dora.cli.session import LINE_EVERY, LOCALHOST, Component, Order, end_timeout, ready_line
from dora.cluster.client import Client, Unreachable
from dora.cluster.dashboard.page_file import remove_page_file
from dora.cluster.protocol import RunSpec
from dora.cluster.ssh.ssh import MachineFault, piped
from dora.daemon.logs.display import Display
from dora.daemon.logs.entry import LogFilter
from dora.daemon.processes.ending import end_by_stdin
from dora.dataflow.model import HERE, Dataflow, Deploy
from dora.errors import DoraError
from dora.transport.tokens import TOKEN_VARIABLE, Token

if TYPE_CHECKING:
    from dora.cli.command_run import CommandRun
    from dora.cluster.ssh.connection import SshConnection
    from dora.cluster.ssh.environment import MachineFacts
    from dora.cluster.ssh.file import Machine

LOCAL: Final = "local"
"""The machine in `deploy` of a node that runs where the command is given."""
# The machines of the run. Users call none so: a daemon removes what an earlier one of its name has left.
_ROBOT: Final = "run-on-robot"
_HERE: Final = "run-on-local"
START_TIMEOUT: Final = 60.0  # seconds until a component works; one that has ended is noticed at once
_TRIES: Final = 5  # ports; one that is free here may be taken on the other machine
_POLL: Final = 0.02  # seconds
_READ_TIMEOUT: Final = 1.0  # seconds for the last lines of a process: what it has started may hold its pipe
# The coordinator of the run signs the certificates of the two daemons, whatever other daemons here have.
_NO_FILES: Final = dict.fromkeys(
    ("DORA_TLS_CA", "DORA_TLS_CERT", "DORA_TLS_KEY", "DORA_COORDINATOR_CA"), ""
)


def run_on_both(
    connection: SshConnection,
    machine: Machine,
    found: MachineFacts,
    copy: str,
    dataflow: Dataflow,
    command_run: CommandRun,
    link_port: int | None = None,
) -> int:
    """Run a dataflow on a machine and on this one; return the exit status.

    ``copy`` is the copy of the dataflow's folder on the machine, ``link_port`` the port for links there, as
    ``dora daemon --link-port``. Raises `DoraError` if a component does not
    start, or if the connection is lost.
    """
    if found.here == found.there:
        raise DoraError(f"{machine.id} is this machine, so no node needs `machine: {LOCAL}`; leave it out")
    for address in (found.here, found.there):
        if address.lower().startswith("fe80:"):
            raise DoraError(
                f"ssh has reached {machine.id} by {address}, which links to nodes here cannot use; "
                "name it by another one, such as its IPv4 address"
            )
    token = Token(secrets.token_hex(32), "this run")
    port = _common_port(connection)
    environment = {**_NO_FILES, TOKEN_VARIABLE: token.value}
    client = Client(LOCALHOST, port, authority="", token=token)
    logs = os.path.join(dataflow.working_dir, "out")
    with ExitStack() as stack:

        def start(what: str, component: Component, *, remote: bool = False, **more: str) -> _SessionProcess:
            order = Order(
                folder=copy if remote else "",
                component=component,
                grace=command_run.options.grace,
                environment={**environment, **more},
            )
            where = (machine, connection) if remote else ()
            return stack.enter_context(_SessionProcess(what, order, *where))

        coordinator = start("the coordinator", Component(port), DORA_DATA_DIR=logs)
        # It comes first: ssh accepts a daemon's connection even if nothing listens behind the port.
        _wait_until(client.is_reachable, coordinator.check, "the coordinator does not answer")
        here = Component(port, _HERE, found.here)
        there = Component(port, _ROBOT, found.there, link_port)
        processes = [
            coordinator,
            start("the daemon here", here),
            start(f"the daemon on {machine.id}", there, remote=True),
        ]

        def check() -> None:
            for process in processes:
                process.check()

        unconnected = "the daemons have not connected to the coordinator"
        _wait_until(lambda: _connected(client) >= {_HERE, _ROBOT}, check, unconnected)
        if command_run.ui or command_run.open_page:
            address = client.dashboard()
            click.echo(f"The dashboard is at {address}", err=True)
            if command_run.open_page:
                open_in_browser(address)
                stack.callback(remove_page_file, port)
        view = client.start(_spec(dataflow, copy, command_run))
        watching = Watching(
            Display(command_run.log_format, LogFilter(command_run.log_level, command_run.log_filter or {})),
            command_run.options.stop_after,
            command_run.options.grace,
            kills=True,
            check=check,
        )
        return attach_to(client, view, reporter_for(command_run.progress), watching)


def _spec(dataflow: Dataflow, copy: str, command_run: CommandRun) -> RunSpec:
    nodes = [
        msgspec.structs.replace(node, deploy=Deploy(machine=_ROBOT, working_dir=copy))
        if node.deploy == HERE
        else msgspec.structs.replace(node, deploy=Deploy(machine=_HERE))
        for node in dataflow.nodes
    ]
    changed = msgspec.structs.replace(dataflow, nodes=tuple(nodes))
    return RunSpec.of(command_run.options, name="", dataflow=msgspec.to_builtins(changed))


def _connected(client: Client) -> set[str]:
    try:
        return {machine.id for machine in client.status().machines if machine.away_since is None}
    except Unreachable:
        return set()  # it is asked again


def _wait_until(condition: Callable[[], bool], check: Callable[[], None], fault: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise DoraError(f"{fault} after {START_TIMEOUT:.0f} s")
        time.sleep(_POLL)


def _common_port(connection: SshConnection) -> int:
    """Return a port that is free here, and that ssh leads here from the other machine.

    It is the same on both, because a coordinator proves that it has the port to which a daemon connects.
    """
    for left in reversed(range(_TRIES)):
        port = _free_port()
        try:
            connection.forward_back(port)
        except MachineFault:  # it is taken there
            if not left:
                raise
        else:
            return port
    raise AssertionError("unreachable")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


class _SessionProcess:
    """A `dora.cli.session` on a machine or, with None, on this one; ``with`` ends it."""

    def __init__(
        self,
        what: str,
        order: Order,
        machine: Machine | None = None,
        connection: SshConnection | None = None,
    ) -> None:
        self._what = what
        self._end_timeout = end_timeout(order.grace)  # a daemon stops its nodes first
        self._connection = connection
        self._ended = threading.Event()
        self._output: list[bytes] = []
        mark = secrets.token_hex(8)
        if machine is None:
            self._process: subprocess.Popen[Any] = subprocess.Popen(
                [sys.executable, "-P", "-m", "dora", "cluster", "session", mark],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        else:
            script = f"exec {shlex.quote(machine.dora)} cluster session {mark}"
            self._process = piped(machine, script, own_session=True)
        # Both pipes are read to their end, because a full one would stop the process.
        assert self._process.stdout is not None and self._process.stderr is not None
        words = (ready_line(mark), msgspec.json.encode(order) + b"\n")
        threading.Thread(target=self._follow, args=words, daemon=True).start()
        self._errors = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._errors.start()

    def _follow(self, ready: bytes, order: bytes) -> None:
        """Give the order when it is ready, and tell it now and then that this process lives."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            for line in self._process.stdout:
                if line.endswith(ready):
                    self._process.stdin.write(order)
                    self._process.stdin.flush()
                    break
            threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
            while not self._ended.wait(LINE_EVERY):
                self._process.stdin.write(b"alive\n")
                self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has ended

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._output = [*self._output[-20:], line]  # a new list: `check` may be reading the old one

    def check(self) -> None:
        """Raise `DoraError` if it has ended."""
        if self._process.poll() is None:
            return
        self._errors.join(_READ_TIMEOUT)
        output = b"".join(self._output).decode(errors="replace").strip().splitlines()
        if output and output[-1].startswith("error: "):
            raise DoraError(f"{self._what} has ended: {output[-1].removeprefix('error: ')}")
        if self._connection is not None:
            raise self._connection.fault()
        raise DoraError(f"{self._what} was killed")

    def __enter__(self) -> _SessionProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        end_by_stdin(self._process, self._end_timeout)
