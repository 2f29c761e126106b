"""One dataflow on its machines: combines the reports of the machines into one state. Pure."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping

from dora.cluster.protocol import ACTIVE, RunReport, StopRun
from dora.daemon.supervisor.result import DataflowResult, LinkReport, NodeFailure, joined
from dora.daemon.supervisor.status import FormerPart, PeerStatus, joined_parts
from dora.wire.correlation import uuid7


class DistributedRun:
    """The partitions of an active dataflow. ``daemons`` is machine → the daemon that starts its partition.

    Machines can join and leave a running dataflow. A machine that is to get its first node is ``joining``
    until the record places nodes there; the dataflow does not wait for it. A machine whose last node was
    removed is idle until its partition has ended.
    """

    def __init__(self, dataflow_id: str, daemons: dict[str, str]) -> None:
        self.dataflow_id = dataflow_id
        self.daemons = daemons
        self.reports = {machine: RunReport(dataflow_id, "Starting") for machine in daemons}
        self.lost: dict[str, str] = {}  # machine → why
        self.losses: dict[str, str] = {}  # machine → the id of its loss, if its part may be started again
        self.resting: set[str] = set()  # lost machines whose part is not started again yet
        self.has_run = False  # all its nodes were ready once
        self.endpoints_sent = len(daemons) == 1  # to all machines; a single one needs none
        self.stored: RunReport | None = None  # the combined report that is in the store
        self.stop_sent: StopRun | None = None  # the last one, for machines that come back
        self.secret = secrets.token_hex(16)
        self.placed = set(daemons)  # the machines that have nodes, by the record
        self.revision = 0  # of the record, as in `RunSpec`
        self.joining: dict[str, RunReport] = {}
        self.ending: set[str] = set()  # machines that still end a former partition
        self.departed: list[RunReport] = []  # reports of machines that have left

    @property
    def is_distributed(self) -> bool:
        """Whether there is, or was, more than one machine."""
        return len(self.daemons) > 1 or bool(self.departed)

    def is_active_on(self, machine: str) -> bool:
        """Return whether a machine has a partition that has not ended."""
        report = self.reports.get(machine)
        return report is not None and machine not in self.lost and report.status in ACTIVE

    def is_idle(self, machine: str) -> bool:
        """Return whether a machine has no nodes, while others have."""
        return self.revision > 0 and bool(self.placed) and machine not in self.placed

    def members(self) -> list[str]:
        """Return the machines that run nodes."""
        return [name for name in self.daemons if self.is_active_on(name) and not self.is_idle(name)]

    def has_partition(self, machine: str) -> bool:
        """Return whether a machine has an active partition, or joins."""
        return machine in self.joining or self.is_active_on(machine)

    def has_lost(self, machine: str) -> bool:
        """Return whether a machine has nodes by the record, but its partition has ended."""
        return machine in self.placed and not self.is_active_on(machine)

    def is_free(self, machine: str) -> bool:
        """Return whether a machine has no partition, and none that is still ending."""
        return machine not in self.daemons and machine not in self.ending

    def has_joined(self, machine: str) -> bool:
        """Return whether the partition of a joining machine runs, or has ended."""
        return self.joining[machine].status != "Starting"

    def join_fault(self, machine: str) -> str:
        """Return why the partition of a joining machine has ended; "" if it has not."""
        report = self.joining[machine]
        return "" if report.status in ACTIVE else report.reason or "its part has ended"

    def others(self, machine: str) -> list[str]:
        """Return the other machines that have an active partition, or join."""
        partitions = [*filter(self.is_active_on, self.daemons), *self.joining]
        return [other for other in partitions if other != machine]

    def all_prepared(self) -> bool:
        """Return whether every machine has reported its port for links and waits for the others."""
        return all(report.port is not None for report in self.reports.values())

    def record(self, machine: str, report: RunReport) -> PeerStatus | None:
        """Record the report of a machine; return its peer status if that is new to the others."""
        before = self.reports.get(machine)
        self.reports[machine] = report
        self.secret = report.secret or self.secret
        known = before.peer_status if before is not None else None
        return report.peer_status if report.peer_status != known else None

    def mark_lost(self, machine: str, reason: str) -> None:
        """Record that a machine is lost."""
        self.lost[machine] = reason
        self.losses[machine] = uuid7()
        where = f"machine `{machine}`: " if self.is_distributed else ""
        # Without its port: the others have no links with it until its next part has reported it.
        self.reports[machine] = RunReport(self.dataflow_id, "Failed", reason=where + reason)

    def former_part(self, machine: str, daemon_id: str) -> FormerPart | None:
        """Return what the others know of the part of a lost machine, if this daemon can start it again now.

        That is possible once the former part has ended, and all others have said what they know of it: then
        none of them takes anything more from it.
        """
        is_resting = machine in self.resting and daemon_id == self.daemons.get(machine)
        if self.stop_sent is not None or machine in self.ending or is_resting:
            return None
        loss = self.losses.get(machine)
        others = [name for name in self.daemons if name != machine and self.is_active_on(name)]
        parts = [part for name in others if (part := self.reports[name].lost.get(loss or "")) is not None]
        return joined_parts(parts) if parts and len(parts) == len(others) else None

    def start_again(self, machine: str, daemon_id: str) -> None:
        """Record that the part of a lost machine is started again, by this daemon."""
        del self.lost[machine], self.losses[machine]
        self.daemons[machine] = daemon_id
        self.reports[machine] = RunReport(self.dataflow_id, "Starting", revision=self.revision)
        self.stored = None

    def give_up(self, machine: str, reason: str) -> None:
        """Record that a user does not wait for a machine that is out of reach: its part has ended."""
        self.lost[machine] = reason
        self.reports[machine] = RunReport(
            self.dataflow_id, "Finished", reason=f"machine `{machine}`: {reason}"
        )

    def daemons_after(self, machines: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
        """Return ``daemons`` for the time when exactly these machines have nodes.

        ``known`` has the daemons of machines that are new: of one that joins, or has joined by a change
        that the record had lost; a machine that is not connected has none yet.
        """
        placed = set(machines) or self.placed
        kept = {
            machine: daemon
            for machine, daemon in self.daemons.items()
            if machine in placed or self.is_active_on(machine)
        }
        return kept | {machine: known.get(machine, "") for machine in sorted(placed - kept.keys())}

    def apply_record(self, machines: Iterable[str], revision: int, daemons: dict[str, str]) -> list[str]:
        """Follow a changed record, with ``daemons`` from `daemons_after`; return the machines that left."""
        self.placed = set(machines) or self.placed
        self.revision = revision
        gone = [machine for machine in self.daemons if machine not in daemons]
        for machine in gone:
            self.remove_machine(machine)
        self.daemons = daemons
        for machine in daemons.keys() - self.reports.keys():
            report = self.joining.pop(machine, None)
            self.reports[machine] = report or RunReport(self.dataflow_id, "Starting")
        return gone

    def remove_machine(self, machine: str) -> None:
        """Remove a machine that has left; how its partition ended still counts."""
        self.daemons = {name: daemon for name, daemon in self.daemons.items() if name != machine}
        self.departed.append(self.reports.pop(machine))
        self.lost.pop(machine, None)
        self.losses.pop(machine, None)

    def combined(self) -> RunReport:
        """Return the report of the dataflow as a whole."""
        reports = list(self.reports.values())
        if any(report.status in ACTIVE for report in reports):
            starting = any(report.status == "Starting" for report in reports) and not self.has_run
            self.has_run = not starting
            # Each machine reports the same first failure.
            reason = next((report.reason for report in reports if report.reason), "")
            return RunReport(self.dataflow_id, "Starting" if starting else "Running", reason=reason)
        reports = [*self.departed, *reports]
        failed = any(report.status == "Failed" for report in reports)
        reasons = [report.reason for report in reports if report.reason]
        return RunReport(
            self.dataflow_id,
            "Failed" if failed else "Finished",
            merged(self.dataflow_id, [report.result for report in reports if report.result is not None]),
            "; ".join(dict.fromkeys(reasons)),
        )


def merged(dataflow_id: str, results: Iterable[DataflowResult]) -> DataflowResult | None:
    """Return one result from the results of all machines, None if there is none.

    Each machine lists all failures that it knows of, in its own order; the longest list comes first.
    """
    ordered = sorted(results, key=lambda result: -len(result.failures))
    if len(ordered) <= 1:
        return ordered[0] if ordered else None
    failures: dict[str, NodeFailure] = {}
    links: list[LinkReport] = []
    undeclared: dict[str, dict[str, int]] = {}
    node_counts: dict[str, dict[str, int]] = {}
    unlogged: dict[str, int] = {}
    losses: dict[str, int] = {}
    for result in ordered:
        for machine, count in result.machine_losses.items():
            losses[machine] = max(count, losses.get(machine, 0))
        for failure in result.failures:
            failures.setdefault(failure.node_id, failure)
        links += result.links
        undeclared |= result.undeclared
        unlogged |= result.unlogged
        for node_id, counts in result.node_counts.items():
            # Each machine knows the restarts of all nodes, and all counters of its own: the largest counts.
            node_counts[node_id] = dict(Counter(node_counts.get(node_id, {})) | Counter(counts))
    return DataflowResult(
        dataflow_id=dataflow_id,
        failures=tuple(failures.values()),
        links=joined(links),
        undeclared=undeclared,
        node_counts=node_counts,
        uncounted_links=sum(result.uncounted_links for result in ordered),
        unlogged=unlogged,
        stopped=any(result.stopped for result in ordered),
        overdue=tuple(node_id for result in ordered for node_id in result.overdue),
        machine_losses=losses,
        strict=ordered[0].strict,
        networks=tuple(network for result in ordered for network in result.networks),
        black_box=tuple(path for result in ordered for path in result.black_box),
    )
