"""The machines: which are connected, what their daemons report, and which are lost.

The report of a daemon is the truth. A daemon whose connection ended has `LOST_AFTER` to come back: most
likely its process has ended, and all its nodes with it. A silent daemon is out of reach: its nodes go on,
and their links to other machines may work. It is never lost for that alone. It is lost when its machine
comes back with another daemon, when a user gives it up, or after ``DORA_UNREACHABLE_AFTER`` if that is set.

A dataflow on several machines has one record. `DistributedRun` combines the reports of its machines, and
the fleet forwards to each machine what it needs of the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable

import msgspec

from dora._version import __version__
from dora.cluster.coordinator.connections import DaemonConnection, endpoints_for
from dora.cluster.coordinator.distributed_run import DistributedRun
from dora.cluster.coordinator.log_store import log_store_directory
from dora.cluster.coordinator.policy import loss_reason, unreachable_after
from dora.cluster.coordinator.store import Store
from dora.cluster.http_api import DataflowView, MachineView
from dora.cluster.protocol import (
    ACTIVE,
    DEFAULT_MACHINE,
    NO_TICKET,
    AckEnd,
    Apply,
    DaemonRejected,
    DescribeRun,
    DropRecords,
    Endpoints,
    Heartbeat,
    HeartbeatAnswer,
    Hello,
    Introduction,
    Limits,
    MachineLost,
    Partition,
    PeerReport,
    ReleasePartition,
    RunReport,
    RunSpec,
    StartRun,
    StopRun,
    ToDaemon,
    Welcome,
    hello_fault,
)
from dora.cluster.refusal import Refusal
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.names import machine_id_fault
from dora.wire.node_protocol import PROTOCOL_VERSION
from dora.wire.operations import ProposedChange

LOST_AFTER = 5.0  # seconds after which the dataflows of a disconnected daemon count as lost
FIRST_REPORT_AFTER = 10.0  # the same, after the start of the coordinator
FORGET_AFTER = 180.0  # seconds after which a silent machine is no longer shown, unless it runs nodes
REWRITE_AFTER = 2.0  # seconds between attempts to write to a full disk

log = logging.getLogger("dora.coordinator")


class Fleet:
    """All machines of one coordinator. ``on_change`` is called when a machine or a dataflow changes."""

    def __init__(self, store: Store, on_change: Callable[[], None], limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._on_change = on_change
        self.connections: dict[str, DaemonConnection] = {}  # machine → its connection
        self._known: dict[str, DaemonConnection] = {}  # the same, of those that are away too
        self._away_since: dict[str, float] = {}  # machine → since when
        self._loss_timers: dict[str, asyncio.TimerHandle] = {}
        self._views: list[MachineView] | None = None
        self._runs: dict[str, DistributedRun] = {}
        for dataflow_id, daemons in store.active().items():
            self.add(dataflow_id, daemons, store.spec(dataflow_id))
            view = store.find(dataflow_id)
            self._runs[dataflow_id].has_run = view is not None and view.status == "Running"
        self._departed: dict[str, set[str]] = {}  # dataflow → machines that have left it
        self._rewrite: asyncio.TimerHandle | None = None  # the next attempt to write to a full disk
        machines = {machine for run in self._runs.values() for machine in run.daemons}
        for machine in machines | {DEFAULT_MACHINE}:
            if machine == DEFAULT_MACHINE:
                self._declare_lost_after(machine, FIRST_REPORT_AFTER)
            else:
                self._wait_for_silent(machine)

    def views(self) -> list[MachineView]:
        """Return the machines that are connected or waited for, in the order of their ids."""
        if self._views is None:  # cached: making a thousand of them takes milliseconds
            self._views = [
                connection.view(self._away_since.get(machine))
                for machine, connection in sorted(self._known.items())
                if machine in self.connections or machine in self._away_since
            ]
        return list(self._views)

    def answer(self, connection: DaemonConnection, heartbeat: Heartbeat) -> None:
        """Answer a heartbeat with the time, and with the clocks of all machines."""
        received_ns = time.time_ns()
        if heartbeat.clock != connection.clock:
            connection.clock = heartbeat.clock
            self._views = None
        clocks = {name: each.clock for name, each in self.connections.items() if each.clock is not None}
        connection.send(HeartbeatAnswer(heartbeat.sent_ns, received_ns, time.time_ns(), clocks))

    # ----------------------------------------------------------------------- coming and going

    def reject(self, hello: Hello | Introduction, fault: str, send: Callable[[ToDaemon], None]) -> None:
        """Answer a daemon that is rejected, and log why."""
        log.warning("refused the daemon with process id %d: %s", hello.pid, fault)
        send(DaemonRejected(fault))

    def connect(
        self, hello: Hello, send: Callable[[ToDaemon], None], seen: str = "127.0.0.1", server: str = ""
    ) -> DaemonConnection | None:
        """Accept a daemon and its reports; return None, and answer it, if it is rejected."""
        machine = hello.machine
        fault = hello_fault(hello)
        present = self.connections.get(machine)
        if not fault and machine_id_fault(machine):
            fault = f"the machine id `{machine[:60]}` {machine_id_fault(machine)}"
        if not fault and present is not None and present.daemon_id != hello.daemon_id:
            fault = "another daemon is connected to this coordinator already"
            if machine != DEFAULT_MACHINE:
                fault = f"another daemon has connected as machine `{machine}`"
        if fault:
            self.reject(hello, fault, send)
            return None
        if (timer := self._loss_timers.pop(machine, None)) is not None:
            timer.cancel()
        connection = self.connections[machine] = self._known[machine] = DaemonConnection(
            hello, send, seen, server
        )
        since = self._away_since.pop(machine, None)
        self._views = None
        after = f" again, after {time.time() - since:.1f} s" if since is not None else ""
        log.info("machine `%s`: its daemon (process id %d) is connected%s", machine, hello.pid, after)
        send(Welcome(__version__, PROTOCOL_VERSION))
        for report in hello.runs:
            if report.status in ACTIVE and self._store.find(report.dataflow_id) is None:
                send(DescribeRun(report.dataflow_id))  # the store is new
            else:
                self.record(connection, report)
        reported = {report.dataflow_id for report in hello.runs}
        if gone := tuple(
            id for id in hello.retained if id not in reported and self._store.find(id) is None
        ):
            send(DropRecords(gone))
        for run in list(self._runs.values()):
            if run.dataflow_id in reported:
                self._catch_up(run, connection)
                self._send_endpoints_to_others(run, machine)  # its address may be another one
            elif run.is_active_on(machine):
                self._lose(run, machine, loss_reason(run.daemons[machine], hello.daemon_id))
            else:
                run.ending.discard(machine)
                self._start_again(run, machine)
        self._on_change()
        return connection

    def disconnect(self, connection: DaemonConnection, silent: bool = False) -> None:
        """Start to wait for a daemon whose connection ended, or which is ``silent``."""
        if self.connections.get(connection.machine) is not connection:
            return
        del self.connections[connection.machine]
        self._away_since[connection.machine] = time.time()
        self._views = None
        how = "does not answer" if silent else "its daemon is gone"
        log.warning("machine `%s`: %s", connection.machine, how)
        if silent:
            self._wait_for_silent(connection.machine)
        else:
            self._declare_lost_after(connection.machine, LOST_AFTER)
        self._on_change()

    def _wait_for_silent(self, machine: str) -> None:
        """Wait for a machine that is out of reach, without end if it runs nodes and no limit is set."""
        if (limit := unreachable_after(os.environ)) is not None:
            self._declare_lost_after(machine, limit, f"it has not answered for {limit:g} s")
        else:
            self._loss_timers[machine] = asyncio.get_running_loop().call_later(
                FORGET_AFTER, self._forget_silent, machine
            )

    def _forget_silent(self, machine: str) -> None:
        if any(run.is_active_on(machine) for run in self._runs.values()):
            self._wait_for_silent(machine)
        else:
            self._declare_lost(machine, "")

    def _declare_lost_after(
        self, machine: str, seconds: float, reason: str = "its daemon is gone, and all nodes with it"
    ) -> None:
        self._loss_timers[machine] = asyncio.get_running_loop().call_later(
            seconds, self._declare_lost, machine, reason
        )

    def _declare_lost(self, machine: str, reason: str) -> None:
        self._loss_timers.pop(machine, None)
        if machine in self.connections:
            return
        self._away_since.pop(machine, None)
        self._views = None
        for run in list(self._runs.values()):
            if run.is_active_on(machine):
                self._lose(run, machine, reason)
        self._on_change()

    # ----------------------------------------------------------------------- dataflows

    def start(self, dataflow_id: str, spec: RunSpec) -> None:
        """Start a dataflow that is in the store on its machines."""
        run = self._runs[dataflow_id]
        collect_logs = self.collects_logs(run.daemons)
        for machine in run.daemons:
            partition = Partition(machine=machine, secret=run.secret, collect_logs=collect_logs)
            self.connections[machine].send(StartRun(dataflow_id, spec, partition, limits=self._limits))

    def add(self, dataflow_id: str, daemons: dict[str, str], spec: RunSpec) -> None:
        """Follow a dataflow of these daemons, by machine; ``spec`` is its record."""
        run = self._runs[dataflow_id] = DistributedRun(dataflow_id, daemons)
        run.apply_record(spec.machines.values(), spec.revision, daemons)

    def collects_logs(self, machines: Iterable[str]) -> bool:
        """Return whether the coordinator has to collect the logs of a dataflow on these machines."""
        return not all(map(self.is_local, machines))

    def is_local(self, machine: str) -> bool:
        """Return whether a known machine is the coordinator's."""
        return machine in self._known and self._known[machine].is_local

    def stop(self, dataflow_id: str, grace: float | None, force: bool) -> list[str]:
        """Stop a dataflow on its machines; a disconnected one stops it when it is back.

        ``force`` gives up the disconnected ones: the dataflow does not wait for them. Otherwise, if none of
        its machines is connected, nothing is done, and all of them are returned.
        """
        run = self._runs[dataflow_id]
        waited_for = [machine for machine in run.daemons if run.is_active_on(machine)]
        if force:
            for machine in waited_for:
                if machine not in self.connections:
                    self._give_up(run, machine)
        elif not any(machine in self.connections for machine in waited_for):
            return waited_for
        run.stop_sent = StopRun(dataflow_id, grace, force)
        for machine in waited_for:
            self._send(machine, run.stop_sent)
        return []

    def _give_up(self, run: DistributedRun, machine: str) -> None:
        """End the part of a machine that is out of reach, because a user gives it up."""
        reason = "it is out of reach; its nodes are killed when it is back"
        log.warning("dataflow %s: machine `%s` is given up: %s", run.dataflow_id, machine, reason)
        run.give_up(machine, reason)
        self._store_state(run)
        self._on_change()

    def drop(self, view: DataflowView) -> None:
        """Drop what machines store for a dataflow whose record is removed; now, or when they are back."""
        for machine in {*view.machines, *self._departed.pop(view.uuid, ())}:
            self._send(machine, DropRecords((view.uuid,)))

    def record(self, connection: DaemonConnection, report: RunReport) -> None:
        """Process the report of a daemon on a dataflow."""
        machine = connection.machine
        if report.port is not None and report.port != connection.link_port:
            connection.link_port = report.port
            self._views = None
        run = self._runs.get(report.dataflow_id)
        if run is None:
            view = self._store.find(report.dataflow_id)
            # "Finished": it was given up by a user (`stop`).
            is_all = view is not None and view.machines == [machine] and view.status != "Finished"
            if view is None or not (is_all or report.status in ACTIVE):
                connection.send(AckEnd(report.dataflow_id))
                return
            if not is_all:
                connection.send(
                    StopRun(report.dataflow_id, force=True)
                )  # the other machines have gone on without it, or a user has given it up
                return
            # The report of a daemon counts, also about a run that was lost before the daemon came back.
            self.add(
                report.dataflow_id, {machine: connection.daemon_id}, self._store.spec(report.dataflow_id)
            )
            run = self._runs[report.dataflow_id]
        if machine in run.joining:
            self._record_joining(run, machine, report)
            return
        if machine in run.lost or machine not in run.daemons:
            self._record_excluded(run, machine, report)
            return
        run.daemons[machine] = connection.daemon_id
        if report.crashed and run.others(machine):
            self._lose(run, machine, report.reason)
            self._start_again_later(run, machine)
            self._on_change()
            return
        if report.status != run.reports[machine].status or report.reason:
            reason = f", {report.reason}" if report.reason else ""
            text = f"{report.status} on machine `{machine}`{reason}"
            log.info("dataflow %s: %s", report.dataflow_id, text)
        has_changed = report.revision > run.reports[machine].revision
        has_moved = report.port != run.reports[machine].port
        peer_status = run.record(machine, report)
        if not run.is_idle(machine):
            self._forward_status(run, machine, report, peer_status)
        elif report.status not in ACTIVE:
            self._remove_machine(run, machine, report)
        if has_changed or run.is_idle(machine):
            self._release_idle(run)
        if has_changed and report.revision > run.revision:
            connection.send(DescribeRun(report.dataflow_id))  # the record has lost changes
        if has_changed:  # earlier losses may concern nodes that are new to it
            self._send_losses(run, machine)
        if has_moved:
            self._send_endpoints_to_others(run, machine)
        self._send_endpoints_when_prepared(run)
        for lost in list(run.losses):
            self._start_again(run, lost)  # this may have been the last report that it waited for
        self._store_state(run)
        self._on_change()

    def _forward_status(
        self, run: DistributedRun, machine: str, report: RunReport, peer_status: PeerStatus | None
    ) -> None:
        for other in run.others(machine):
            if peer_status is not None:
                self._send(other, PeerReport(report.dataflow_id, machine, peer_status))
            if report.status not in ACTIVE and report.result is None:
                self._send(
                    other, MachineLost(report.dataflow_id, machine, report.reason or "its part has ended")
                )

    def _send_endpoints_when_prepared(self, run: DistributedRun) -> None:
        if not run.endpoints_sent and run.all_prepared():
            run.endpoints_sent = True
            for target in run.daemons:
                self._send_endpoints(run, target)
                self._send_change(run, target)

    def _lose(self, run: DistributedRun, machine: str, reason: str) -> None:
        log.warning("dataflow %s: machine `%s` is lost: %s", run.dataflow_id, machine, reason)
        if run.is_idle(machine):  # it had no nodes
            self._remove_machine(run, machine, RunReport(run.dataflow_id, "Finished"))
            return
        run.mark_lost(machine, reason)
        for other in run.others(machine):
            self._send_loss(run, machine, other)
        self._store_state(run)

    def _start_again_later(self, run: DistributedRun, machine: str) -> None:
        """Start a part again whose process was killed; not at once, since that might happen again."""
        run.resting.add(machine)

        def end_rest() -> None:
            run.resting.discard(machine)
            self._start_again(run, machine)

        asyncio.get_running_loop().call_later(LOST_AFTER, end_rest)

    def _start_again(self, run: DistributedRun, machine: str) -> None:
        """Start the part of a lost machine again, if that is possible now and a node wants it."""
        connection = self.connections.get(machine)
        if connection is None:
            return
        if (former := run.former_part(machine, connection.daemon_id)) is None:
            return
        if all(status.phase == "ended" for status in former.status.nodes.values()):
            del run.losses[machine]
            return
        log.info("dataflow %s: machine `%s` starts its nodes again", run.dataflow_id, machine)
        run.resting.discard(machine)
        run.start_again(machine, connection.daemon_id)
        partition = msgspec.structs.replace(self.partition_for(run.dataflow_id, machine), former=former)
        spec = self._store.spec(run.dataflow_id)
        # First the acknowledgement: a daemon that still reports the former part ignores a `StartRun`.
        connection.send(AckEnd(run.dataflow_id))
        connection.send(StartRun(run.dataflow_id, spec, partition, limits=self._limits))
        self._catch_up(run, connection)
        self._store_state(run)

    def _catch_up(self, run: DistributedRun, connection: DaemonConnection) -> None:
        """Send a machine what it may have missed."""
        if run.stop_sent is not None:
            connection.send(run.stop_sent)
        if run.endpoints_sent:
            if run.others(connection.machine):
                self._send_endpoints(run, connection.machine)
            self._send_change(run, connection.machine)
        for other, report in run.reports.items():
            if other != connection.machine and report.peer_status is not None:
                connection.send(PeerReport(run.dataflow_id, other, report.peer_status))
        self._send_losses(run, connection.machine)

    def _send_losses(self, run: DistributedRun, machine: str) -> None:
        for other in run.lost:
            if other != machine:
                self._send_loss(run, other, machine)

    def _send_loss(self, run: DistributedRun, machine: str, other: str) -> None:
        reason, loss = run.lost[machine], run.losses.get(machine, "")
        self._send(other, MachineLost(run.dataflow_id, machine, reason, loss))

    # ----------------------------------------------------------------------- machines that come and go

    def run(self, dataflow_id: str) -> DistributedRun | None:
        """Return the partitions of a dataflow; None if it has ended."""
        return self._runs.get(dataflow_id)

    def start_joining(self, dataflow_id: str, machine: str) -> None:
        """Start a partition without nodes on a free machine, for a running dataflow.

        It can get nodes once it has joined, and becomes a member once the record places nodes there.
        """
        run, connection = self._runs[dataflow_id], self.connections[machine]
        partition = self.partition_for(dataflow_id, machine)
        run.joining[machine] = RunReport(dataflow_id, "Starting")
        connection.send(
            StartRun(dataflow_id, self._store.spec(dataflow_id), partition, limits=self._limits)
        )
        self._catch_up(run, connection)

    def partition_for(self, dataflow_id: str, machine: str) -> Partition:
        """Return the partition for a machine that joins a running dataflow; raises `Refusal`."""
        view, run = self._store.find(dataflow_id), self._runs.get(dataflow_id)
        if view is None or run is None:
            raise Refusal(409, "the dataflow has ended meanwhile")
        collects_logs, away = (
            view.log_directory == log_store_directory(dataflow_id),
            self.collects_logs([machine]),
        )
        return Partition(
            machine=machine,
            secret=run.secret,
            collect_logs=collects_logs or away,
            own_log_folder=away and not collects_logs,
        )

    def cancel_joining(self, dataflow_id: str, machine: str) -> None:
        """Release a machine that joined, unless it is a member by now."""
        run = self._runs.get(dataflow_id)
        report = run.joining.pop(machine, None) if run is not None else None
        if run is not None and report is not None and report.status in ACTIVE:
            run.ending.add(machine)
            self._send(machine, ReleasePartition(dataflow_id))

    def daemons_after(self, dataflow_id: str, change: ProposedChange) -> dict[str, str]:
        """Return the daemons of a dataflow, by machine, after this change."""
        if (run := self._runs.get(dataflow_id)) is None:
            view = self._store.find(dataflow_id)
            return dict.fromkeys(view.machines if view is not None else (), "")
        known = {machine: connection.daemon_id for machine, connection in self._known.items()}
        return run.daemons_after(change.machines.values(), known)

    def apply_record(self, dataflow_id: str, change: ProposedChange, daemons: dict[str, str]) -> None:
        """Follow a changed record; ``daemons`` are those that `daemons_after` returned."""
        if (run := self._runs.get(dataflow_id)) is not None:
            for machine in daemons.keys() - run.daemons.keys() - self.connections.keys():
                self._wait_for_silent(machine)
            for machine in run.apply_record(change.machines.values(), change.revision, daemons):
                self._mark_departed(run, machine)

    def _record_joining(self, run: DistributedRun, machine: str, report: RunReport) -> None:
        run.joining[machine] = report
        if report.status not in ACTIVE:
            self._send(machine, AckEnd(run.dataflow_id))
        self._on_change()

    def _record_excluded(self, run: DistributedRun, machine: str, report: RunReport) -> None:
        """Stop a partition that counts as lost; once it has ended, acknowledge that."""
        if report.status in ACTIVE and machine not in run.daemons and report.revision > run.revision:
            self._send(machine, DescribeRun(run.dataflow_id))  # the record has lost that it has joined
            return
        if report.status in ACTIVE:
            run.ending.add(machine)
            may_return = machine in run.daemons
            self._send(machine, StopRun(report.dataflow_id, force=True, may_return=may_return))
            return
        run.ending.discard(machine)
        if machine not in run.daemons:
            self._send(machine, AckEnd(report.dataflow_id))
        self._start_again(run, machine)
        self._on_change()

    def _release_idle(self, run: DistributedRun) -> None:
        """Release machines without nodes, once all machines have applied that change.

        Until then receivers on other machines may wait for messages of a node that has left.
        """
        active = [machine for machine in run.daemons if run.is_active_on(machine)]
        if all(run.reports[machine].revision >= run.revision for machine in active):
            for machine in filter(run.is_idle, active):
                self._send(machine, ReleasePartition(run.dataflow_id))

    def _remove_machine(self, run: DistributedRun, machine: str, report: RunReport) -> None:
        run.reports[machine] = report
        run.remove_machine(machine)
        self._mark_departed(run, machine)
        self._send_endpoints_when_prepared(run)
        run.stored = None  # with its machines
        self._store_state(run)
        self._on_change()

    def _mark_departed(self, run: DistributedRun, machine: str) -> None:
        log.info("dataflow %s: machine `%s` has left", run.dataflow_id, machine)
        self._departed.setdefault(run.dataflow_id, set()).add(machine)
        self._send(machine, AckEnd(run.dataflow_id))

    # ----------------------------------------------------------------------- changed dataflows

    def apply_message(
        self,
        dataflow_id: str,
        machine: str,
        ticket: int,
        proposal: ProposedChange,
        sent: dict[str, dict[str, int]],
    ) -> Apply:
        """Return the message by which a machine applies a change."""
        run = self._runs.get(dataflow_id)
        endpoints = {} if run is None else endpoints_for(run, machine, self._known)
        return Apply(dataflow_id, ticket, proposal, endpoints, sent)

    def catch_up_all(self, dataflow_id: str) -> None:
        """Send the recorded dataflow to all machines that have an earlier one."""
        if (run := self._runs.get(dataflow_id)) is not None:
            for machine in run.daemons:
                self._send_change(run, machine)

    def _send_change(self, run: DistributedRun, machine: str) -> None:
        if run.is_active_on(machine) and run.reports[machine].revision < run.revision:
            change = self._store.spec(run.dataflow_id).last_change()
            self._send(machine, self.apply_message(run.dataflow_id, machine, NO_TICKET, change, {}))

    def _send_endpoints_to_others(self, run: DistributedRun, machine: str) -> None:
        if run.endpoints_sent:
            for other in run.others(machine):
                self._send_endpoints(run, other)

    def _send_endpoints(self, run: DistributedRun, target: str) -> None:
        self._send(target, Endpoints(run.dataflow_id, endpoints_for(run, target, self._known)))

    def _send(self, machine: str, message: ToDaemon) -> None:
        if (connection := self.connections.get(machine)) is not None:
            connection.send(message)

    # ----------------------------------------------------------------------- the store

    def _store_state(self, run: DistributedRun) -> None:
        state = run.combined()
        if state == run.stored:
            return
        run.stored = state
        if state.status not in ACTIVE:
            del self._runs[run.dataflow_id]  # first: `acknowledge` takes it for over then
        self.acknowledge(self._store.update(state, run.daemons))

    def acknowledge(self, dataflow_ids: list[str]) -> None:
        """Acknowledge the ends that are written to daemons; schedule another attempt for the others."""
        for dataflow_id in dataflow_ids:
            view = self._store.find(dataflow_id)
            if dataflow_id not in self._runs and view is not None:
                for machine in view.machines or [DEFAULT_MACHINE]:
                    self._send(machine, AckEnd(dataflow_id))
        if self._store.fault and self._rewrite is None:
            log.error(
                "the store %s cannot be written: %s; trying again", self._store.path, self._store.fault
            )
            self._rewrite = asyncio.get_running_loop().call_later(REWRITE_AFTER, self._retry_write)

    def _retry_write(self) -> None:
        self.acknowledge(self._store.flush())
        if self._store.fault:
            self._rewrite = asyncio.get_running_loop().call_later(REWRITE_AFTER, self._retry_write)
        else:
            self._rewrite = None
            log.info("the store can be written again")

    def close(self) -> None:
        for timer in self._loss_timers.values():
            timer.cancel()
        if self._rewrite is not None:
            self._rewrite.cancel()
