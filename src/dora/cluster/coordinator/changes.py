"""Changes of running dataflows, on one machine or on several, which the coordinator commits.

A change has three steps, and a dataflow has one change at a time:

1. *Prepare*: each machine checks whether its partition can change, and builds the new program. If a machine
   refuses or is not connected, nothing has changed, and the answer names it.
2. *Commit*: the coordinator writes the new dataflow into the record, which is the truth from then on.
3. *Apply*: the machine of the node concerned makes the change, then the others do. So a node that leaves
   has ended before its receivers lose it, and they know how much it has sent. A machine that is cut off
   makes the change when it is back (`Fleet`), and the answer says so.

If a machine cannot make a committed change, because a program does not start or an input cannot be made, a
further change undoes it: the dataflow as it was before.

A machine that gets its first node *joins* once the others have prepared, and prepares then: it starts a
partition of the present dataflow without nodes. The commit makes it a member; if the change fails, it
leaves again. The `Fleet` releases a machine whose last node was removed.
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
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import Prepare, RunSpec
from dora.cluster.refusal import Refusal
from dora.dataflow.edit import make_change, proposal_of
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.problems import being_replaced
from dora.errors import DoraError, Problem
from dora.wire.daemon_protocol import NodeRemoved, SentCounts
from dora.wire.operations import (
    AddOperation,
    OperationResult,
    ProposedChange,
    RemoveOperation,
    ReplaceOperation,
    TopologyOperation,
    program_key,
)

Sent = dict[str, dict[str, int]]  # node → output → messages that it has sent

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
    proposal = proposal_of(change, operation, revision, spec.generations)
    generations = generations_after(running, dataflow, proposal.generations, revision)
    proposal = msgspec.structs.replace(proposal, machines=placed, generations=generations)
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
    """Return the generations of a dataflow after a change; see `dora.dataflow.layout.Placement`.

    An input that gets another source counts as a new one. The program of a node that stays keeps the number
    that it has in ``generations``.
    """
    known = {node.id: {item.id: item.source for item in node.inputs} for node in before.nodes}
    found: dict[str, int] = {}
    for node in after.nodes:
        sources = known.get(node.id)
        names = {node.id: sources is not None}
        if sources is not None:
            names[program_key(node.id)] = True
        for item in node.inputs:
            names[f"{node.id}/{item.id}"] = sources is not None and sources.get(item.id) == item.source
        for name, was_there in names.items():
            if not was_there:
                found[name] = revision
            elif name in generations:
                found[name] = generations[name]
    return found


def with_current_parameters(spec: RunSpec, proposal: ProposedChange) -> ProposedChange:
    """Return a proposal with the present parameters of its nodes.

    Parameters may have been set since the plan was made. A replaced node gets its YAML's, if any.
    """

    def present(node: dict[str, Any]) -> dict[str, Any]:
        is_replaced = proposal.program_of(node["id"]) != spec.last_change().program_of(node["id"])
        if is_replaced and node.get("parameters"):
            return node
        known = spec.parameters_of(node["id"])
        return node if known is None else {**node, "parameters": known}

    nodes = [present(node) for node in proposal.dataflow["nodes"]]
    return msgspec.structs.replace(proposal, dataflow={**proposal.dataflow, "nodes": nodes})


def undo_of(before: RunSpec, change: ProposedChange, *, has_ended: bool = False) -> ProposedChange:
    """Return the change that undoes another one: the dataflow as it was ``before``.

    A machine that has replaced a program puts the former one back; one that could not goes on with it.
    ``has_ended``: a node that was to leave has ended, so one that comes back is a new one.
    """
    revision, generations = change.revision + 1, before.generations
    if has_ended:
        without = dataflow_of(before.after(change))
        generations = generations_after(without, dataflow_of(before), change.generations, revision)
    return ProposedChange(
        revision=revision,
        dataflow=before.dataflow,
        machines=before.machines,
        generations=generations,
        added=change.removed,
        removed=change.added,
    )


# Seconds in which a machine must join, or end a former partition. Then the change is refused; nothing of it
# has been committed.
JOIN_TIMEOUT = 60.0

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
        # By dataflow: two changes that are made of one record would have the same revision, and the second
        # would take back the first. Weak, so that a lock goes with the last change that holds it or waits
        # for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._replacing: dict[str, str] = {}  # dataflow → the node that is being replaced, or waits for it

    async def apply(self, dataflow_id: str, operation: TopologyOperation) -> OperationResult:
        """Carry out an operation on a dataflow, and return once it is done; raises `Refusal`.

        It waits for changes that were asked for before, except for a replacement: its program may never get
        as far as its `Node()`. It is refused then, as by the supervisor of `dora run`.
        """
        if (node := self._replacing.get(dataflow_id)) is not None:
            raise Refusal(409, being_replaced(node))
        lock = self._locks.setdefault(dataflow_id, asyncio.Lock())
        replaced = operation.node if isinstance(operation, ReplaceOperation) else ""
        if replaced:
            self._replacing[dataflow_id] = replaced
        try:
            async with lock:
                return await self._change(dataflow_id, operation)
        finally:
            if replaced:
                del self._replacing[dataflow_id]

    async def _change(self, dataflow_id: str, operation: TopologyOperation) -> OperationResult:
        now, run = self._store.find(dataflow_id), self._fleet.run(dataflow_id)
        if now is None or run is None:
            raise Refusal(409, "the dataflow has ended meanwhile")
        if now.status != "Running":
            raise Refusal(409, "the dataflow is still starting; try again once all its nodes run")
        plan = plan_change(self._store.spec(dataflow_id), operation, self._fleet.views(), {**os.environ})
        machines = run.members()
        for machine in machines:
            self._requests.connection(machine)
        has_lost = run.has_lost(plan.machine)
        if has_lost and not isinstance(operation, RemoveOperation):
            raise Refusal(409, _lost_text(self._store.spec(dataflow_id), plan.machine))
        sent = await self._prepare(dataflow_id, machines, plan.proposal)
        if has_lost or plan.machine in machines:
            return await self._make_change(dataflow_id, machines, plan, sent)
        try:
            await self._join(run, machines, plan.machine)
            sent |= await self._prepare(dataflow_id, [plan.machine], plan.proposal)
            return await self._make_change(dataflow_id, [*machines, plan.machine], plan, sent)
        finally:
            self._fleet.cancel_joining(dataflow_id, plan.machine)

    async def _join(self, run: DistributedRun, machines: Sequence[str], machine: str) -> None:
        """Start a partition without nodes on a machine; raises `Refusal`."""
        connection = self._requests.connection(machine)
        others = [self._requests.connection(other).tls for other in machines]
        if connection.tls and all(others) and {*others} != {connection.tls}:
            text = f"machine `{machine}` has the certificate of another authority than those on which the "
            raise Refusal(409, f"{text}dataflow runs")
        if any(other != connection.tls for other in others):
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
        self, dataflow_id: str, machines: Sequence[str], plan: PlannedChange, sent: Sent
    ) -> OperationResult:
        """Commit and apply a change on these machines, members and joining ones, which have prepared.

        The machine of the node is the first. If it refuses, the others hear of the undo alone.
        """
        before = self._store.spec(dataflow_id)
        # First the record: before it nothing has happened, and after it all machines will come to it.
        self._commit(dataflow_id, with_current_parameters(before, plan.proposal))
        first = [machine for machine in machines if machine == plan.machine]
        others = [machine for machine in machines if machine != plan.machine]
        answers = await self._apply(dataflow_id, first, plan.proposal, sent)
        removed = next((answer for answer in answers if isinstance(answer, NodeRemoved)), None)
        if removed is not None:
            sent |= {plan.node: removed.sent}
        if not any(map(_is_refusal, answers)):
            answers += await self._apply(dataflow_id, others, plan.proposal, sent)
        try:
            _raise_first(answers)
        except MachineGone as cut:
            raise self._recorded(dataflow_id, cut) from None
        except Refusal as fault:
            undo = undo_of(before, plan.proposal, has_ended=removed is not None)
            raise await self._undo(dataflow_id, machines, undo, fault) from None
        # If there is no first machine, the node was lost with it.
        was_running = bool(first) if removed is None else removed.was_running
        return OperationResult(plan.node, was_running, plan.warnings)

    def _recorded(self, dataflow_id: str, cut: MachineGone) -> MachineGone:
        """Return what to answer if a machine was gone before it had made a committed change."""
        later = ", and that machine makes it when it is back"
        ended = self._requests.has_ended(dataflow_id)
        return MachineGone(cut.status, f"{cut}: the change is recorded{'' if ended else later}")

    async def _prepare(self, dataflow_id: str, machines: Iterable[str], proposal: ProposedChange) -> Sent:
        """Prepare all machines; return how much their nodes have sent. Raises `Refusal`."""

        def prepare(machine: str) -> Awaitable[SentCounts]:
            return self._requests.send(
                dataflow_id, machine, lambda ticket: Prepare(dataflow_id, ticket, proposal)
            )

        # All answers, also after a refusal: no machine still prepares when the next change begins.
        answers = await asyncio.gather(*map(prepare, machines), return_exceptions=True)
        _raise_first(answers)
        sent: Sent = {}
        for answer in answers:
            assert isinstance(answer, SentCounts)
            sent |= answer.counts
        return sent

    def _commit(self, dataflow_id: str, proposal: ProposedChange) -> None:
        """Write a change into the record; raises `Refusal`, and nothing has changed."""
        daemons = self._fleet.daemons_after(dataflow_id, proposal)
        self._store.redefine(dataflow_id, proposal, daemons)  # first: it may refuse
        self._fleet.apply_record(dataflow_id, proposal, daemons)
        self._on_commit(dataflow_id)

    def adopt(self, dataflow_id: str, spec: RunSpec) -> None:
        """Commit the dataflow of a machine that is ahead of the record; raises `Refusal`.

        The record has lost its last changes if the machine of the coordinator has lost its power.
        """
        if spec.revision > self._store.spec(dataflow_id).revision:
            self._commit(dataflow_id, spec.last_change())
            self._fleet.catch_up_all(dataflow_id)

    async def _apply(
        self, dataflow_id: str, machines: Iterable[str], proposal: ProposedChange, sent: Sent
    ) -> list[object]:
        """Apply a committed change on these machines at once; return their answers, and what went wrong."""

        async def apply(machine: str) -> object:
            self._requests.connection(machine, changes=False)  # the record has changed all the same
            return await self._requests.send(
                dataflow_id,
                machine,
                lambda ticket: self._fleet.apply_message(dataflow_id, machine, ticket, proposal, sent),
            )

        return await asyncio.gather(*map(apply, machines), return_exceptions=True)

    async def _undo(
        self, dataflow_id: str, machines: Sequence[str], undo: ProposedChange, fault: Refusal
    ) -> Refusal:
        """Undo a change that a machine could not apply; return the refusal to answer with."""
        try:
            undo = with_current_parameters(self._store.spec(dataflow_id), undo)
            self._commit(dataflow_id, undo)
        except Refusal as refusal:
            return Refusal(fault.status, f"{fault}; it could not be undone: {refusal}")
        for answer in await self._apply(dataflow_id, machines, undo, {}):
            if isinstance(answer, BaseException):
                log.warning("dataflow %s: a change that failed is being undone: %s", dataflow_id, answer)
        return fault


def _is_refusal(answer: object) -> bool:
    """Return whether a machine refuses, and is not just gone."""
    return isinstance(answer, Refusal) and not isinstance(answer, MachineGone)


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
