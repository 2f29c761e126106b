"""Changes of running dataflows: on one machine its daemon makes them, on several the coordinator does.

A dataflow on one machine is handed over to the coordinator when it gets a node on another one.

On several machines a change goes through three steps, one change of a dataflow at a time:

1. Each machine *prepares*: it says whether its part can change, builds what is to run there, chooses
   ports. If one of them cannot, or is cut off, nothing has changed, and the answer names it.
2. The *record* is written: from here on the dataflow is what that says.
3. Each machine *becomes* it. One that is cut off now does so when it is back (`Fleet`), and the answer says
   so. If a node that was added does not start there, a further change takes it out again.

A node that is to be removed is ended by its machine after the first step; one that is replaced is replaced
by its machine before the second, and if that fails nothing has changed.

A machine that gets its first node *joins* before the first step: it starts a part as the dataflow is now,
without nodes, and hears from the others that the start is behind them. The rest is a change like any other;
with the record it takes part. If nothing comes of the change, it is sent away again. One whose last node is
taken out is let go by the `Fleet`, once its part knows of it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from dora.cluster.coordinator.fleet import DaemonConnection, Fleet
from dora.cluster.coordinator.placement import check_files, place_one, text_between
from dora.cluster.coordinator.policy import Refusal, dataflow_of
from dora.cluster.coordinator.store import Store
from dora.cluster.protocol import (
    ACTIVE,
    DEFAULT_MACHINE,
    ChangeRequest,
    ChangeResult,
    DataflowChanged,
    DataflowView,
    JoinCluster,
    MachineView,
    Prepare,
    ProposedChange,
    RunSpec,
    ToDaemon,
)
from dora.dataflow.edit import Change, find_node, make_change, with_node, without_node
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import DoraError, Problem
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    Operation,
    OperationResult,
    RemoveOperation,
    ReplaceOperation,
    RestartOperation,
    StopOperation,
)

# What a dataflow on several machines becomes by a wish, and where. Pure.

TopologyOperation = (
    AddOperation | RemoveOperation | ReplaceOperation | ConnectOperation | DisconnectOperation
)


class PlannedChange(msgspec.Struct, frozen=True):
    """``node`` is the one that it is about, and ``machine`` where that is."""

    proposal: ProposedChange
    node: str
    machine: str
    warnings: tuple[Problem, ...] = ()


def plan_change(
    spec: RunSpec, operation: TopologyOperation, machines: Sequence[MachineView], environ: Mapping[str, str]
) -> PlannedChange:
    """Return what a dataflow becomes; raises `Refusal`.

    ``machines`` are those that there are; ``environ`` is what ``$NAME`` in a YAML text refers to.
    """
    running = dataflow_of(spec)
    added = removed = ""
    try:
        if isinstance(operation, RemoveOperation):
            find_node(running, operation.node)
            change = Change(without_node(running, operation.node), operation.node)
        else:
            change, added, removed = make_change(operation, running, environ)
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
    proposal = ProposedChange(
        revision=revision,
        dataflow=msgspec.to_builtins(dataflow),
        machines=placed,
        generations=generations_after(running, dataflow, spec.generations, revision),
        programs=msgspec.to_builtins(change.programs),
        added=added,
        removed=removed,
        replaced=node_id if isinstance(operation, ReplaceOperation) else "",
        grace=operation.grace if isinstance(operation, ReplaceOperation) else None,
    )
    where = placed.get(node_id) or spec.machines[node_id]
    return PlannedChange(proposal, node_id, where, change.warnings)


def _place_added(node: NodeSpec, spec: RunSpec, machines: Sequence[MachineView]) -> str:
    """Return the machine of a node that is added; one that names none stays on the only one in use."""
    used = set(spec.machines.values())
    if node.deploy.machine is None and not node.deploy.labels and len(used) == 1:
        check_files([node])
        return used.pop()
    return place_one(node, machines)


def _check_stays(node: NodeSpec, former: NodeSpec, machine: str, machines: Sequence[MachineView]) -> None:
    """Raise `Refusal` if a node that replaces another one is not for its machine."""
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
    """Return the generations of a dataflow after a change; see `dora.dataflow.plan.RunContext`.

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
    """Return the dataflow of an amendment with the parameters that its nodes have by now.

    They may have been set since it was planned. A node that is replaced has those of its YAML, if any.
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
    """Return the wish that takes back what another one has brought."""
    if isinstance(operation, AddOperation):
        return RemoveOperation(node_id)
    return DisconnectOperation(operation.source, operation.target)


POLL_INTERVAL = 0.5  # seconds between looks whether a dataflow that is being changed still runs
JOIN_TIMEOUT = 60.0  # seconds that a machine may take to join, or to end a part that it had before

log = logging.getLogger("dora.coordinator")


class _Disconnected(Refusal):
    """The connection to a machine broke before it had answered."""


class Changes:
    """Everything happens in the coordinator's event loop.

    ``on_commit`` is called after each record; ``changed`` is notified of what happens in the fleet.
    """

    def __init__(
        self, store: Store, fleet: Fleet, on_commit: Callable[[str], None], changed: asyncio.Condition
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._on_commit = on_commit
        self._changed = changed
        self._asked: dict[int, asyncio.Future[ChangeResult]] = {}
        self._tickets = itertools.count(1)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def on_result(self, message: ChangeResult) -> None:
        """Take the answer of a daemon."""
        if (asked := self._asked.pop(message.ticket, None)) is not None and not asked.done():
            asked.set_result(message)

    async def apply(self, view: DataflowView, operation: Operation) -> OperationResult:
        """Change a dataflow, and return once that is done; raises `Refusal`."""
        machine = next(iter(view.machines), DEFAULT_MACHINE)
        if isinstance(operation, (StopOperation, RestartOperation)):
            where = self._store.spec(view.uuid).machines.get(operation.node, machine)
            return _outcome(await self._request(view.uuid, where, operation))
        if not (
            self._fleet.is_distributed(view.uuid) or self._needs_other_machine(view, operation, machine)
        ):
            answer = await self._request(view.uuid, machine, operation)
            if answer.outcome is not None or not self._fleet.is_distributed(view.uuid):
                return _outcome(answer)
            # It has been handed over meanwhile.
        lock = self._locks.setdefault(view.uuid, asyncio.Lock())
        async with lock:
            if not self._fleet.is_distributed(view.uuid):
                await self._join_cluster(view.uuid, machine)
            return await self._change_distributed(view, operation)

    async def _request(self, dataflow_id: str, machine: str, operation: Operation) -> ChangeResult:
        return await self._ask(
            dataflow_id, machine, lambda ticket: ChangeRequest(dataflow_id, ticket, operation)
        )

    def _needs_other_machine(self, view: DataflowView, operation: Operation, machine: str) -> bool:
        """Tell whether a node is to be added on another machine than this one; raises `Refusal`."""
        if not isinstance(operation, AddOperation):
            return False
        running = dataflow_of(self._store.spec(view.uuid))
        try:
            change = with_node(running, operation.yaml, operation.file, {**os.environ, **operation.env})
        except DoraError:
            return False  # its machine will say so
        node = change.dataflow.node(change.node_id)
        if node.deploy.machine is None and not node.deploy.labels:
            return False
        return place_one(node, self._fleet.views()) != machine

    async def _join_cluster(self, dataflow_id: str, machine: str) -> None:
        """Let the coordinator decide what a dataflow on one machine becomes; raises `Refusal`."""
        partition = self._fleet.partition_for(dataflow_id, machine)
        _outcome(
            await self._ask(
                dataflow_id, machine, lambda ticket: JoinCluster(dataflow_id, ticket, partition)
            )
        )

    # ----------------------------------------------------------------------- several machines

    async def _change_distributed(self, view: DataflowView, operation: Operation) -> OperationResult:
        assert not isinstance(operation, (StopOperation, RestartOperation))
        dataflow_id = view.uuid
        if view.status not in ACTIVE or (now := self._store.find(dataflow_id)) is None:
            raise Refusal(409, "the dataflow has ended meanwhile")
        if now.status != "running":
            raise Refusal(409, "the dataflow is still starting; try again once all its nodes run")
        plan = plan_change(self._store.spec(dataflow_id), operation, self._fleet.views(), {**os.environ})
        machines = self._fleet.partitions(dataflow_id)
        for machine in machines:
            self._connection(machine)
        if plan.machine in machines:
            return await self._make_change(dataflow_id, machines, operation, plan)
        if self._fleet.has_lost(dataflow_id, plan.machine):
            if not isinstance(operation, RemoveOperation):
                raise Refusal(409, _lost_text(self._store.spec(dataflow_id), plan.machine))
            return await self._make_change(dataflow_id, machines, operation, plan)
        try:
            await self._join(dataflow_id, machines, plan)
            return await self._make_change(dataflow_id, [*machines, plan.machine], operation, plan)
        finally:
            self._fleet.cancel_joining(dataflow_id, plan.machine)

    async def _join(self, dataflow_id: str, machines: Sequence[str], plan: PlannedChange) -> None:
        """Let a machine start a part without nodes; raises `Refusal`."""
        fleet, machine = self._fleet, plan.machine
        connection = self._connection(machine)
        if any(self._connection(other).tls != connection.tls for other in machines):
            ours, theirs = ("uses TLS", "do not") if connection.tls else ("does not use TLS", "do")
            raise Refusal(409, f"machine `{machine}` {ours}, and those on which the dataflow runs {theirs}")
        await self._wait_for(lambda: fleet.is_free(dataflow_id, machine), dataflow_id, connection)
        fleet.start_joining(dataflow_id, machine)
        await self._wait_for(lambda: fleet.has_joined(dataflow_id, machine), dataflow_id, connection)
        if fault := fleet.join_fault(dataflow_id, machine):
            raise Refusal(409, f"machine `{machine}` cannot take part: {fault}")

    async def _wait_for(
        self, condition: Callable[[], bool], dataflow_id: str, connection: DaemonConnection
    ) -> None:
        """Wait for something that a machine does; raises `Refusal` if that does not come."""
        machine = connection.machine

        def is_over() -> bool:
            return (
                condition()
                or self._has_ended(dataflow_id)
                or self._fleet.connections.get(machine) is not connection
            )

        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(is_over), JOIN_TIMEOUT)
        except TimeoutError:
            raise Refusal(
                503, f"machine `{machine}` is not ready to take part after {JOIN_TIMEOUT:g} s; try again"
            ) from None
        if self._has_ended(dataflow_id):
            raise Refusal(409, "the dataflow has ended meanwhile")
        if self._fleet.connections.get(machine) is not connection:
            raise _Disconnected(
                503, f"the connection to machine `{machine}` broke amid it, and nothing was changed"
            )

    async def _make_change(
        self, dataflow_id: str, machines: Sequence[str], operation: TopologyOperation, plan: PlannedChange
    ) -> OperationResult:
        """Make a change on these machines, which all take part or are about to."""
        sent = await self._prepare(dataflow_id, machines, plan.proposal)
        was_running = True
        if isinstance(operation, RemoveOperation) and plan.machine not in machines:
            was_running = False  # it was lost with its machine
        elif isinstance(operation, RemoveOperation):
            was_running = _outcome(await self._request(dataflow_id, plan.machine, operation)).was_running
            sent = await self._recount(dataflow_id, plan, sent)
        elif plan.proposal.replaced:
            _outcome(await self._apply(dataflow_id, plan.machine, plan.proposal, sent))
        try:
            self._commit_proposal(dataflow_id, plan.proposal)
        except Refusal as refusal:
            raise Refusal(refusal.status, f"{refusal}{_half_done(operation, plan)}") from None
        if (fault := await self._apply_on_all(dataflow_id, machines, plan.proposal, sent)) is not None:
            if isinstance(operation, (AddOperation, ConnectOperation)) and not isinstance(
                fault, _Disconnected
            ):
                fault = await self._revert(dataflow_id, machines, operation, plan, fault)
            raise fault
        return OperationResult(plan.node, was_running, plan.warnings)

    async def _prepare(
        self, dataflow_id: str, machines: Iterable[str], proposal: ProposedChange
    ) -> dict[str, dict[str, int]]:
        """Let all machines prepare; return what their nodes have sent. Raises `Refusal`."""

        async def prepare(machine: str) -> ChangeResult:
            answer = await self._ask(
                dataflow_id, machine, lambda ticket: Prepare(dataflow_id, ticket, proposal)
            )
            if answer.error:
                raise Refusal(409, answer.error)
            return answer

        answers = await asyncio.gather(*map(prepare, machines), return_exceptions=True)
        _raise_first(answers)
        sent: dict[str, dict[str, int]] = {}
        for answer in answers:
            assert isinstance(answer, ChangeResult)
            sent |= answer.sent
        return sent

    async def _recount(
        self, dataflow_id: str, plan: PlannedChange, sent: dict[str, dict[str, int]]
    ) -> dict[str, dict[str, int]]:
        """Return the same as `_prepare` after a node has ended; what it had sent by then has to arrive."""
        try:
            return sent | await self._prepare(dataflow_id, [plan.machine], plan.proposal)
        except Refusal as refusal:
            log.warning("dataflow %s: what `%s` has sent is not known: %s", dataflow_id, plan.node, refusal)
            return sent

    def _commit_proposal(self, dataflow_id: str, proposal: ProposedChange) -> None:
        """Write down what the dataflow is from now on; raises `Refusal`."""
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
        """Write down what a dataflow is; tell whether that is new. Raises `Refusal`."""
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
        """Take over what a daemon says of a dataflow; raises `Refusal`.

        On several machines that is news only if the coordinator was killed while a node was replaced: the
        others have to hear of it.
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
        """Let all machines take over a change that is recorded; return what went wrong."""

        async def apply(machine: str) -> None:
            _outcome(await self._apply(dataflow_id, machine, proposal, sent))

        answers = await asyncio.gather(*map(apply, machines), return_exceptions=True)
        try:
            _raise_first(answers)
        except _Disconnected as cut:
            return _Disconnected(
                503, f"{cut}: the change is recorded, and that machine makes it when it is back"
            )
        except Refusal as refusal:
            return refusal
        return None

    async def _apply(
        self, dataflow_id: str, machine: str, proposal: ProposedChange, sent: dict[str, dict[str, int]]
    ) -> ChangeResult:
        return await self._ask(
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
        """Undo a change that has failed on its machine; return what to say of it."""
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

    # ----------------------------------------------------------------------- asking

    def _connection(self, machine: str) -> DaemonConnection:
        connection = self._fleet.connections.get(machine)
        if connection is None:
            raise Refusal(
                503,
                f"machine `{machine}` is not connected at the moment, so nothing was changed; try again",
            )
        return connection

    async def _ask(self, dataflow_id: str, machine: str, make: Callable[[int], ToDaemon]) -> ChangeResult:
        """Ask a machine for something and return its answer; raises `Refusal`, `_Disconnected`."""
        connection = self._connection(machine)
        ticket = next(self._tickets)
        asked = self._asked[ticket] = asyncio.get_running_loop().create_future()
        try:
            connection.send(make(ticket))
            while not asked.done():
                await asyncio.wait({asked}, timeout=POLL_INTERVAL)
                if asked.done():
                    break
                if self._has_ended(dataflow_id):
                    raise Refusal(409, "the dataflow has ended meanwhile")
                if self._fleet.connections.get(machine) is not connection:
                    raise _Disconnected(503, f"the connection to machine `{machine}` broke amid it")
                if not self._fleet.has_partition(dataflow_id, machine):
                    raise _Disconnected(503, f"the part on machine `{machine}` has ended amid it")
        finally:
            self._asked.pop(ticket, None)
        answer: ChangeResult = asked.result()
        return answer

    def _has_ended(self, dataflow_id: str) -> bool:
        view = self._store.find(dataflow_id)
        return view is None or view.status not in ACTIVE


def _outcome(answer: ChangeResult) -> OperationResult:
    if answer.outcome is None:
        raise Refusal(409, answer.error)
    return answer.outcome


def _raise_first(answers: Sequence[object]) -> None:
    """Raise what went wrong; a machine's reason before the loss of another one."""
    faults = [answer for answer in answers if isinstance(answer, BaseException)]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, _Disconnected)):
        raise fault


def _lost_text(spec: RunSpec, machine: str) -> str:
    nodes = [node_id for node_id, where in spec.machines.items() if where == machine]
    commands = ", ".join(f"`dora node remove {node_id}`" for node_id in nodes)
    return (
        f"machine `{machine}` is lost to the dataflow, with the nodes that it had; take these out "
        f"({commands}), and it can get others"
    )


def _half_done(operation: Operation, plan: PlannedChange) -> str:
    """Return what has been done before a record could not be written."""
    if isinstance(operation, RemoveOperation):
        return f"; node `{plan.node}` has been stopped, and is still in the dataflow"
    if plan.proposal.replaced:
        return f"; node `{plan.node}` has been replaced on its machine"
    return ""
