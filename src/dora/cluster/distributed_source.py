"""Snapshots of a dataflow whose nodes are not all on this machine, merged from all of its machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from dora.cluster.remote_observer import ObserverConnection, RemoteObserver
from dora.daemon.client import DaemonClient
from dora.errors import ConnectError
from dora.observe.load import Load
from dora.observe.queries import SnapshotQuery
from dora.observe.snapshot import RunSource, Snapshot, merge
from dora.wire.daemon_protocol import ANSWER_TIMEOUT, Inspection


class DistributedSource:
    """A `SnapshotSource` of one dataflow: its nodes on this machine, if any, and those on others.

    Each machine counts for its own nodes and for the links to them. Of a machine that does not answer, the
    snapshot has what the others know.
    """

    def __init__(
        self,
        name: str,
        inspection: Inspection,
        run: DaemonClient | None,
        connections: Mapping[str, ObserverConnection],
        machine_of: Callable[[str], str],
        every: float,
        *,
        latency: bool,
    ) -> None:
        """Begin. ``run`` is the part of this machine, if there is one; ``connections`` are by machine.

        Raises `ConnectError`, `DoraError`.
        """
        self.name = name
        self.inspection = inspection
        self._machine_of = machine_of
        self._local = None if run is None else RunSource(run, latency=latency)
        self._remote = RemoteObserver(dict(connections), lambda _: SnapshotQuery(every, latency))
        self._newest: dict[str, Snapshot] = {}  # by machine
        self._asked = set(connections)
        self._deadline = time.monotonic() + every + ANSWER_TIMEOUT

    @property
    def faults(self) -> list[str]:
        """Why machines stopped to answer, or measure no latencies."""
        return [*self._remote.faults, *(part.trouble for part in self._newest.values() if part.trouble)]

    def watch(self, seconds: float) -> None:
        if self._local is not None:
            self._local.watch(seconds)
        else:
            time.sleep(seconds)

    def detect_activity(self) -> None:
        if self._local is not None:
            self._local.detect_activity()

    def pids(self) -> list[int]:
        return [] if self._local is None else self._local.pids()

    def ask(self) -> None:
        """Ask the daemon of this machine; raises `ConnectError` once the dataflow has ended."""
        if self._local is not None:
            self._local.ask()
        elif not self._remote.present():
            raise ConnectError(self._remote.reason())

    def refresh(self, loads: dict[int, Load]) -> Snapshot:
        """Return the newest merged snapshot; wait for the first snapshot of each machine."""
        self._keep(self._remote.incoming())
        while self._remote.present() - self._newest.keys() and time.monotonic() < self._deadline:
            self._keep(self._remote.wait())
        remote = {
            machine: self._newest[machine] for machine in self._remote.present() & self._newest.keys()
        }
        if self._local is not None:
            self.inspection = self._local.inspection
            own = self._local.refresh(loads)
        elif remote:
            own = next(iter(remote.values()))
        else:
            return Snapshot("", [], [])
        return merge(own, remote, self._machine_of)

    def _keep(self, items: Sequence[object]) -> None:
        for item in items:
            if not isinstance(item, Snapshot):
                continue
            if item.machine in self._asked:
                self._newest[item.machine] = item
            else:  # the dataflow is on one machine, whose name it does not know
                self._newest.update(dict.fromkeys(self._asked, item))

    def close(self) -> None:
        if self._local is not None:
            self._local.close()
