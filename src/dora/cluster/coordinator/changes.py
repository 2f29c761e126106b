"""Changes of running dataflows: on one machine its daemon commits them, on several the coordinator does.

When a dataflow on one machine gets a node on another one, the coordinator takes over (leader handover).

On several machines a change has three steps, and a dataflow has one change at a time:

1. *Prepare*: each machine checks whether its partition can change, builds the new programs and chooses
   ports. If a machine refuses or is not connected, nothing has changed, and the answer names it.
2. *Commit*: the coordinator writes the new dataflow into the record, which is the truth from then on.
3. *Apply*: each machine makes the change. A machine that is cut off makes it when it is back (`Fleet`), and
   the answer says so. If an added node does not start, a further change removes it again.

The machine of a removed node stops it after step 1. The machine of a replaced node replaces it before
step 2; if that fails, nothing has changed.

A machine that gets its first node *joins* before step 1: it starts a partition of the present dataflow
without nodes, and the other machines report that they have started. The commit makes it a member; if the
change fails, it leaves again. The `Fleet` releases a machine whose last node was removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.coordinator.distributed_run import DistributedRun
from dora.cluster.coordinator.fleet import Fleet
from dora.cluster.coordinator.placement import check_files, place_one, text_between
from dora.cluster.coordinator.policy import dataflow_of
from dora.cluster.coordinator.requests import MachineGone, Requests
from dora.cluster.coordinator.store import Store
from dora.cluster.protocol import (
    DEFAULT_MACHINE,
    DataflowChanged,
    DataflowView,
    JoinCluster,
    MachineView,
    Prepare,
    RunSpec,
)
from dora.cluster.refusal import Refusal
from dora.dataflow.edit import TopologyOperation, make_change, proposal_of, with_node
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import DoraError, Problem
from dora.wire.daemon_protocol import RetireNode, SentCounts
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    Operation,
    OperationResult,
    ProposedChange,
    RemoveOperation,
    ReplaceOperation,
)

# The plan of a change, from the record alone. Pure.


class PlannedChange(msgspec.Struct, frozen=True):
    """A change of one node: the proposal for all machines, and the machine that the node is on."""

    proposal: ProposedChange
    node: str
    machine: str
    warnings: tuple[Problem, ...] = ()


def plan_change(
    spec: RunSpec, operation: TopologyOperation, machines: Sequence[MachineView], environ: Mapping[str, str]
) -> PlannedChange:
    """Return the change that an operation makes; raises `Refusal`.

    ``machines`` are all machines; ``environ`` gives the values of ``$NAME`` in a YAML text.
    """
    running = dataflow_of(spec)
    try:
        change = make_change(operation, running, environ)
    except DoraError as error:
        raise Refusal(409, str(error)) from None
    dataflow, node_id = change.dataflow, change.node_id
    placed = {node.id: spec.machines[node.id] for node in dataflow.nodes if node.id in spec.machines}
    if isinstance(operation, AddOperation):
        placed[node_id] = _place_added(dataflow.node(node_id), spec, machines)
    elif isinstance(operation, ReplaceOperation):
        _check_stays(dataflow.node(node_id), running.node(node_id), placed[node_id], machines)
    if crossing := list(text_between(dataflow, placed)):
        raise Refusal(409, "\n".join(crossing))
    revision = spec.revision + 1
    proposal = msgspec.structs.replace(
        proposal_of(change, operation, revision),
        machines=placed,
        generations=generations_after(running, dataflow, spec.generations, revision),
    )
    where = placed.get(node_id) or spec.machines[node_id]
    return PlannedChange(proposal, node_id, where, change.warnings)


def _place_added(node: NodeSpec, spec: RunSpec, machines: Sequence[MachineView]) -> str:
    """Return the machine of an added node. If it names none, that is the only machine in use."""
    used = set(spec.machines.values())
    if node.deploy.machine is None and not node.deploy.labels and len(used) == 1:
        check_files([node])
        return used.pop()
    return place_one(node, machines)


def _check_stays(node: NodeSpec, former: NodeSpec, machine: str, machines: Sequence[MachineView]) -> None:
    """Raise `Refusal` if a replacement asks for another machine than the node it replaces."""
    if node.deploy == former.deploy:
        return
    wanted = place_one(node, machines)
    if wanted != machine:
        raise Refusal(
            409,
            f"node `{node.id}` runs on machine `{machine}`, and what replaces it is for `{wanted}`; a "
            f"replacement stays on the machine: `dora node remove {node.id}`, and add it again",
        )


def generations_after(
    before: Dataflow, after: Dataflow, generations: Mapping[str, int], revision: int
) -> dict[str, int]:
    """Return the generations of a dataflow after a change; see `dora.dataflow.plan.Placement`.

    An input that gets another source counts as a new one.
    """
    known = {node.id: {item.id: item.source for item in node.inputs} for node in before.nodes}
    found: dict[str, int] = {}
    for node in after.nodes:
        sources = known.get(node.id)
        names = {node.id: sources is not None}
        for item in node.inputs:
            names[f"{node.id}/{item.id}"] = sources is not None and sources.get(item.id) == item.source
        for name, was_there in names.items():
            if not was_there:
                found[name] = revision
            elif name in generations:
                found[name] = generations[name]
    return found


def with_current_parameters(spec: RunSpec, proposal: ProposedChange) -> Any:
    """Return the dataflow of a proposal with the present parameters of its nodes.

    Parameters may have been set since the plan was made. A replaced node gets those of its YAML, if any.
    """

    def present(node: dict[str, Any]) -> dict[str, Any]:
        if node["id"] == proposal.replaced and node.get("parameters"):
            return node
        known = spec.parameters_of(node["id"])
        return node if known is None else {**node, "parameters": known}

    return {**proposal.dataflow, "nodes": [present(node) for node in proposal.dataflow["nodes"]]}


def inverse_of(
    operation: AddOperation | ConnectOperation, node_id: str
) -> RemoveOperation | DisconnectOperation:
    """Return the operation that undoes another one."""
    if isinstance(operation, AddOperation):
        return RemoveOperation(node_id)
    return DisconnectOperation(operation.source, operation.target)


JOIN_TIMEOUT = 60.0  # seconds in which a machine must join, or end a former partition

log = logging.getLogger("dora.coordinator")


class Changes:
    """Changes running dataflows. All methods run in the coordinator's event loop.

    ``on_commit`` is called after each commit; ``changed`` is notified of each change of the fleet.
    """

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        requests: Requests,
        on_commit: Callable[[str], None],
        changed: asyncio.Condition,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._requests = requests
        self._on_commit = on_commit
        self._changed = changed
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def apply(self, view: DataflowView, operation: TopologyOperation) -> OperationResult:
        """Carry out an operation on a dataflow, and return once it is done; raises `Refusal`."""
        machine = next(iter(view.machines), DEFAULT_MACHINE)
        if not (
            self._fleet.is_distributed(view.uuid) or self._needs_other_machine(view, operation, machine)
        ):
            try:
                result: OperationResult = await self._requests.ask(view.uuid, machine, operation)
            except Refusal as refusal:
                if refusal.status != 409 or not self._fleet.is_distributed(view.uuid):
                    raise
                # The coordinator has taken over meanwhile.
            else:
                return result
        lock = self._locks.setdefault(view.uuid, asyncio.Lock())
        async with lock:
            if not self._fleet.is_distributed(view.uuid):
                await self._join_cluster(view.uuid, machine)
            return await self._change_distributed(view, operation)

    def _needs_other_machine(self, view: DataflowView, operation: TopologyOperation, machine: str) -> bool:
        """Return whether an operation adds a node on another machine than this one; raises `Refusal`."""
        if not isinstance(operation, AddOperation):
            return False
        running = dataflow_of(self._store.spec(view.uuid))
        try:
            change = with_node(running, operation, os.environ)
        except DoraError:
            return False  # its machine gives the reason
        node = change.dataflow.node(change.node_id)
        if node.deploy.machine is None and not node.deploy.labels:
            return False
        return place_one(node, self._fleet.views()) != machine

    async def _join_cluster(self, dataflow_id: str, machine: str) -> None:
        """Take over the changes of a dataflow on one machine; raises `Refusal`."""
        partition = self._fleet.partition_for(dataflow_id, machine)
        await self._requests.send(
            dataflow_id, machine, lambda ticket: JoinCluster(dataflow_id, ticket, partition)
        )

    # ----------------------------------------------------------------------- several machines

    async def _change_distributed(
        self, view: DataflowView, operation: TopologyOperation
    ) -> OperationResult:
        dataflow_id = view.uuid
        now, run = self._store.find(dataflow_id), self._fleet.run(dataflow_id)
        if now is None or run is None:
            raise Refusal(409, "the dataflow has ended meanwhile")
        if now.status != "Running":
            raise Refusal(409, "the dataflow is still starting; try again once all its nodes run")
        plan = plan_change(self._store.spec(dataflow_id), operation, self._fleet.views(), {**os.environ})
        machines = run.members()
        for machine in machines:
            self._requests.connection(machine)
        if plan.machine in machines:
            return await self._make_change(dataflow_id, machines, operation, plan)
        if run.has_lost(plan.machine):
            if not isinstance(operation, RemoveOperation):
                raise Refusal(409, _lost_text(self._store.spec(dataflow_id), plan.machine))
            return await self._make_change(dataflow_id, machines, operation, plan)
        try:
            await self._join(run, machines, plan.machine)
            return await self._make_change(dataflow_id, [*machines, plan.machine], operation, plan)
        finally:
            self._fleet.cancel_joining(dataflow_id, plan.machine)

    async def _join(self, run: DistributedRun, machines: Sequence[str], machine: str) -> None:
        """Start a partition without nodes on a machine; raises `Refusal`."""
        connection = self._requests.connection(machine)
        if any(self._requests.connection(other).tls != connection.tls for other in machines):
            ours, theirs = ("uses TLS", "do not") if connection.tls else ("does not use TLS", "do")
            raise Refusal(409, f"machine `{machine}` {ours}, and those on which the dataflow runs {theirs}")
        await self._wait_for(lambda: run.is_free(machine), run.dataflow_id, connection)
        self._fleet.start_joining(run.dataflow_id, machine)
        await self._wait_for(lambda: run.has_joined(machine), run.dataflow_id, connection)
        if fault := run.join_fault(machine):
            raise Refusal(409, f"machine `{machine}` cannot take part: {fault}")

    async def _wait_for(
        self, condition: Callable[[], bool], dataflow_id: str, connection: DaemonConnection
    ) -> None:
        """Wait for a condition on a machine; raises `Refusal` if it does not come true."""
        machine = connection.machine

        def is_over() -> bool:
            return (
                condition()
                or self._requests.has_ended(dataflow_id)
                or self._fleet.connections.get(machine) is not connection
            )

        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(is_over), JOIN_TIMEOUT)
        except TimeoutError:
            raise Refusal(
                503, f"machine `{machine}` is not ready to take part after {JOIN_TIMEOUT:g} s; try again"
            ) from None
        if self._requests.has_ended(dataflow_id):
            raise Refusal(409, "the dataflow has ended meanwhile")
        if self._fleet.connections.get(machine) is not connection:
            raise MachineGone(
                503,
                f"the connection to machine `{machine}` broke during the change, and nothing was changed",
            )

    async def _make_change(
        self, dataflow_id: str, machines: Sequence[str], operation: TopologyOperation, plan: PlannedChange
    ) -> OperationResult:
        """Prepare, commit and apply a change on these machines, members and joining ones."""
        sent = await self._prepare(dataflow_id, machines, plan.proposal)
        was_running = True
        if isinstance(operation, RemoveOperation) and plan.machine not in machines:
            was_running = False  # the node was lost with its machine
        elif isinstance(operation, RemoveOperation):
            retire = RetireNode(operation.node, operation.grace)
            retired: OperationResult = await self._requests.ask(dataflow_id, plan.machine, retire)
            was_running = retired.was_running
            sent = await self._recount(dataflow_id, plan, sent)
        elif plan.proposal.replaced:
            await self._apply(dataflow_id, plan.machine, plan.proposal, sent)
        try:
            self._commit_proposal(dataflow_id, plan.proposal)
        except Refusal as refusal:
            raise Refusal(refusal.status, f"{refusal}{_half_done(operation, plan)}") from None
        if (fault := await self._apply_on_all(dataflow_id, machines, plan.proposal, sent)) is not None:
            if isinstance(operation, (AddOperation, ConnectOperation)) and not isinstance(
                fault, MachineGone
            ):
                fault = await self._revert(dataflow_id, machines, operation, plan, fault)
            raise fault
        return OperationResult(plan.node, was_running, plan.warnings)

    async def _prepare(
        self, dataflow_id: str, machines: Iterable[str], proposal: ProposedChange
    ) -> dict[str, dict[str, int]]:
        """Prepare all machines; return how much their nodes have sent. Raises `Refusal`."""

        def prepare(machine: str) -> Awaitable[SentCounts]:
            return self._requests.send(
                dataflow_id, machine, lambda ticket: Prepare(dataflow_id, ticket, proposal)
            )

        answers = await asyncio.gather(*map(prepare, machines), return_exceptions=True)
        _raise_first(answers)
        sent: dict[str, dict[str, int]] = {}
        for answer in answers:
            assert isinstance(answer, SentCounts)
            sent |= answer.counts
        return sent

    async def _recount(
        self, dataflow_id: str, plan: PlannedChange, sent: dict[str, dict[str, int]]
    ) -> dict[str, dict[str, int]]:
        """Return the counts of `_prepare` again after a node has ended: all that it sent has to arrive."""
        try:
            return sent | await self._prepare(dataflow_id, [plan.machine], plan.proposal)
        except Refusal as refusal:
            log.warning(
                "dataflow %s: the number of messages that `%s` has sent is unknown: %s",
                dataflow_id,
                plan.node,
                refusal,
            )
            return sent

    def _commit_proposal(self, dataflow_id: str, proposal: ProposedChange) -> None:
        """Write the dataflow of a proposal into the record; raises `Refusal`."""
        self.commit(
            DataflowChanged(
                dataflow_id,
                with_current_parameters(self._store.spec(dataflow_id), proposal),
                proposal.machines,
                proposal.revision,
                proposal.generations,
            )
        )

    def commit(self, message: DataflowChanged) -> bool:
        """Write a changed dataflow into its record; return whether that is new. Raises `Refusal`."""
        view = self._store.find(message.dataflow_id)
        if view is None:
            return False
        if (message.revision or len(view.machines) > 1) and (
            message.revision <= self._store.spec(view.uuid).revision
        ):
            return False
        daemons = self._fleet.daemons_after(message)
        self._store.redefine(message, daemons)
        self._fleet.apply_record(message, daemons)
        self._on_commit(message.dataflow_id)
        return True

    def on_dataflow_changed(self, message: DataflowChanged) -> None:
        """Commit a dataflow as a daemon reports it; raises `Refusal`.

        On several machines the report is new only if the coordinator was killed while a node was replaced.
        Then the other machines have to apply it too.
        """
        lock = self._locks.get(message.dataflow_id)
        if self.commit(message) and message.revision and not (lock is not None and lock.locked()):
            self._fleet.catch_up_all(message.dataflow_id)

    async def _apply_on_all(
        self,
        dataflow_id: str,
        machines: Iterable[str],
        proposal: ProposedChange,
        sent: dict[str, dict[str, int]],
    ) -> Refusal | None:
        """Apply a committed change on all machines; return what went wrong."""

        answers = await asyncio.gather(
            *(self._apply(dataflow_id, machine, proposal, sent) for machine in machines),
            return_exceptions=True,
        )
        try:
            _raise_first(answers)
        except MachineGone as cut:
            return MachineGone(
                503, f"{cut}: the change is recorded, and that machine makes it when it is back"
            )
        except Refusal as refusal:
            return refusal
        return None

    async def _apply(
        self, dataflow_id: str, machine: str, proposal: ProposedChange, sent: dict[str, dict[str, int]]
    ) -> None:
        await self._requests.send(
            dataflow_id,
            machine,
            lambda ticket: self._fleet.apply_message(dataflow_id, machine, ticket, proposal, sent),
        )

    async def _revert(
        self,
        dataflow_id: str,
        machines: Sequence[str],
        operation: AddOperation | ConnectOperation,
        plan: PlannedChange,
        fault: Refusal,
    ) -> Refusal:
        """Undo a change that a machine could not apply; return the refusal to answer with."""
        try:
            back = plan_change(
                self._store.spec(dataflow_id), inverse_of(operation, plan.node), self._fleet.views(), {}
            )
            self._commit_proposal(dataflow_id, back.proposal)
        except Refusal as refusal:
            return Refusal(fault.status, f"{fault}; it could not be undone: {refusal}")
        if (again := await self._apply_on_all(dataflow_id, machines, back.proposal, {})) is not None:
            log.warning("dataflow %s: a change that failed is being undone: %s", dataflow_id, again)
        return fault


def _raise_first(answers: Sequence[object]) -> None:
    """Raise the first fault; a reason that a machine gave comes before a lost connection."""
    faults = [answer for answer in answers if isinstance(answer, BaseException)]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, MachineGone)):
        raise fault


def _lost_text(spec: RunSpec, machine: str) -> str:
    nodes = [node_id for node_id, where in spec.machines.items() if where == machine]
    commands = ", ".join(f"`dora node remove {node_id}`" for node_id in nodes)
    return (
        f"machine `{machine}` is lost to the dataflow, with the nodes that it had; take these out "
        f"({commands}), and it can get others"
    )


def _half_done(operation: Operation, plan: PlannedChange) -> str:
    """Return what was done before the commit failed, for the message."""
    if isinstance(operation, RemoveOperation):
        return f"; node `{plan.node}` has been stopped, and is still in the dataflow"
    if plan.proposal.replaced:
        return f"; node `{plan.node}` has been replaced on its machine"
    return ""
