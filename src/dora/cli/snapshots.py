"""Snapshots of dataflows wherever their nodes are, for ``dora top`` and ``dora node``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from dora.cli.running import RunningDataflow
from dora.cluster.remote_observer import DistributedSource
from dora.errors import DoraError
from dora.observe.snapshot import RunSource, SnapshotSource, SnapshotSources


def snapshots_of(
    dataflows: Iterable[RunningDataflow], every: float, *, latency: bool = False, node: str = ""
) -> SnapshotSources:
    """Return snapshots of dataflows; with ``node``, only of the machine of that node."""

    def make(running: RunningDataflow) -> SnapshotSource:
        machines = [running.machine_of(node)] if node else running.machines()
        if running.run is not None and not set(machines) & set(running.other_machines()):
            return RunSource(running.run, latency=latency)
        return _RemoteSource(running, machines, every, latency=latency)

    return SnapshotSources(dataflows, make)


class _RemoteSource(DistributedSource):
    """Snapshots of one dataflow that is not, or not only, on this machine; prints what goes wrong."""

    def __init__(
        self, running: RunningDataflow, machines: Sequence[str], every: float, *, latency: bool
    ) -> None:
        self._running = running
        connections = {}
        for machine in machines:
            if running.run is not None and machine == running.inspection.machine:
                continue
            try:
                connections[machine] = running.session(machine)
            except DoraError as error:
                if running.run is None and len(machines) == 1:
                    raise
                click.echo(f"machine `{machine}` cannot be observed: {error}", err=True)
        super().__init__(
            running.name,
            running.inspection,
            running.run,
            connections,
            running.machine_of,
            every,
            latency=latency,
        )

    def close(self) -> None:
        for fault in self.faults:
            click.echo(fault, err=True)
        super().close()
        self._running.close()
