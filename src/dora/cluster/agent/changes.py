"""Changes of a running dataflow in its worker: a local operation, or prepare and apply for the coordinator.

For a dataflow on several machines the coordinator sends the whole new dataflow, as it would be started. The
nodes of this machine differ from that: they have been built, and run in another folder. So `localized`
combines both.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from dora.cluster.agent.partition import LocalPartition, check_folder
from dora.cluster.agent.worker_reports import Reports
from dora.cluster.protocol import (
    STILL_STARTING,
    Apply,
    Ask,
    JoinCluster,
    Partition,
    Prepare,
    StartRun,
)
from dora.daemon.apply_operation import apply_operation, build_node, localized, running_dataflow
from dora.daemon.client import DaemonClient
from dora.daemon.daemon import Daemon
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor import events as on
from dora.dataflow.model import Dataflow, NodeSpec, Program
from dora.errors import ConnectError, DoraError
from dora.wire.daemon_protocol import (
    Answer,
    ApplyChange,
    CheckChange,
    Conflict,
    Rejected,
    SentCounts,
)
from dora.wire.decoders import from_plain
from dora.wire.operations import Operation, OperationResult, ProposedChange

_OUTDATED: Final = "the dataflow has changed meanwhile; try again"


class PartitionChanges:
    """Prepares and applies changes of one partition, one at a time. Thread-safe."""

    def __init__(
        self, local_partition: LocalPartition, reports: Reports, on_log: Callable[[LogEntry], None]
    ) -> None:
        self._partition = local_partition
        self._reports = reports
        self._on_log = on_log
        self._lock = threading.Lock()
        self._built: dict[str, NodeSpec] = {}  # of the change that has been prepared

    def prepare(self, run: DaemonClient, proposal: ProposedChange) -> SentCounts:
        """Prepare a change, and return how much the nodes of this machine have sent.

        Raises `DoraError` if the change is impossible. Nothing has changed then.
        """
        run.set_patience(None)
        with self._lock:
            self._built.clear()  # of a change that was not applied
            _, local = self._local(run, proposal)
            self._partition.choose_port()
            answer = run.ask(CheckChange(local, self._partition.machine, self._partition.remote()))
            if isinstance(answer, Conflict):
                raise DoraError(_OUTDATED)
            assert isinstance(answer, SentCounts)
            return answer

    def apply(self, run: DaemonClient, message: Apply) -> OperationResult:
        """Apply a committed change; raises `DoraError`.

        If a replacement fails, the change is not applied. Any other change is applied even then: the added
        node or link has failed, and the coordinator undoes it by a further change.
        """
        run.set_patience(None)
        proposal, partition = message.proposal, self._partition
        replaces = bool(proposal.replaced) and proposal.machines.get(proposal.replaced) == partition.machine
        with self._lock:
            if proposal.revision > partition.revision:
                _, local = self._local(run, proposal)
                partition.set_endpoints(message.endpoints)
                request = ApplyChange(local, partition.machine, partition.remote(), message.sent)
                try:
                    answer = run.ask(request)
                except ConnectError:
                    raise
                except DoraError:
                    if not replaces:
                        self._mark_applied(proposal)
                    raise
                if isinstance(answer, Conflict):
                    raise DoraError(_OUTDATED)
                self._mark_applied(proposal)
            return OperationResult(proposal.replaced)

    def _mark_applied(self, proposal: ProposedChange) -> None:
        self._partition.revision, self._partition.generations = proposal.revision, proposal.generations
        self._built.clear()
        self._reports.change_applied(proposal)

    def _starting(self, proposal: ProposedChange, wanted: Dataflow) -> list[NodeSpec]:
        """Return the nodes whose program the change starts on this machine."""
        generations, machine = self._partition.generations, self._partition.machine
        return [
            node
            for node in wanted.nodes
            if proposal.machines.get(node.id) == machine
            and (
                node.id == proposal.replaced
                or proposal.generations.get(node.id, 0) != generations.get(node.id, 0)
            )
        ]

    def _local(self, run: DaemonClient, proposal: ProposedChange) -> tuple[Dataflow, ProposedChange]:
        """Return the new dataflow as the coordinator knows it, and the proposal as this machine runs it."""
        model, running = running_dataflow(run)
        wanted, machine = from_plain(proposal.dataflow, Dataflow), self._partition.machine
        programs = from_plain(proposal.programs, tuple[Program, ...])
        built: dict[str, NodeSpec] = {}
        for node in self._starting(proposal, wanted):
            if node.id not in self._built:
                check_folder(wanted, node, machine)
                self._built[node.id] = build_node(running, node, programs, self._on_log, uv=model.uv)
            built[node.id] = self._built[node.id]
        here = {node_id for node_id, where in proposal.machines.items() if where == machine}
        dataflow = localized(wanted, running, here, built)
        return wanted, msgspec.structs.replace(
            proposal, dataflow=msgspec.to_builtins(dataflow), programs=[]
        )


# `ChangeRunner` asks the daemon of its own process, like `dora node add` does from outside: so there is one
# way to change a dataflow.

_DRAIN_TIMEOUT: Final = 1.0  # seconds for pending changes once the dataflow has ended here


class ChangeRunner:
    """Carries out the changes that the coordinator asks for, each in a thread of its own.

    ``on_log`` gets the output of builds. ``local_partition`` is None if all nodes run on this machine.
    """

    def __init__(
        self,
        start: StartRun,
        reports: Reports,
        on_log: Callable[[LogEntry], None],
        local_partition: LocalPartition | None,
    ) -> None:
        self._start = start
        self._reports = reports
        self._on_log = on_log
        self.local_partition = local_partition
        self._changes = (
            PartitionChanges(local_partition, reports, on_log) if local_partition is not None else None
        )
        self._lock = threading.Lock()
        self._daemon: Daemon | None = None
        self._threads: list[threading.Thread] = []

    def set_daemon(self, daemon: Daemon) -> None:
        self._daemon = daemon
        if self._changes is None:
            daemon.on_changed = self._reports.dataflow_changed

    def start(self, message: JoinCluster | Ask | Prepare | Apply) -> None:
        """Start a change in a thread, which reports the result."""
        thread = threading.Thread(target=self._run, args=(message,), name="dora-change", daemon=True)
        thread.start()
        self._threads = [thread, *(other for other in self._threads if other.is_alive())]

    def drain(self) -> None:
        """Wait for the answers of pending changes, when the dataflow has ended here."""
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self, message: JoinCluster | Ask | Prepare | Apply) -> None:
        answer: Answer
        try:
            if self._daemon is None:
                raise DoraError(STILL_STARTING)
            with DaemonClient(self._daemon.socket) as run:
                answer = self._handle(run, message)
        except DoraError as error:
            answer = Rejected(str(error))
        except Exception as error:  # noqa: BLE001 - the coordinator waits for the answer
            answer = Rejected(f"internal error: {type(error).__name__}: {error}")
        self._reports.answered(message.ticket, answer)

    def _handle(self, run: DaemonClient, message: JoinCluster | Ask | Prepare | Apply) -> Answer:
        """Raises `DoraError`."""
        if isinstance(message, JoinCluster):
            with self._lock:
                if self.local_partition is None:
                    self.local_partition = self._join_cluster(run, message.partition)
            return OperationResult("")
        if isinstance(message, Ask):
            assert isinstance(message.request, Operation)
            return apply_operation(run, message.request, os.environ, self._on_log, placed=True)
        changes = self._changes
        if changes is None:
            raise DoraError("this dataflow runs on one machine")
        if isinstance(message, Prepare):
            return changes.prepare(run, message.proposal)
        return changes.apply(run, message)

    def _join_cluster(self, run: DaemonClient, partition: Partition) -> LocalPartition:
        """Turn the run into the first partition of a distributed one; raises `DoraError`.

        The first change of the coordinator changes nothing but who commits.
        """
        daemon = self._daemon
        assert daemon is not None
        local_partition = LocalPartition(
            msgspec.structs.replace(self._start, partition=partition), self._reports, lambda: False
        )
        local_partition.choose_port()
        answer: Answer = Conflict()
        while isinstance(answer, Conflict):  # another change came first
            model, _ = running_dataflow(run)
            proposal = ProposedChange(
                revision=model.revision + 1,
                dataflow=model.dataflow,
                machines={node["id"]: partition.machine for node in model.dataflow["nodes"]},
            )
            answer = run.ask(ApplyChange(proposal, partition.machine, local_partition.remote()))
        local_partition.revision, local_partition.generations = proposal.revision, {}
        daemon.on_changed = None
        self._reports.update(secret=partition.secret)
        model, _ = running_dataflow(run)  # with the present parameters
        self._reports.change_applied(msgspec.structs.replace(proposal, dataflow=model.dataflow))
        self._changes = PartitionChanges(local_partition, self._reports, self._on_log)
        local_partition.set_daemon(daemon)
        daemon.loop.call_threadsafe(
            lambda: daemon.feed(on.TimePassed())
        )  # which reports the status of its nodes
        return local_partition
