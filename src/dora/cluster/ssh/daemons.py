"""Start, end, install and upgrade the daemons of a cluster.

Whether a daemon is there, its machine cannot say as well as the coordinator: ``connected`` returns the ids
of the machines that are connected to it. ``tell`` gets what has been done, a line each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dora.cluster.ssh import scripts
from dora.cluster.ssh.file import Cluster, Machine
from dora.cluster.ssh.ssh import MachineFault, on_all, run, send_file
from dora.errors import DoraError

START_PATIENCE: Final = 30.0  # seconds until a daemon is connected
INSTALL_PATIENCE: Final = 600.0
_LOOK_EVERY: Final = 0.05
_LOOK_THERE_EVERY: Final = 2.0  # by ssh

Connected = Callable[[], set[str]]
Tell = Callable[[str], None]


def start(
    cluster: Cluster, machines: Sequence[Machine], token: str, connected: Connected, tell: Tell
) -> list[MachineFault]:
    """Start daemons and wait until they are connected; return what went wrong."""
    given = _secrets(cluster, token)
    results = on_all(
        machines, lambda machine: run(machine, scripts.start_daemon(cluster, machine), given=given)
    )
    faults = _faults(result for _, result in results)
    failed = {fault.machine.id for fault in faults}
    waiting = [machine for machine in machines if machine.id not in failed]
    return faults + await_daemons(
        cluster, waiting, connected, lambda id: tell(f"{id}: started dora daemon")
    )


def await_daemons(
    cluster: Cluster, machines: Sequence[Machine], connected: Connected, tell: Tell
) -> list[MachineFault]:
    """Wait until the daemons of machines are connected, and tell each id; return what went wrong."""
    waiting = {machine.id: machine for machine in machines}
    faults: list[MachineFault] = []
    begin = looked = time.monotonic()
    while waiting:
        there = connected()
        for id in [id for id in waiting if id in there]:
            tell(id)
            del waiting[id]
        now = time.monotonic()
        if now - looked > _LOOK_THERE_EVERY:
            looked = now
            for fault in _ended(waiting.values()):
                faults.append(fault)
                del waiting[fault.machine.id]
        if now - begin > START_PATIENCE:
            return faults + _not_connected(cluster, waiting.values())
        time.sleep(_LOOK_EVERY)
    return faults


def end(machines: Sequence[Machine], tell: Tell) -> list[MachineFault]:
    """End daemons that do not hear of it from the coordinator; return what went wrong."""
    results = on_all(machines, lambda machine: run(machine, scripts.end_daemon(machine)))
    for machine, said in results:
        if not isinstance(said, MachineFault):
            tell(f"{machine.id}: {'ended dora daemon' if said else 'no daemon ran'}")
    return _faults(result for _, result in results)


def install(
    cluster: Cluster, machines: Sequence[Machine], token: str, connected: Connected, tell: Tell
) -> list[MachineFault]:
    """Make daemons services of systemd, which start with their machines; return what went wrong.

    A daemon that `start` has started is ended before, with what it runs.
    """
    given = _secrets(cluster, token)

    def work(machine: Machine) -> str:
        run(machine, scripts.prepare_install(machine))
        run(machine, scripts.end_daemon(machine))
        return run(machine, scripts.install(cluster, machine), given=given)

    results = on_all(machines, work)
    faults = _faults(result for _, result in results)
    failed = {fault.machine.id for fault in faults}
    waiting = [machine for machine in machines if machine.id not in failed]
    names = {machine.id: scripts.unit_name(machine) for machine in machines}
    return faults + await_daemons(
        cluster, waiting, connected, lambda id: tell(f"{id}: installed {names[id]}, which runs")
    )


def uninstall(machines: Sequence[Machine], tell: Tell) -> list[MachineFault]:
    """End the services and take them away; return what went wrong."""
    results = on_all(machines, lambda machine: run(machine, scripts.uninstall(machine)))
    for machine, said in results:
        if not isinstance(said, MachineFault):
            name = scripts.unit_name(machine)
            tell(f"{machine.id}: {f'there is no {name}' if said.strip() else f'removed {name}'}")
    return _faults(result for _, result in results)


def upgrade(
    cluster: Cluster, machine: Machine, wheel: str, token: str, connected: Connected, tell: Tell
) -> list[MachineFault]:
    """Install a wheel of dora on a machine and start its daemon again; return what went wrong.

    What the daemon runs is stopped.
    """
    try:
        version = send_file(machine, scripts.install_wheel, wheel, INSTALL_PATIENCE)
        tell(f"{machine.id}: installed {version.strip()}")
        run(machine, scripts.end_daemon(machine))
    except MachineFault as fault:
        return [fault]
    return start(cluster, [machine], token, connected, tell)


def _secrets(cluster: Cluster, token: str) -> str:
    """Return what the scripts are told by which a daemon gets in. Raises `DoraError`."""
    if not cluster.authority:
        return f"{token}\n"
    try:
        with open(cluster.authority, encoding="ascii") as file:
            return f"{token}\n{file.read()}"
    except (OSError, UnicodeDecodeError) as error:
        raise DoraError(f"cannot read {cluster.authority}: {error}") from None


def _ended(machines: Iterable[Machine]) -> list[MachineFault]:
    """Return faults for the daemons that have ended already, with what they said last."""
    faults = []
    for machine, said in on_all(machines, lambda machine: run(machine, scripts.look_at_daemon(machine))):
        if isinstance(said, MachineFault):
            faults.append(said)
        elif said.strip():
            last = said.strip().splitlines()[-1].removeprefix("error: ")
            faults.append(MachineFault(machine, f"the daemon could not be started: {last}"))
    return faults


def _not_connected(cluster: Cluster, machines: Iterable[Machine]) -> list[MachineFault]:
    """Return faults for daemons that live and are not connected, with what they said last."""
    reason = (
        f"its daemon has not reached the coordinator at {cluster.address}:{cluster.port} within "
        f"{START_PATIENCE:.0f} s"
    )
    faults = []
    for machine, said in on_all(machines, lambda machine: run(machine, scripts.last_words(machine))):
        last = "" if isinstance(said, MachineFault) else said.strip()
        faults.append(MachineFault(machine, f"{reason}; it says: {last}" if last else reason))
    return faults


def _faults(results: Iterable[object]) -> list[MachineFault]:
    return [result for result in results if isinstance(result, MachineFault)]
