"""``dora cluster``: run the daemons of several machines over ssh, from one file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from dora._paths import LOOPBACK, NO_TLS
from dora.cli.argument_values import InputFile
from dora.cli.commands.cluster_machine import ON_MACHINES
from dora.cli.commands.start import restart_and_wait, start_and_wait, start_options, wants_to_attach
from dora.cli.completion import dataflow_files
from dora.cli.coordinator import coordinator_options
from dora.cli.options import CommandGroup
from dora.cli.process import interrupts_held, termination_as_interrupt
from dora.cli.progress_bar import progress_mode, progress_option, showing
from dora.cli.run_options import RunCommand
from dora.cli.running_options import dataflow_names
from dora.cli.tables import format_option, print_table
from dora.cluster.client import Client, Unreachable
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import RunSpec
from dora.daemon.options import FileRunOptions
from dora.daemon.work import Work
from dora.errors import DataflowError, DoraError
from dora.observe.formatting import file_size
from dora.transport.tokens import make_token

if TYPE_CHECKING:
    from dora.cli.commands.up import Background
    from dora.cluster.ssh.file import Cluster
    from dora.cluster.ssh.ssh import MachineFault
    from dora.transport.tokens import Token


_file = click.argument("file", metavar="CLUSTER_FILE", shell_complete=dataflow_files)
_file_or_not = click.argument(
    "file", metavar="[CLUSTER_FILE]", required=False, shell_complete=dataflow_files
)


@click.group(cls=CommandGroup)
def cluster() -> None:
    """Run dora on several machines, over ssh, from one file."""


def _load(path: str) -> Cluster:
    """Read a cluster file, and the choice between TLS and none that was made for it."""
    from dora.cluster.ssh.file import load_cluster, with_choice

    found = load_cluster(path)
    for warning in found.warnings:
        click.echo(warning, err=True)
    return with_choice(found)


def _client(found: Cluster, token: Token | None = None) -> Client:
    starter = f"dora cluster up {found.file}"
    return Client(found.address, found.port, starter, authority=found.authority, token=token)


def _connected(client: Client) -> set[str]:
    """Return the machines whose daemons are connected; raises `Unreachable`."""
    return {machine.id for machine in client.status().machines if machine.away_since is None}


def _raise_if_any(faults: list[MachineFault], what: str, total: int) -> None:
    """Raise a `DoraError` that lists what went wrong on which machine, if anything did."""
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise DoraError(f"{what} on {len(faults)} of {total} machine(s):\n{listed}")


_tls = click.option(
    "--tls/--no-tls",
    default=None,
    help="Encrypt all connections between machines, or nothing [as before; at first encrypted].",
)


@cluster.command()
@_file
@_tls
def up(file: str, tls: bool | None) -> None:
    """Start the coordinator on this machine and a daemon on each machine of the file.

    Whatever is running already is left alone. If a machine is missing in the end, the exit status is 1, and
    if nothing of the cluster ran before, nothing is left running.
    """
    token = make_token()
    found = _with_tls(_load(file), token, tls)
    client = _client(found, token)
    stamp = os.urandom(8).hex()
    with _coordinator(found, client, stamp) as is_new:
        if not is_new:
            click.echo(f"coordinator already running on {client.where}")
        _start_machines(found, client, token, stamp)


@contextmanager
def _coordinator(found: Cluster, client: Client, stamp: str = "") -> Iterator[bool]:
    """Run a block with the coordinator, which is started unless it runs.

    Yields whether it was started. If the block fails, also by Ctrl-C or a signal, what was started is
    stopped: daemons with this stamp, and the coordinator, unless daemons that ran before are connected.
    """
    with termination_as_interrupt(signal.SIGHUP):
        started = _start_coordinator(found, client)
        try:
            yield started is not None
        except BaseException:
            if started is not None:
                _stop_started(found, client, started, stamp)
            raise


def _stop_started(found: Cluster, client: Client, coordinator: Background, stamp: str) -> None:
    from dora.cluster.ssh.daemons import end_started

    # Daemons end before their coordinator, which knows the others.
    ended = end_started(found.machines, stamp) if stamp else set()
    try:
        others = _connected(client) - ended
    except DoraError:
        others = set()  # no command can stop it later if it cannot be asked
    if not others:
        coordinator.stop()
        click.echo("stopped what was started", err=True)


def _start_machines(found: Cluster, client: Client, token: Token, stamp: str) -> None:
    """Start a daemon on each machine without one; raises `DoraError` if one is missing in the end."""
    from dora.cluster.ssh.daemons import start as start_daemons

    there = _connected(client)
    for machine in found.machines:
        if machine.id in there:
            click.echo(f"{machine.id}: daemon already running")
    missing = [machine for machine in found.machines if machine.id not in there]
    faults = start_daemons(found, missing, token.value, lambda: _connected(client), click.echo, stamp)
    _raise_if_any(faults, "no daemon", len(found.machines))


def _with_tls(found: Cluster, token: Token, tls: bool | None) -> Cluster:
    """Return the cluster with TLS or without, and note the choice; None: as before. Raises `DoraError`."""
    from dora.cluster.ssh.file import choose_tls, is_encrypted, with_choice

    if tls is None:
        return found
    if found.authority not in ("", NO_TLS):
        raise DoraError(
            f"{found.file} names certificates (`tls_cert`), so --{'tls' if tls else 'no-tls'} cannot be "
            "used; remove `tls_cert`, `tls_key` and `tls_ca` for certificates that dora makes"
        )
    if tls and found.address in LOOPBACK:
        raise DoraError(
            f"the coordinator at {found.address} is reached from this machine only, so there is nothing to "
            "encrypt; leave out --tls"
        )
    if tls != is_encrypted(found) and _runs(_client(found, token)):
        raise DoraError(
            f"the coordinator of the cluster runs {'without' if tls else 'with'} TLS; end it with "
            f"`dora cluster down {found.file}`, and run this command again"
        )
    choose_tls(found, tls)
    return with_choice(msgspec.structs.replace(found, authority=""))


def _runs(client: Client) -> bool:
    """Return whether a coordinator runs, with TLS or without as the client expects it."""
    try:
        return client.is_reachable()
    except DoraError:
        return False


def _start_coordinator(found: Cluster, client: Client) -> Background | None:
    """Start the coordinator unless it runs; return it if it was started."""
    from dora.cli.commands.up import Background, encryption_options, wait_for_coordinator

    try:
        client.status()
    except Unreachable:
        _check_here(client.address)
        _check_no_other(client)
        options = ["--interface", client.address, "--port", str(client.port)]
        options += encryption_options(client, found.certificate, found.key, found.authority == NO_TLS)
        process = None
        try:
            with interrupts_held():
                process = Background("coordinator", options)
            if wait_for_coordinator(client, process):
                click.echo(f"started dora coordinator on {client.where}")
                return process
        except BaseException:
            if process is not None:
                process.stop()
            raise
    return None


def _check_here(address: str) -> None:
    """Raise `DoraError` if an address is not one of this machine."""
    import socket

    import psutil

    found = [item.address for items in psutil.net_if_addrs().values() for item in items]
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            here = ", ".join(
                sorted({text for text in found if text.count(".") == 3 and text[:4] != "127."})
            )
            raise DoraError(
                f"the `addr` of the cluster, {address}, is not an address of this machine, on which the "
                f"coordinator is to run; it has: {here or 'none but loopback'}"
            ) from None


def _check_no_other(client: Client) -> None:
    """Raise `DoraError` if a coordinator has the port, and thus the records, on this machine only."""
    local = Client("127.0.0.1", client.port, authority="")
    try:
        local.status()
    except DoraError:
        return
    raise DoraError(
        f"a coordinator runs at {local.where}, where other machines cannot reach it; end it with "
        "`dora down`, or give the cluster another `port`"
    )


@cluster.command()
@_file_or_not
@format_option(
    "one object a line: `machine`, `host`, `address`, `link_endpoint`, `labels`, `tls`, `daemon`"
)
@coordinator_options
def status(file: str | None, style: str, client: Client) -> int:
    """Show the machines of the cluster, and whether its connections are encrypted.

    Without CLUSTER_FILE, the machines that the coordinator knows. With it, the exit status is 1 if one of
    its machines is not connected. LINKS AT is the endpoint at which others reach the machine, known from
    its first dataflow on with nodes on other machines too. TLS is about links to other machines.
    """
    found = None
    hosts: dict[str, str] = {}
    if file is not None:
        found = _load(file)
        client = _client(found)
        hosts = {machine.id: machine.host for machine in found.machines}
    answer = client.status()
    known = {machine.id: machine for machine in answer.machines}
    rows = []
    for id in dict.fromkeys([*hosts, *sorted(known)]):
        machine = known.get(id)
        endpoint = None if machine is None else client.link_endpoint(machine)
        rows.append(_Row.of(id, machine, hosts.get(id, ""), endpoint))
    if style == "json":
        for row in rows:
            click.echo(msgspec.json.encode(row))
    else:
        head = ["MACHINE", "HOST", "ADDRESS", "LINKS AT", "LABELS", "TLS", "DAEMON"]
        print_table(head, [row.cells() for row in rows])
        click.echo(_describe_tls(client, file))
        click.echo(f"Active dataflows: {answer.active_dataflows}")
    return 1 if any(row.daemon != "connected" for row in rows if row.machine in hosts) else 0


def _describe_tls(client: Client, file: str | None) -> str:
    """Return the line about the connections to the coordinator, after a request."""
    if client.is_encrypted:
        return "TLS: on"
    if client.address in LOOPBACK:
        return "TLS: off, the coordinator was reached on this machine"
    command = f"dora cluster up --tls {file or 'CLUSTER_FILE'}"
    return f"TLS: off, tokens and messages can be read in the network (`{command}`)"


class _Row(msgspec.Struct, frozen=True):
    """One line of the table."""

    machine: str
    host: str
    address: str
    link_endpoint: str | None  # as `Client.link_endpoint` returns it
    labels: dict[str, str]
    tls: bool  # of its links
    daemon: str

    @classmethod
    def of(cls, id: str, known: MachineView | None, host: str, endpoint: str | None) -> _Row:
        if known is None:
            return cls(id, host, "", None, {}, False, "not connected")
        daemon = "connected"
        if known.away_since is not None:
            daemon = f"away for {time.time() - known.away_since:.0f} s"
        return cls(id, host, known.address, endpoint, known.labels, known.tls, daemon)

    def cells(self) -> list[str]:
        labels = ",".join(f"{name}={value}" for name, value in sorted(self.labels.items()))
        links = "only dials" if self.link_endpoint == "" else self.link_endpoint or ""
        tls = "on" if self.tls else "off"
        return [self.machine, self.host, self.address, links, labels, tls, self.daemon]


@cluster.command()
@_file_or_not
@click.option("--force", is_flag=True, help="Stop running dataflows instead of refusing.")
@coordinator_options
def down(file: str | None, force: bool, client: Client) -> None:
    """Stop the coordinator and all daemons.

    With CLUSTER_FILE, also the daemons of its machines that are not connected. Refuses while dataflows are
    running, unless --force is given.
    """
    from dora.cli.commands.up import raise_if_left, stop_coordinator

    if file is None:
        raise_if_left(stop_coordinator(client, force))
        return
    from dora.cluster.ssh.daemons import end

    found = _load(file)
    client = _client(found)
    still: dict[str, str] = {}
    try:
        there = _connected(client)
        still = stop_coordinator(client, force)
    except Unreachable:
        if not force:
            raise DoraError(
                f"the coordinator at {client.where} is not running, but its daemons and dataflows may be; "
                f"`dora cluster up {file}` reconnects them, `dora cluster down --force {file}` stops them"
            ) from None
        there = set()
    left = [machine for machine in found.machines if machine.id not in there or machine.id in still]
    faults = end(left, click.echo) if left else []
    _raise_if_any(faults, "the daemon may still run", len(found.machines))
    listed = {machine.id for machine in left}
    raise_if_left({id: why for id, why in still.items() if id not in listed})


@cluster.command()
@_file
@click.argument("name", metavar="NAME", shell_complete=dataflow_names)
def restart(file: str, name: str) -> int:
    """Stop a dataflow of the cluster and start it again with the same options."""
    found = _load(file)
    client = _client(found)
    return restart_and_wait(client, client.dataflow(name).uuid)


@cluster.command()
@_file
@_tls
def install(file: str, tls: bool | None) -> None:
    """Install the daemons as systemd services, which start with their machines.

    For root these are services of the machine, for others services of the user. Running daemons are stopped
    first, with their dataflows. The coordinator is started unless it runs.
    """
    from dora.cluster.ssh.daemons import install as install_daemons

    token = make_token()
    found = _with_tls(_load(file), token, tls)
    client = _client(found, token)
    with _coordinator(found, client):  # the daemons have to connect to it
        faults = install_daemons(found, found.machines, token.value, lambda: _connected(client), click.echo)
        _raise_if_any(faults, "not installed", len(found.machines))


@cluster.command()
@_file
def uninstall(file: str) -> None:
    """Stop and remove the services that `dora cluster install` has made."""
    from dora.cluster.ssh.daemons import uninstall as uninstall_daemons

    found = _load(file)
    _raise_if_any(uninstall_daemons(found.machines, click.echo), "not removed", len(found.machines))


@cluster.command()
@_file
@click.option(
    "--wheel",
    type=InputFile(must_exist=True),
    metavar="FILE",
    help="Wheel to install [made from this installation].",
)
@click.option("--force", is_flag=True, help="Stop dataflows on the machines instead of refusing.")
@progress_option
def upgrade(file: str, wheel: str | None, force: bool, progress: str) -> None:
    """Install this dora on all machines, one after the other, and restart their daemons.

    dora is copied to the machines; its dependencies come from their package index. Stops at the first
    machine that fails. The coordinator is started unless it runs.
    """
    import tempfile

    from dora.cluster.ssh.daemons import upgrade as upgrade_daemon
    from dora.daemon.build.own_wheel import write_wheel
    from dora.daemon.processes.interpreter import WHEEL

    found = _load(file)
    token = make_token()
    client = _client(found, token)
    with _coordinator(found, client), tempfile.TemporaryDirectory(prefix="dora-") as folder:
        if wheel is None:
            wheel = f"{folder}/{WHEEL}"
            write_wheel(wheel, with_files=True)
        for done, machine in enumerate(found.machines):
            if not force and (busy := [v.name for v in client.active() if machine.id in v.machines]):
                raise DoraError(
                    f"{machine.id}: runs {', '.join(busy)}; stop these dataflows, or use --force "
                    f"({done} of {len(found.machines)} machine(s) done)"
                )
            work = Work()
            with showing(progress_mode(progress), f"upgrading {machine.id}", work) as say:
                faults = upgrade_daemon(
                    found, machine, wheel, token.value, lambda: _connected(client), say, work
                )
            if faults:
                raise DoraError(f"{faults[0]} ({done} of {len(found.machines)} machine(s) done)")


@cluster.command(cls=RunCommand)
@_file
@click.argument("path", metavar="DATAFLOW_FILE", shell_complete=dataflow_files)
@start_options
def start(
    file: str,
    path: str,
    name: str,
    attach: bool,
    detach: bool,
    options: FileRunOptions,
    progress: str,
) -> int:
    """Copy a dataflow to the machines that its nodes run on, and start it.

    Copies the folder of DATAFLOW_FILE without `out`, `.git` and virtual environments; the next time, only
    what has changed. Nodes with a `working_dir` in their `deploy` are expected to have their files there.
    """
    from dora.cluster.coordinator.placement import place
    from dora.cluster.ssh.copy import with_copies
    from dora.daemon.load_dataflow import load_for_run
    from dora.dataflow import missing_files

    attach = wants_to_attach(attach, detach)
    found = _load(file)
    client = _client(found)
    machines = client.status().machines
    dataflow = load_for_run(path, options, here=False)
    for warning in (*dataflow.warnings, *dataflow.type_warnings):
        click.echo(str(warning), err=True)
    copied = {node.id for node in dataflow.nodes if node.deploy.working_dir is None}
    if missing := missing_files(dataflow, copied):
        raise DataflowError(problems=tuple(missing))
    work = Work()
    with showing(progress_mode(progress), "copying", work) as say:
        dataflow, faults = with_copies(found, dataflow, place(dataflow, machines), say, work)
    _raise_if_any(faults, "not copied", len(found.machines))
    spec = RunSpec.of(options, name=name, dataflow=msgspec.to_builtins(dataflow))
    return start_and_wait(client, spec, attach, progress)


@cluster.command()
@_file
@click.option(
    "--remove", is_flag=True, help="Remove unused copies, with the files that nodes have written there."
)
@format_option("one object a line")
def copies(file: str, remove: bool, style: str) -> None:
    """Show the copies of dataflows on the machines, their sizes, and the dataflows that use them.

    `dora clean` removes the copies of the dataflows that it removes, except files written by nodes.
    """
    from dora.cluster.ssh.copy import copies_on

    found = _load(file)
    rows, faults = copies_on(found.machines, remove)
    if style == "json":
        for row in rows:
            click.echo(msgspec.json.encode(row))
    elif remove:
        for row in rows:
            click.echo(f"{row.machine}: removed {row.folder}, {row.size:,} bytes")
    else:
        names = _names(found) if rows else {}
        cells = [[row.machine, row.folder, file_size(row.size), row.users(names)] for row in rows]
        print_table(["MACHINE", "FOLDER", "SIZE", "USED BY"], cells)
    _raise_if_any(faults, "not reached", len(found.machines))


def _names(found: Cluster) -> dict[str, str]:
    """Return the names of the dataflows that the coordinator knows, by UUID."""
    try:
        return {view.uuid: view.name for view in _client(found).dataflows()}
    except Unreachable:
        return {}


for _command in ON_MACHINES:
    cluster.add_command(_command)
