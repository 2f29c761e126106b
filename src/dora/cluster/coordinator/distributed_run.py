"""One dataflow on its machines: what each of them reported, and what that means for the whole. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from dora.cluster.protocol import ACTIVE, RunReport, StopRun
from dora.daemon.supervisor.result import DataflowResult, LinkReport, NodeFailure, joined
from dora.daemon.supervisor.status import PeerStatus


class DistributedRun:
    """The parts of an active dataflow. ``daemons`` is machine → the daemon that was told to start it.

    A running dataflow may get further machines, and leave some. One that is to get its first node is
    ``joining`` until the record says so; its part has no nodes, so nobody waits for it. One whose last node
    was taken out is idle until its part has ended.
    """

    def __init__(self, dataflow_id: str, daemons: dict[str, str]) -> None:
        self.dataflow_id = dataflow_id
        self.daemons = daemons
        self.reports = {machine: RunReport(dataflow_id, "starting") for machine in daemons}
        self.lost: dict[str, str] = {}  # machine → why
        self.endpoints_sent = False  # the machines know each other
        self.stored: RunReport | None = None  # the whole, as it is in the store
        self.stop_sent: StopRun | None = None  # what was said last to those that were there
        self.secret = secrets.token_hex(16)
        self.placed = set(daemons)  # the machines that have nodes, by the record
        self.revision = 0  # of the record, as in `RunSpec`
        self.joining: dict[str, RunReport] = {}
        self.ending: set[str] = set()  # machines whose daemons still have a part that is none any more
        self.departed: list[RunReport] = []  # of machines that are none of its any more

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one machine, or was: the coordinator decides what it becomes."""
        return self.revision > 0 or len(self.daemons) > 1

    def is_active_on(self, machine: str) -> bool:
        """Tell whether a machine has a part of it that has not ended."""
        report = self.reports.get(machine)
        return report is not None and machine not in self.lost and report.status in ACTIVE

    def is_idle(self, machine: str) -> bool:
        """Tell whether a machine has no nodes, while others have."""
        return self.revision > 0 and bool(self.placed) and machine not in self.placed

    def others(self, machine: str) -> list[str]:
        """Return the other machines that still have a part of it, or prepare to."""
        partitions = [*filter(self.is_active_on, self.daemons), *self.joining]
        return [other for other in partitions if other != machine]

    def all_prepared(self) -> bool:
        """Tell whether every machine waits for the others."""
        return all(report.ports is not None for report in self.reports.values())

    def record(self, machine: str, report: RunReport) -> PeerStatus | None:
        """Note what a machine reports; return what the others have not heard yet."""
        before = self.reports.get(machine)
        self.reports[machine] = report
        self.secret = report.secret or self.secret
        known = before.peer_status if before is not None else None
        return report.peer_status if report.peer_status != known else None

    def mark_lost(self, machine: str, reason: str) -> None:
        """Note that a machine is lost."""
        self.lost[machine] = reason
        where = f"machine `{machine}`: " if self.is_distributed else ""
        self.reports[machine] = RunReport(self.dataflow_id, "failed", reason=where + reason)

    def daemons_after(self, machines: Iterable[str], daemon_of: Callable[[str], str]) -> dict[str, str]:
        """Return ``daemons`` as they are once these machines, and no others, have nodes.

        ``daemon_of`` gives the daemon of a machine that joins.
        """
        placed = set(machines) or self.placed
        kept = {
            machine: daemon
            for machine, daemon in self.daemons.items()
            if machine in placed or self.is_active_on(machine)
        }
        return kept | {machine: daemon_of(machine) for machine in sorted(placed & self.joining.keys())}

    def apply_record(self, machines: Iterable[str], revision: int, daemons: dict[str, str]) -> list[str]:
        """Take over a record, with what `daemons_after` has returned; return who has left."""
        self.placed = set(machines) or self.placed
        self.revision = revision
        gone = [machine for machine in self.daemons if machine not in daemons]
        for machine in gone:
            self.remove_machine(machine)
        self.daemons = daemons
        for machine in daemons.keys() & self.joining.keys():
            self.reports[machine] = self.joining.pop(machine)
        return gone

    def remove_machine(self, machine: str) -> None:
        """Note that a machine is none of its any more; how its part ended still counts."""
        self.daemons = {name: daemon for name, daemon in self.daemons.items() if name != machine}
        self.departed.append(self.reports.pop(machine))
        self.lost.pop(machine, None)

    def combined(self) -> RunReport:
        """Return how the dataflow is."""
        reports = list(self.reports.values())
        if any(report.status in ACTIVE for report in reports):
            starting = any(report.status == "starting" for report in reports)
            return RunReport(self.dataflow_id, "starting" if starting else "running")
        reports = [*self.departed, *reports]
        failed = any(report.status == "failed" for report in reports)
        reasons = [report.reason for report in reports if report.reason]
        return RunReport(
            self.dataflow_id,
            "failed" if failed else "finished",
            merged(self.dataflow_id, [report.result for report in reports if report.result is not None]),
            "; ".join(dict.fromkeys(reasons)),
        )


def merged(dataflow_id: str, results: Iterable[DataflowResult]) -> DataflowResult | None:
    """Return the result of the whole; the longest account of failures comes first, None if there is none.

    Each machine gives all failures that it heard of, in the order in which it did.
    """
    ordered = sorted(results, key=lambda result: -len(result.failures))
    if len(ordered) <= 1:
        return ordered[0] if ordered else None
    failures: dict[str, NodeFailure] = {}
    links: list[LinkReport] = []
    undeclared: dict[str, dict[str, int]] = {}
    unlogged: dict[str, int] = {}
    for result in ordered:
        for failure in result.failures:
            failures.setdefault(failure.node_id, failure)
        links += result.links
        undeclared |= result.undeclared
        unlogged |= result.unlogged
    return DataflowResult(
        dataflow_id=dataflow_id,
        failures=tuple(failures.values()),
        links=joined(links),
        undeclared=undeclared,
        unlogged=unlogged,
        stopped=any(result.stopped for result in ordered),
    )
