"""Dataflows at a glance wherever their nodes are, for ``dora top`` and ``dora node``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import click
import msgspec

from dora.cli.afar import PATIENCE, RemoteObserver
from dora.cli.whole import RunningDataflow
from dora.errors import ConnectError, DoraError
from dora.inspection.afar import SnapshotQuery, Snapshots
from dora.inspection.counters import LinkRate
from dora.inspection.load import Load
from dora.inspection.overview import NodeSnapshot, RunSnapshot, RunSnapshots, SnapshotSource


class DataflowSnapshot:
    """One dataflow that is not, or not only, on this machine.

    What a machine tells counts for its nodes, and for the links to them; of one that cannot be asked there
    is what the others know.
    """

    def __init__(
        self, whole: RunningDataflow, machines: Sequence[str], every: float, *, latency: bool
    ) -> None:
        """Begin to look at these machines, if they are not this one. Raises `ConnectError`, `DoraError`."""
        self._whole = whole
        self.name = whole.name
        self.inspection = whole.inspection
        self._here = None if whole.run is None else RunSnapshot(whole.run, latency=latency)
        self._glances: dict[str, Snapshots] = {}
        sessions = {}
        for machine in machines:
            if whole.run is not None and machine == whole.inspection.machine:
                continue
            try:
                sessions[machine] = whole.session(machine)
            except DoraError as error:
                if whole.run is None and len(machines) == 1:
                    raise
                click.echo(f"machine `{machine}` cannot be looked at: {error}", err=True)
        self._looks = RemoteObserver(sessions, lambda _: SnapshotQuery(every, latency))
        self._asked = set(sessions)
        self._deadline = time.monotonic() + every + PATIENCE

    def watch(self, seconds: float) -> None:
        if self._here is not None:
            self._here.watch(seconds)
        else:
            time.sleep(seconds)

    def notice(self) -> None:
        if self._here is not None:
            self._here.notice()

    def pids(self) -> list[int]:
        return [] if self._here is None else self._here.pids()

    def ask(self) -> None:
        """Ask how the nodes are here; raises `ConnectError` once the dataflow has ended."""
        if self._here is not None:
            self._here.ask()
        elif not self._looks.present():
            raise ConnectError(self._looks.last_words())

    def refresh(self, loads: dict[int, Load]) -> tuple[list[NodeSnapshot], list[LinkRate]]:
        """Return nodes and links as they were told last; waits for the first word of each machine."""
        self._take()
        while self._looks.present() - self._glances.keys() and time.monotonic() < self._deadline:
            for item in self._looks.turn():
                if isinstance(item, Snapshots):
                    self._note(item)
        told = {machine: self._glances[machine] for machine in self._looks.present() & self._glances.keys()}
        if self._here is not None:
            self.inspection = self._here.inspection
            nodes, links = self._here.refresh(loads)
        elif told:
            first = next(iter(told.values()))
            self.inspection, nodes, links = first.inspection, first.nodes, first.links
        else:
            return [], []
        return self._merge(nodes, links, told)

    def _merge(
        self, nodes: list[NodeSnapshot], links: list[LinkRate], told: dict[str, Snapshots]
    ) -> tuple[list[NodeSnapshot], list[LinkRate]]:
        nodes_of = {name: {item.node.id: item for item in some.nodes} for name, some in told.items()}
        links_of = {
            name: {(item.link.producer, item.link.consumer): item for item in some.links}
            for name, some in told.items()
        }
        places = {item.node.id: self._whole.machine_of(item.node.id) for item in nodes}
        seen = [nodes_of.get(places[item.node.id], {}).get(item.node.id, item) for item in nodes]
        return (
            [
                msgspec.structs.replace(
                    item, node=msgspec.structs.replace(item.node, machine=places[item.node.id])
                )
                for item in seen
            ],
            [
                links_of.get(places.get(item.link.consumer.partition("/")[0], ""), {}).get(
                    (item.link.producer, item.link.consumer), item
                )
                for item in links
            ],
        )

    def _take(self) -> None:
        for item in self._looks.newest():
            if isinstance(item, Snapshots):
                self._note(item)

    def _note(self, item: Snapshots) -> None:
        if item.inspection.machine in self._asked:
            self._glances[item.inspection.machine] = item
        else:  # the whole dataflow is on one machine, which it does not know the name of
            self._glances.update(dict.fromkeys(self._asked, item))

    def close(self) -> None:
        for fault in self._looks.faults:
            click.echo(fault, err=True)
        if self._here is not None:
            self._here.close()
        self._whole.close()


def overviews_of(
    wholes: Iterable[RunningDataflow], every: float, *, latency: bool = False, node: str = ""
) -> RunSnapshots:
    """Return overviews of dataflows; with ``node`` only of what is needed for that one."""

    def make(whole: RunningDataflow) -> SnapshotSource:
        machines = [whole.machine_of(node)] if node else whole.machines()
        if whole.run is not None and not set(machines) & set(whole.elsewhere()):
            return RunSnapshot(whole.run, latency=latency)
        return DataflowSnapshot(whole, machines, every, latency=latency)

    return RunSnapshots(wholes, make)
