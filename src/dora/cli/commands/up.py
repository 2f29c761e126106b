"""``dora up`` and ``dora down``: start and stop the coordinator and the daemon of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from dora._paths import ALL_INTERFACES, AUTHORITY_VARIABLE, LOOPBACK, NO_TLS, host_and_port, store_path
from dora._shared_folders import open_file
from dora.cli.commands.components import auth_option, given_encryption, tls_options
from dora.cli.coordinator import coordinator_options
from dora.cli.process import discard_output, interrupts_held, termination_as_interrupt
from dora.cluster.client import Client, RequestRefused, Unreachable
from dora.cluster.http_api import SystemStatus
from dora.cluster.protocol import DEFAULT_MACHINE
from dora.errors import DoraError, cannot_write
from dora.transport.tokens import make_token

if TYPE_CHECKING:
    import psutil

# Seconds. Both import a web server, which takes a minute on a slow core that others use. A process that
# ends is noticed at once.
START_TIMEOUT: Final = 180.0
STOP_TIMEOUT: Final = 5.0  # of a component that was just started
# Nodes end first. With the usual grace, SIGTERM follows after 10 s, and SIGKILL 5 s later.
DOWN_TIMEOUT: Final = 20.0
POLL_INTERVAL: Final = 0.02


@click.command()
@auth_option
@click.option(
    "--interface",
    default="127.0.0.1",
    envvar="DORA_COORDINATOR_INTERFACE",
    show_envvar=True,
    metavar="IP",
    help="Address to listen on [127.0.0.1].",
)
@tls_options
@click.option(
    "--recreate-store",
    is_flag=True,
    help="Start with an empty store; the old one is kept as .backup, .backup2 and so on.",
)
@coordinator_options
def up(
    interface: str,
    tls_cert: str,
    tls_key: str,
    no_tls: bool,
    recreate_store: bool,
    client: Client,
) -> None:
    """Start the coordinator and the daemon in the background.

    Whatever is running already is left alone. Logs go to out/dora-coordinator.txt and out/dora-daemon.txt.
    A log of 10 MiB is moved to .1.txt; four are kept.
    """
    address = client.address
    if interface not in (*LOOPBACK, *ALL_INTERFACES) and address in LOOPBACK:
        address = interface  # it does not listen on loopback then
    authority = client.authority or (NO_TLS if no_tls else "")
    client = Client(address, client.port, authority=authority, token=make_token())
    encryption = partial(encryption_options, client, tls_cert, tls_key, no_tls)
    processes: dict[str, Background] = {}
    with termination_as_interrupt(signal.SIGHUP):
        try:
            _start_what_is_missing(client, interface, encryption, recreate_store, processes)
        except BaseException:
            _stop_what_was_started(client, processes)
            raise
    _say(f"dashboard: {client.dashboard()}")


def _start_what_is_missing(
    client: Client,
    interface: str,
    encryption: Callable[[], list[str]],
    recreate_store: bool,
    processes: dict[str, Background],
) -> None:
    """Start what does not run yet, and wait until it works; what is started is put into ``processes``."""
    from dora.cluster.coordinator.store import back_up_store

    try:
        status = client.status()
        _say(f"coordinator already running on {client.where}")
        if recreate_store:
            raise DoraError("the store is in use; stop the coordinator first, with `dora down`")
        if interface in ALL_INTERFACES and status.interface not in ALL_INTERFACES:
            raise DoraError(
                f"it listens on {status.interface} only; stop it with `dora down`, then run this again"
            )
        has_daemon = _has_daemon(status)
    except Unreachable:
        has_daemon = False
        if client.other_address():
            raise DoraError(f"a coordinator runs already. {client.how_to_reach_one()}") from None
        _check_reachable(client, interface)
        if recreate_store and (backup := back_up_store(store_path(client.port))) is not None:
            _say(f"moved the store to {backup}")
        options = ["--interface", interface, "--port", str(client.port)]
        with interrupts_held():
            processes["coordinator"] = Background("coordinator", [*options, *encryption()])
    daemon_options = ["--coordinator-addr", client.address, "--coordinator-port", str(client.port)]
    daemon_options += ["--coordinator-ca", client.authority] if client.authority else []
    # It starts beside the coordinator, and tries to reach it until it answers.
    if has_daemon:
        _say("daemon already running")
    elif _daemon_here(client) is None:
        with interrupts_held():
            processes["daemon"] = Background("daemon", daemon_options)
    if "coordinator" in processes:
        is_ours = wait_for_coordinator(client, processes["coordinator"])
        where = f"coordinator already running on {client.where}"
        _say("started dora coordinator" if is_ours else where)
    if not has_daemon:
        is_ours = _wait_for_daemon(client, processes, daemon_options)
        _say("started dora daemon" if is_ours else "daemon already running")


def _say(text: str) -> None:
    """Print a line. A reader that has ended, as in ``dora up | head -1``, stops nothing that is started."""
    try:
        click.echo(text)
    except BrokenPipeError:
        discard_output()


def _stop_what_was_started(client: Client, processes: dict[str, Background]) -> None:
    """Stop the coordinator and the daemon; but not a daemon that another coordinator uses.

    That is so if another `dora up` has started a coordinator at the same moment, and was quicker.
    """
    coordinator, daemon = processes.get("coordinator"), processes.get("daemon")
    with interrupts_held():  # a second Ctrl-C would leave the rest
        if coordinator is not None:
            coordinator.stop()  # first: if one answers afterwards, it is another one
        if daemon is not None:
            if coordinator is not None and _answers_soon(client) and _serves(client, daemon):
                return
            daemon.stop()


def _check_reachable(client: Client, interface: str) -> None:
    """Raise `DoraError` if a coordinator on this interface could not be reached by the client."""
    if interface in LOOPBACK and client.address not in (*LOOPBACK, "localhost"):
        raise DoraError(
            f"there is no coordinator at {client.where}, and one that is started here would listen on "
            f"{interface}; to start it there, give --interface {client.address}"
        )


def encryption_options(client: Client, certificate: str, key: str, no_tls: bool) -> list[str]:
    """Return the TLS options for a coordinator; raises `DoraError` if they do not suit the client."""
    encrypted = given_encryption(certificate, key, no_tls) is not None
    is_local = client.address in (*LOOPBACK, "localhost")
    if encrypted and not client.authority and is_local:
        raise DoraError(
            "commands need the certificate authority of a coordinator with TLS on loopback: set "
            f"{AUTHORITY_VARIABLE}, or give --coordinator-ca to each"
        )
    if client.authority not in ("", NO_TLS) and not encrypted and (no_tls or is_local):
        raise DoraError(
            f"{AUTHORITY_VARIABLE} or --coordinator-ca asks for a coordinator with TLS; to start one, give "
            "--tls-cert and --tls-key"
        )
    if encrypted:
        return ["--tls-cert", certificate, "--tls-key", key]
    return ["--no-tls"] if no_tls or client.authority == NO_TLS else []


def _has_daemon(status: SystemStatus) -> bool:
    """Return whether a daemon of the default machine, which is the one started here, is connected."""
    return any(machine.id == DEFAULT_MACHINE and machine.away_since is None for machine in status.machines)


def _answers_soon(client: Client) -> bool:
    """Return whether a coordinator answers after all: another `dora up` may have been quicker."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            client.status()
        except Unreachable:
            time.sleep(POLL_INTERVAL)
        except DoraError:
            return False
        else:
            return True
    return False


class Background:
    """A component of dora as a background process."""

    def __init__(self, name: str, options: list[str]) -> None:
        self.name = name
        self.log = os.path.abspath(f"out/dora-{name}.txt")
        try:
            file = open_file(self.log, os.O_RDWR | os.O_APPEND | os.O_CREAT, below=os.getcwd())
        except OSError as error:
            raise cannot_write(self.log, error) from None
        with open(file, "ab") as output:
            self._begin = os.fstat(file).st_size
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dora", name, *options, "--log-file", self.log],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        self._process.terminate()

    def stop(self) -> None:
        """Terminate it and wait for its end, at most `STOP_TIMEOUT`; then kill it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise `DoraError` if it has ended."""
        if self._process.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                file.seek(self._begin)
                lines = file.read().strip().splitlines()
            message = lines[-1].removeprefix("error: ") if lines else "it printed nothing"
            raise DoraError(f"the {self.name} could not be started: {message}")


def wait_for_coordinator(client: Client, coordinator: Background) -> bool:
    """Wait until a coordinator answers; return whether it is ours.

    If another one was quicker, ours is stopped, since it would take over later. Raises `DoraError` if ours
    ends or takes too long.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            is_ours = client.status().pid == coordinator.pid
        except Unreachable:
            coordinator.check()
        else:
            if not is_ours:
                coordinator.terminate()
            return is_ours
        if time.monotonic() > deadline:
            raise DoraError(f"the coordinator does not answer; its log is {coordinator.log}")
        time.sleep(POLL_INTERVAL)


def _wait_for_daemon(client: Client, processes: dict[str, Background], options: list[str]) -> bool:
    """Wait until a daemon is connected; return whether it is ours.

    If another one was quicker, ours is stopped: it would take over once that one ends, and nobody would
    stop it. Without one in ``processes``, one runs already. If that one ends, because it has just been
    stopped, another is started with these options.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while not _has_daemon(client.status()):
        if _daemon_here(client) is None:
            if "daemon" in processes:
                processes["daemon"].check()  # another `dora up` may have been quicker
            else:
                with interrupts_held():
                    processes["daemon"] = Background("daemon", options)
        if time.monotonic() > deadline:
            where = f"; its log is {processes['daemon'].log}" if "daemon" in processes else ""
            raise DoraError(f"the daemon has not connected to the coordinator{where}")
        time.sleep(POLL_INTERVAL)
    if "daemon" not in processes:
        return False
    is_ours = _serves(client, processes["daemon"])
    if not is_ours:
        processes["daemon"].terminate()
    return is_ours


def _serves(client: Client, daemon: Background) -> bool:
    """Return whether this is the daemon of this machine that serves the coordinator."""
    return _daemon_here(client) == daemon.pid


@click.command()
@click.option("--force", is_flag=True, help="Stop running dataflows instead of refusing.")
@coordinator_options
def down(force: bool, client: Client) -> None:
    """Stop the coordinator and the daemon.

    Refuses while dataflows are running, unless --force is given.
    """
    try:
        raise_if_left(stop_coordinator(client, force))
    except Unreachable as error:
        if not _stop_daemon(client, force):
            if error.refused:
                hint = f"\n\n  hint: {client.how_to_reach_one()}" if client.other_address() else ""
                raise DoraError(
                    f"nothing is up: there is no coordinator at {client.where}, and no daemon of it "
                    f"here{hint}"
                ) from None
            raise
        click.echo("The coordinator was not running; the daemon was running and has been stopped")


def stop_coordinator(client: Client, force: bool) -> dict[str, str]:
    """Stop a coordinator and all its daemons, and wait until they have ended.

    Returns the machines whose daemon may still run, with the reason. Raises `Unreachable`, and `DoraError`
    if dataflows are running, unless with ``force``, or if it does not end within `DOWN_TIMEOUT`.
    """
    here: list[psutil.Process] = []
    if client.is_reachable():
        click.echo(f"Destroying coordinator at {client.where}")
        here = _processes_here(client)
    try:
        answer = client.down(force)
    except RequestRefused as error:
        if error.status != 409:
            raise
        raise DoraError(
            f"refusing to destroy the coordinator at {client.where}: {error}\n\n"
            "  hint: stop the dataflows first (`dora stop --all`), or use --force\n"
            "  hint: coordinators at other ports are independent; choose one with DORA_COORDINATOR_PORT"
        ) from None
    # The next `dora up` can use its port and its store, and start a daemon.
    if not (
        _comes_true(lambda: not client.is_reachable())
        and _comes_true(lambda: all(_has_ended(process) for process in here))
    ):
        raise DoraError(
            f"the coordinator at {client.where} or the daemon of this machine has not ended within "
            f"{DOWN_TIMEOUT:g} s; their logs are out/dora-coordinator.txt and out/dora-daemon.txt where "
            "`dora up` ran"
        )
    left = dict.fromkeys(answer.away, "was out of reach")
    left |= dict.fromkeys(answer.late, "has not ended in time")
    if here or client.address in (*LOOPBACK, "localhost"):
        left.pop(DEFAULT_MACHINE, None)  # that is this machine, and its daemon has ended
    click.echo("Coordinator destroyed" if left else "Coordinator and daemons destroyed successfully")
    return left


def raise_if_left(left: dict[str, str]) -> None:
    """Raise a `DoraError` that names the machines which `stop_coordinator` has left, if there are any."""
    if left:
        sentences = [f"the daemon of `{machine}` {why} and may still run" for machine, why in left.items()]
        raise DoraError(
            "\n".join(sentences) + "\n\n  hint: its nodes go on; stop it there, or with "
            "`dora cluster down --force FILE` if a cluster file names the machine"
        )


def _processes_here(client: Client) -> list[psutil.Process]:
    """Return the processes of a coordinator on loopback and of its daemon here, as far as they run."""
    import psutil

    pids = [_daemon_here(client)]
    if client.address in (*LOOPBACK, "localhost"):
        with contextlib.suppress(DoraError):  # it does not run, or is of another version
            pids.append(client.status().pid)
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended, or is in another container
            found += [] if pid is None else [psutil.Process(pid)]
    return found


def _has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, even if its parent has not noticed that.

    The first thread of a killed process may have ended before others, which keep its sockets.
    """
    import psutil

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def _stop_daemon(client: Client, force: bool) -> bool:
    """Stop a daemon whose coordinator is gone; return whether there was one.

    Raises `DoraError` if it runs dataflows, unless with ``force``, or if it does not end in time.
    """
    pid = _daemon_here(client)
    if pid is None:
        return False
    if not force and (running := _dataflows_here(client)):
        raise DoraError(
            f"the coordinator at {client.where} is not running, but its daemon here runs "
            f"{len(running)} dataflow(s):\n" + "\n".join(f"  - {each}" for each in running) + "\n\n"
            "  hint: `dora up` starts the coordinator again and reconnects the daemon; "
            "`dora down --force` stops the dataflows"
        )
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)
    if not _comes_true(lambda: _daemon_here(client) is None):
        raise DoraError(
            f"the daemon of this machine has not ended within {DOWN_TIMEOUT:g} s; its log is "
            "out/dora-daemon.txt where `dora up` ran"
        )
    return True


def _dataflows_here(client: Client) -> list[str]:
    """Return the names and UUIDs of the coordinator's dataflows that run on this machine."""
    from dora.cli.select import warn_once
    from dora.daemon.client import name_of, running

    places = [host_and_port(address, client.port) for address in client.addresses]
    found = {}
    for run in running(warn_once):
        with run:
            known = run.description
            if known.coordinator in places:
                found[known.dataflow_id] = f"[{name_of(known)}] {known.dataflow_id}"
    return list(found.values())


def _daemon_here(client: Client) -> int | None:
    """Return the process id of the daemon of this machine that serves the coordinator; None without one."""
    from dora.cluster.agent.identity import running_daemon

    return running_daemon(client.addresses[0], client.port)


def _comes_true(condition: Callable[[], bool]) -> bool:
    """Wait until a condition is true; return whether that was within `DOWN_TIMEOUT`."""
    deadline = time.monotonic() + DOWN_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True
