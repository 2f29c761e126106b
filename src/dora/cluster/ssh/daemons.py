"""Start, end, install and upgrade the daemons of a cluster.

The coordinator knows best whether a daemon runs: ``connected`` returns the ids of the machines that are
connected to it. ``report`` gets a line for each step that is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from dora._paths import NO_TLS
from dora.cluster.ssh import scripts
from dora.cluster.ssh.file import Cluster, Machine
from dora.cluster.ssh.ssh import MachineFault, on_all, run, send_file
from dora.daemon.work import Work
from dora.errors import DoraError

START_TIMEOUT: Final = 180.0  # seconds until a daemon is connected; one that has ended is noticed sooner
INSTALL_TIMEOUT: Final = 600.0  # seconds; the packages that dora needs may have to be downloaded
_POLL_INTERVAL: Final = 0.05  # seconds between two questions to the coordinator
_SSH_POLL_INTERVAL: Final = 2.0  # the same by ssh: each of them logs in on all machines

Connected = Callable[[], set[str]]
Report = Callable[[str], None]


def start(
    cluster: Cluster,
    machines: Sequence[Machine],
    token: str,
    connected: Connected,
    report: Report,
    stamp: str = "",
) -> list[MachineFault]:
    """Start daemons and wait until they are connected; return what went wrong.

    `end_started` ends those that were started with the same ``stamp``.
    """
    stdin = _secrets(cluster, token)
    _, faults = on_all(
        machines, lambda machine: run(machine, scripts.start_daemon(cluster, machine, stamp), stdin=stdin)
    )
    return faults + await_daemons(
        cluster, _without(machines, faults), connected, lambda id: report(f"{id}: started dora daemon")
    )


def await_daemons(
    cluster: Cluster, machines: Sequence[Machine], connected: Connected, report: Report
) -> list[MachineFault]:
    """Wait until the daemons of machines are connected, and report each id; return what went wrong."""
    waiting = {machine.id: machine for machine in machines}
    faults: list[MachineFault] = []
    begin = checked = time.monotonic()
    while waiting:
        there = connected()
        for id in [id for id in waiting if id in there]:
            report(id)
            del waiting[id]
        now = time.monotonic()
        if now - checked > _SSH_POLL_INTERVAL:
            checked = now
            for fault in _ended(waiting.values()):
                faults.append(fault)
                del waiting[fault.machine.id]
        if now - begin > START_TIMEOUT:
            return faults + _not_connected(cluster, waiting.values())
        time.sleep(_POLL_INTERVAL)
    return faults


def end(machines: Sequence[Machine], report: Report) -> list[MachineFault]:
    """End daemons over ssh, for when the coordinator does not run; return what went wrong."""
    results, faults = on_all(machines, lambda machine: run(machine, scripts.end_daemon(machine)))
    for machine, output in results:
        report(f"{machine.id}: {'ended dora daemon' if output else 'no daemon ran'}")
    return faults


def end_started(machines: Sequence[Machine], stamp: str) -> set[str]:
    """End the daemons that were started with a stamp; return the ids of their machines.

    A machine that cannot be reached could not be reached before, and has none.
    """
    results, _ = on_all(machines, lambda machine: run(machine, scripts.end_started_daemon(machine, stamp)))
    return {machine.id for machine, output in results if output}


def install(
    cluster: Cluster, machines: Sequence[Machine], token: str, connected: Connected, report: Report
) -> list[MachineFault]:
    """Make daemons services of systemd, which start with their machines; return what went wrong.

    A daemon that `start` has started is ended before, with what it runs.
    """
    stdin = _secrets(cluster, token)

    def work(machine: Machine) -> str:
        run(machine, scripts.prepare_install(machine))  # first what may fail: the daemon goes on then
        run(machine, scripts.end_daemon(machine))
        return run(machine, scripts.install(cluster, machine), stdin=stdin)

    _, faults = on_all(machines, work)
    waiting = _without(machines, faults)
    names = {machine.id: scripts.unit_name(machine) for machine in machines}
    return faults + await_daemons(
        cluster, waiting, connected, lambda id: report(f"{id}: installed {names[id]}, which runs")
    )


def uninstall(machines: Sequence[Machine], report: Report) -> list[MachineFault]:
    """End the services and take them away; return what went wrong."""
    results, faults = on_all(machines, lambda machine: run(machine, scripts.uninstall(machine)))
    for machine, output in results:
        name = scripts.unit_name(machine)
        report(f"{machine.id}: {f'there is no {name}' if output.strip() else f'removed {name}'}")
    return faults


def upgrade(
    cluster: Cluster,
    machine: Machine,
    wheel: str,
    token: str,
    connected: Connected,
    report: Report,
    work: Work,
) -> list[MachineFault]:
    """Install a wheel of dora on a machine and start its daemon again; return what went wrong.

    The dataflows that the daemon runs are stopped. ``work``: as of `send_file`.
    """
    try:
        # First the wheel: if it cannot be installed, the daemon and its dataflows go on.
        version = send_file(machine, scripts.install_wheel, wheel, INSTALL_TIMEOUT, work)
        report(f"{machine.id}: installed {version.strip()}")
        run(machine, scripts.end_daemon(machine))
    except MachineFault as fault:
        return [fault]
    return start(cluster, [machine], token, connected, report)


def _secrets(cluster: Cluster, token: str) -> str:
    """Return the standard input of the scripts: token and CA certificate. Raises `DoraError`."""
    if cluster.authority in ("", NO_TLS):
        return f"{token}\n"
    try:
        with open(cluster.authority, encoding="ascii") as file:
            return f"{token}\n{file.read()}"
    except (OSError, UnicodeDecodeError) as error:
        raise DoraError(f"cannot read {cluster.authority}: {error}") from None


def _ended(machines: Iterable[Machine]) -> list[MachineFault]:
    """Return faults for the daemons that have ended already, with the last line of their logs."""
    results, faults = on_all(machines, lambda machine: run(machine, scripts.log_of_ended_daemon(machine)))
    for machine, output in results:
        if output.strip():
            last = output.strip().splitlines()[-1].removeprefix("error: ")
            faults.append(MachineFault(machine, f"the daemon could not be started: {last}"))
    return faults


def _not_connected(cluster: Cluster, machines: Collection[Machine]) -> list[MachineFault]:
    """Return faults for daemons that live and are not connected, with the last line of their logs."""
    reason = (
        f"its daemon has not reached the coordinator at {cluster.address}:{cluster.port} within "
        f"{START_TIMEOUT:.0f} s"
    )
    results, _ = on_all(machines, lambda machine: run(machine, scripts.last_log_line(machine)))
    says = {machine.id: f"; it says: {output.strip()}" for machine, output in results if output.strip()}
    return [MachineFault(machine, reason + says.get(machine.id, "")) for machine in machines]


def _without(machines: Iterable[Machine], faults: Iterable[MachineFault]) -> list[Machine]:
    """Return the machines on which nothing went wrong so far."""
    failed = {fault.machine.id for fault in faults}
    return [machine for machine in machines if machine.id not in failed]
