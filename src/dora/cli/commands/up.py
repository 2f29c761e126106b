"""``dora up`` and ``dora down``: the coordinator and the daemon of this machine, in the background."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import Final

import click

from dora.cli.commands.components import tls_options
from dora.cli.coordinator import coordinator_options
from dora.cluster.client import Client, RequestRefused, Unreachable
from dora.cluster.protocol import DEFAULT_MACHINE, SystemStatus
from dora.errors import DoraError

START_PATIENCE: Final = 15.0  # seconds
END_PATIENCE: Final = 5.0
_LOOK_EVERY: Final = 0.02
_ANYWHERE: Final = ("0.0.0.0", "::")


@click.command()
@click.option(
    "--auth", is_flag=True, help="Let in only those with the token of this user; it is always so."
)
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
    "--recreate-store", is_flag=True, help="Begin with no records; the old ones are kept as .backup."
)
@coordinator_options
def up(
    auth: bool,  # noqa: ARG001 - it is always so
    interface: str,
    tls_cert: str,
    tls_key: str,
    recreate_store: bool,
    client: Client,
) -> None:
    """Start the coordinator and the daemon in the background.

    What runs already stays as it is. They write to out/dora-coordinator.txt and out/dora-daemon.txt.
    """
    from dora._paths import LOOPBACK, store_path
    from dora.cluster.agent.identity import running_daemon
    from dora.cluster.coordinator.store import back_up_store
    from dora.transport.tokens import make_token

    address = client.address
    if interface not in (*LOOPBACK, *_ANYWHERE) and address in LOOPBACK:
        address = interface  # it does not listen other_machines
    client = Client(address, client.port, authority=client.authority, token=make_token())
    processes: dict[str, Background] = {}
    try:
        status = client.status()
        click.echo(f"coordinator already running on {client.where}")
        if recreate_store:
            raise DoraError("the store is in use; stop the coordinator first, with `dora down`")
        if interface in _ANYWHERE and status.interface not in _ANYWHERE:
            raise DoraError(
                f"it listens on {status.interface} only; stop it with `dora down`, then say this again"
            )
        has_daemon = _has_daemon(status)
    except Unreachable:
        has_daemon = False
        _check_agreement(client, interface)
        if recreate_store and (backup := back_up_store(store_path(client.port))) is not None:
            click.echo(f"moved the store to {backup}")
        encryption = encryption_options(client, tls_cert, tls_key)
        options = ["--interface", interface, "--port", str(client.port)]
        processes["coordinator"] = Background("coordinator", [*options, *encryption])
    if has_daemon:
        click.echo("daemon already running")
    elif running_daemon(client.address, client.port) is None:
        options = ["--coordinator-addr", client.address, "--coordinator-port", str(client.port)]
        options += ["--coordinator-ca", client.authority] if client.authority else []
        processes["daemon"] = Background("daemon", options)
    if "coordinator" in processes:
        try:
            is_ours = wait_for_coordinator(client, processes["coordinator"])
        except DoraError:
            if not _answers_soon(client):
                for process in processes.values():
                    process.terminate()
            raise
        where = f"coordinator already running on {client.where}"
        click.echo("started dora coordinator" if is_ours else where)
    if not has_daemon:
        _wait_for_daemon(client, processes.get("daemon"))
        click.echo("started dora daemon" if "daemon" in processes else "daemon already running")
    click.echo(f"dashboard: {client.dashboard()}")


def _check_agreement(client: Client, interface: str) -> None:
    """Raise `DoraError` if a coordinator that listens there would not be found by the client."""
    from dora._paths import LOOPBACK

    if interface in LOOPBACK and client.address not in (*LOOPBACK, "localhost"):
        raise DoraError(
            f"there is no coordinator at {client.where}, and one that is started here would listen on "
            f"{interface}; to start it there, give --interface {client.address}"
        )


def encryption_options(client: Client, certificate: str, key: str) -> list[str]:
    """Return the options of a coordinator to which a client speaks in TLS if it has a certificate.

    Raises `DoraError` if the two do not agree.
    """
    from dora._paths import AUTHORITY_VARIABLE
    from dora.transport.tls import server_context

    encrypted = server_context(certificate, key) is not None
    if encrypted and not client.authority:
        raise DoraError(
            "commands have to know the authority of a coordinator with a certificate: set "
            f"{AUTHORITY_VARIABLE}, or give --coordinator-ca to each"
        )
    if client.authority and not encrypted:
        raise DoraError(
            f"{AUTHORITY_VARIABLE} or --coordinator-ca asks for a coordinator with TLS; to start one, give "
            "--tls-cert and --tls-key"
        )
    return ["--tls-cert", certificate, "--tls-key", key] if encrypted else []


def _has_daemon(status: SystemStatus) -> bool:
    """Tell whether a daemon of the default machine is connected, which is the one that is started here."""
    return any(machine.id == DEFAULT_MACHINE and machine.away_since is None for machine in status.machines)


def _answers_soon(client: Client) -> bool:
    """Tell whether there is a coordinator after all: somebody else's `dora up` may have been quicker."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            client.status()
        except Unreachable:
            time.sleep(_LOOK_EVERY)
        except DoraError:
            return False
        else:
            return True
    return False


class Background:
    """A component of dora in a session of its own."""

    def __init__(self, name: str, options: list[str]) -> None:
        self.name = name
        self.log = os.path.abspath(f"out/dora-{name}.txt")
        try:
            os.makedirs("out", exist_ok=True)
            self._begin = os.path.getsize(self.log) if os.path.exists(self.log) else 0
            output = open(self.log, "ab")  # noqa: SIM115 - closed below
        except OSError as error:
            raise DoraError(f"cannot write {self.log}: {error.strerror}") from None
        with output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dora", name, *options],
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

    def check(self) -> None:
        """Raise `DoraError` if it has ended."""
        if self._process.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                file.seek(self._begin)
                lines = file.read().strip().splitlines()
            said = lines[-1].removeprefix("error: ") if lines else "it said nothing"
            raise DoraError(f"the {self.name} could not be started: {said}")


def wait_for_coordinator(client: Client, coordinator: Background) -> bool:
    """Wait until a coordinator answers; raises `DoraError` if ours ends or takes too long.

    Returns whether it is ours. If somebody else's was quicker, ours ends: it would take over later.
    """
    deadline = time.monotonic() + START_PATIENCE
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
            raise DoraError(f"the coordinator does not answer; what it says is in {coordinator.log}")
        time.sleep(_LOOK_EVERY)


def _wait_for_daemon(client: Client, daemon: Background | None) -> None:
    from dora.cluster.agent.identity import running_daemon

    deadline = time.monotonic() + START_PATIENCE
    while not _has_daemon(client.status()):
        # Somebody else's `dora up` may have been quicker.
        if daemon is not None and running_daemon(client.address, client.port) is None:
            daemon.check()
        if time.monotonic() > deadline:
            where = f"; what it says is in {daemon.log}" if daemon is not None else ""
            raise DoraError(f"the daemon has not connected to the coordinator{where}")
        time.sleep(_LOOK_EVERY)


@click.command()
@click.option("--force", is_flag=True, help="Also if dataflows run, which are stopped then.")
@coordinator_options
def down(force: bool, client: Client) -> None:
    """End the coordinator and the daemon.

    Refused while dataflows run, unless --force is given.
    """
    try:
        stop_coordinator(client, force)
    except Unreachable:
        if not _end_daemon(client):
            raise
        click.echo("The coordinator was not running; the daemon was, and has been ended")


def stop_coordinator(client: Client, force: bool) -> None:
    """End a coordinator and all its daemons, and wait.

    Raises `Unreachable`, and `DoraError` if dataflows run and there is no ``force``.
    """
    try:
        click.echo(f"Destroying coordinator at {client.where}")
        client.down(force)
    except RequestRefused as error:
        if error.status != 409:
            raise
        raise DoraError(
            f"refusing to destroy the coordinator at {client.where}: {error}\n\n"
            "  hint: stop the dataflows first (`dora stop --all`), or say it again with --force\n"
            "  hint: coordinators at different ports do not meet; choose one with DORA_COORDINATOR_PORT"
        ) from None
    deadline = time.monotonic() + END_PATIENCE
    while client.answers() and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
    click.echo("Coordinator and daemons destroyed successfully")


def _end_daemon(client: Client) -> bool:
    """End a daemon whose coordinator is gone; tell whether there was one."""
    import signal

    from dora.cluster.agent.identity import running_daemon

    pid = running_daemon(client.address, client.port)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20.0
    while running_daemon(client.address, client.port) is not None and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
    return True
