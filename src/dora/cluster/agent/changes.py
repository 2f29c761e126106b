"""Changes of a running dataflow in its worker: a local operation, or prepare and apply for the coordinator.

For a dataflow on several machines the coordinator sends the whole new dataflow, as it would be started. The
nodes of this machine differ from that: they have been built, and run in another folder. So `localized`
combines both.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from dora.cluster.agent.partition import LocalPartition, check_folder, receives_from_others
from dora.cluster.agent.reports import Reports
from dora.cluster.protocol import (
    Apply,
    ChangeRequest,
    ChangeResult,
    JoinCluster,
    Partition,
    Prepare,
    ProposedChange,
    StartRun,
)
from dora.daemon.build.build import build
from dora.daemon.client import DaemonClient
from dora.daemon.daemon import Daemon
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import BuildOptions
from dora.daemon.supervisor import events as on
from dora.dataflow.edit import Change, make_change, with_built
from dora.dataflow.loader import missing_files
from dora.dataflow.model import Dataflow, NodeSpec, OperatorSpec, Program
from dora.errors import ConnectError, DataflowError, DoraError
from dora.wire.daemon_protocol import (
    ApplyChange,
    ChangeDataflow,
    CheckChange,
    Conflict,
    Done,
    GetModel,
    LeaderHandover,
    Model,
    Placement,
    ReplaceNode,
    RetireNode,
    SentCounts,
)
from dora.wire.decoders import from_plain
from dora.wire.operations import (
    AddOperation,
    Operation,
    OperationResult,
    RemoveOperation,
    ReplaceOperation,
    RestartOperation,
    StopOperation,
)


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

    def prepare(self, run: DaemonClient, proposal: ProposedChange) -> dict[str, dict[str, int]]:
        """Prepare a change, and return how much the nodes of this machine have sent.

        Raises `DoraError` if the change is impossible. Nothing has changed then.
        """
        run.set_patience(None)
        with self._lock:
            self._built.clear()  # of a change that was not applied
            wanted, local = self._local(run, proposal)
            fresh = self._starting(proposal, wanted)
            machines, machine = proposal.machines, self._partition.machine
            hearing = [node.id for node in wanted.nodes if receives_from_others(node, machines, machine)]
            self._partition.choose_ports(
                hearing, anew=[node.id for node in fresh if node.id != proposal.replaced]
            )
            placement = Placement(machines, proposal.generations, self._partition.remote({}))
            answer = run.ask(CheckChange(proposal.revision, msgspec.to_builtins(local), placement))
            if isinstance(answer, Conflict):
                raise DoraError("the dataflow has changed meanwhile; try again")
            assert isinstance(answer, SentCounts)
            return answer.counts

    def apply(self, run: DaemonClient, message: Apply) -> OperationResult:
        """Apply a committed change; raises `DoraError`.

        If a replacement fails, the change is not applied. Any other change is applied even then: the added
        node or link has failed, and the coordinator undoes it by a further change.
        """
        run.set_patience(None)
        proposal, local_partition = message.proposal, self._partition
        done = OperationResult(proposal.replaced)
        with self._lock:
            if proposal.revision <= local_partition.revision:
                return done
            _, local = self._local(run, proposal)
            placement = Placement(
                proposal.machines, proposal.generations, local_partition.remote(message.endpoints)
            )
            dataflow = msgspec.to_builtins(local)
            if proposal.replaced and proposal.machines.get(proposal.replaced) == local_partition.machine:
                base = proposal.revision - 1
                request = ReplaceNode(base, dataflow, proposal.replaced, proposal.grace, placement)
                if isinstance(run.ask(request), Conflict):
                    raise DoraError("the dataflow has changed meanwhile; try again")
                self._mark_applied(proposal)
                return done
            try:
                run.ask(
                    ApplyChange(
                        proposal.revision,
                        dataflow,
                        placement,
                        message.sent,
                        proposal.added,
                        proposal.removed,
                    )
                )
            except ConnectError:
                raise
            except DoraError:
                self._mark_applied(proposal)
                raise
            self._mark_applied(proposal)
            return done

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

    def _local(self, run: DaemonClient, proposal: ProposedChange) -> tuple[Dataflow, Dataflow]:
        """Return the new dataflow as the coordinator knows it, and as this machine runs it."""
        model = run.ask(GetModel())
        assert isinstance(model, Model)
        running = from_plain(model.dataflow, Dataflow)
        wanted = from_plain(proposal.dataflow, Dataflow)
        built: dict[str, NodeSpec] = {}
        for node in self._starting(proposal, wanted):
            if node.id not in self._built:
                self._built[node.id] = self._build(running, wanted, node, proposal.programs, model.uv)
            built[node.id] = self._built[node.id]
        here = {
            node_id for node_id, machine in proposal.machines.items() if machine == self._partition.machine
        }
        return wanted, localized(wanted, running, here, built)

    def _build(
        self, running: Dataflow, wanted: Dataflow, node: NodeSpec, programs: Any, uv: bool
    ) -> NodeSpec:
        """Build a node, and check that its program exists; return the node as built."""
        check_folder(wanted, node, self._partition.machine)
        only = msgspec.structs.replace(
            running,
            nodes=(node,),
            programs=from_plain(programs, tuple[Program, ...]),
        )
        looked = msgspec.structs.replace(only, working_dir=running.directory_of(node))
        if missing := missing_files(looked, copied=(node.id,)):
            raise DataflowError(problems=tuple(missing))
        built = build(only, self._on_log, BuildOptions(uv=uv), session=False).dataflow
        return built.node(node.id)


def localized(
    wanted: Dataflow, running: Dataflow, here: Collection[str], built: Mapping[str, NodeSpec]
) -> Dataflow:
    """Return a dataflow as a machine runs it: running nodes that are ``here`` keep their programs.

    ``built`` are the new nodes, as built.
    """
    known = {node.id: node for node in running.nodes if node.id in here}

    def local(node: NodeSpec) -> NodeSpec:
        if (fresh := built.get(node.id)) is not None:
            return fresh
        if (former := known.get(node.id)) is None:
            return node
        operators = {operator.id: operator for operator in node.operators}
        return msgspec.structs.replace(
            former,
            inputs=node.inputs,
            operators=tuple(_rewired(operator, operators[operator.id]) for operator in former.operators),
        )

    return msgspec.structs.replace(
        running,
        nodes=tuple(local(node) for node in wanted.nodes),
        descriptor=wanted.descriptor,
        types=wanted.types,
    )


def _rewired(operator: OperatorSpec, wanted: OperatorSpec) -> OperatorSpec:
    return msgspec.structs.replace(operator, inputs=wanted.inputs)


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

    def start(self, message: JoinCluster | ChangeRequest | Prepare | Apply) -> None:
        """Start a change in a thread, which reports the result."""
        thread = threading.Thread(target=self._run, args=(message,), name="dora-change", daemon=True)
        thread.start()
        self._threads = [thread, *(other for other in self._threads if other.is_alive())]

    def drain(self) -> None:
        """Wait for the answers of pending changes, when the dataflow has ended here."""
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self, message: JoinCluster | ChangeRequest | Prepare | Apply) -> None:
        if self._daemon is None:
            self._reports.change_result(
                ChangeResult(message.ticket, error="the dataflow is still starting")
            )
            return
        try:
            with DaemonClient(self._daemon.socket) as run:
                answer = self._handle(run, message)
        except DoraError as error:
            self._reports.change_result(ChangeResult(message.ticket, error=str(error)))
        except Exception as error:  # noqa: BLE001 - the coordinator waits for the answer
            trouble = f"internal error: {type(error).__name__}: {error}"
            self._reports.change_result(ChangeResult(message.ticket, error=trouble))
        else:
            self._reports.change_result(answer)

    def _handle(
        self, run: DaemonClient, message: JoinCluster | ChangeRequest | Prepare | Apply
    ) -> ChangeResult:
        """Raises `DoraError`."""
        if isinstance(message, JoinCluster):
            with self._lock:
                if self.local_partition is None:
                    self.local_partition = self._join_cluster(run, message.partition)
            return ChangeResult(message.ticket, OperationResult(""))
        changes = self._changes
        if isinstance(message, ChangeRequest):
            by_coordinator = changes is not None
            outcome = apply_operation(
                run, message.operation, os.environ, self._on_log, by_coordinator=by_coordinator, placed=True
            )
            return ChangeResult(message.ticket, outcome)
        if changes is None:
            raise DoraError("this dataflow runs on one machine")
        if isinstance(message, Prepare):
            return ChangeResult(message.ticket, sent=changes.prepare(run, message.proposal))
        return ChangeResult(message.ticket, changes.apply(run, message))

    def _join_cluster(self, run: DaemonClient, partition: Partition) -> LocalPartition:
        """Turn the run into the first partition of a distributed one; raises `DoraError`."""
        daemon = self._daemon
        assert daemon is not None
        run.ask(LeaderHandover(partition.machine))
        daemon.on_changed = None
        model = run.ask(GetModel())
        assert isinstance(model, Model)
        machines = {node["id"]: partition.machine for node in model.dataflow["nodes"]}
        spec = msgspec.structs.replace(
            self._start.spec, machines=machines, revision=model.revision, generations={}
        )
        local_partition = LocalPartition(
            msgspec.structs.replace(self._start, spec=spec, partition=partition),
            self._reports,
            lambda: False,
        )
        local_partition.write_passwords(daemon.context.run_dir)
        self._reports.update(secret=partition.secret)
        local_partition.choose_ports(())
        self._reports.change_applied(
            ProposedChange(
                revision=model.revision, dataflow=model.dataflow, machines=machines, generations={}
            )
        )
        self._changes = PartitionChanges(local_partition, self._reports, self._on_log)
        local_partition.set_daemon(daemon)
        daemon.loop.call_threadsafe(
            lambda: daemon.feed(on.TimePassed())
        )  # which reports the status of its nodes
        return local_partition


# `apply_operation` carries out `dora node add`, its siblings, and requests to the API. It asks the daemon
# for the present dataflow, checks the new one, builds a new node, and asks the daemon to change; the daemon
# decides. If another change came first, it begins again.

_ATTEMPTS: Final = 20


def apply_operation(
    run: DaemonClient,
    operation: Operation,
    environ: Mapping[str, str],
    on_log: Callable[[LogEntry], None],
    *,
    by_coordinator: bool = False,
    placed: bool = False,
) -> OperationResult:
    """Carry out an operation on a running dataflow, and return once it is done; raises `DoraError`.

    ``environ`` gives the values of ``$NAME`` in a YAML text; ``on_log`` gets the output of builds.
    ``by_coordinator``: the dataflow runs on several machines, and the coordinator leads the change.
    ``placed``: the coordinator has chosen this machine. Otherwise a node that names a machine raises
    `NeedsCoordinator`.
    """
    run.set_patience(None)
    if isinstance(operation, (StopOperation, RestartOperation, RemoveOperation)):
        leaves = by_coordinator and isinstance(operation, RemoveOperation)
        answer = run.ask(RetireNode(operation.node, operation.grace) if leaves else operation)
        assert isinstance(answer, Done)
        return OperationResult(operation.node, answer.running)
    for _ in range(_ATTEMPTS):
        model = run.ask(GetModel())
        assert isinstance(model, Model)
        running = from_plain(model.dataflow, Dataflow)
        change, added, removed = make_change(operation, running, environ)
        if not placed and isinstance(operation, (AddOperation, ReplaceOperation)):
            _check_place(change)
        dataflow = _prepare(change, on_log, uv=model.uv)
        request: Any
        if isinstance(operation, ReplaceOperation):
            request = ReplaceNode(
                model.revision, msgspec.to_builtins(dataflow), operation.node, operation.grace
            )
        else:
            request = ChangeDataflow(model.revision, msgspec.to_builtins(dataflow), added, removed)
        if not isinstance(run.ask(request), Conflict):
            return OperationResult(change.node_id, warnings=change.warnings)
    raise DoraError("the dataflow is being changed by somebody else again and again")


class NeedsCoordinator(DoraError):
    """A node names the machine that it is to run on, and only a coordinator can place it there."""


def _check_place(change: Change) -> None:
    node = change.dataflow.node(change.node_id)
    if node.deploy.machine is not None or node.deploy.labels:
        raise NeedsCoordinator(
            f"node `{node.id}` says in its `deploy` on which machine it is to run, and only a coordinator "
            "knows machines; start the dataflow with `dora up` and `dora start`"
        )


def _prepare(change: Change, on_log: Callable[[LogEntry], None], *, uv: bool) -> Dataflow:
    """Build the new node, and check that its program exists; return the new dataflow."""
    if not change.programs:
        return change.dataflow
    only = msgspec.structs.replace(
        change.dataflow, nodes=(change.dataflow.node(change.node_id),), programs=change.programs
    )
    if missing := missing_files(only):
        raise DataflowError(problems=tuple(missing))
    built = build(only, on_log, BuildOptions(uv=uv), session=False).dataflow
    return with_built(change.dataflow, built.node(change.node_id))
