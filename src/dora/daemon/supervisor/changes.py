"""Decides on changes of the dataflow: nodes and links that come and go, and programs that are replaced.

There is one way: somebody proposes the whole dataflow with its revision, `CheckChange` asks whether this
machine can make the change, and `ApplyChange` makes it. A proposal is a state, not a difference.

Without a coordinator the supervisor commits: the client that asks for `ApplyChange` gets `Conflict` if
another change came first. A coordinator that has started the dataflow commits its changes. It asks every
machine, records the change, and sends it to all of them, first to the machine of the node concerned; each
brings itself to that state (`reconcile`), so a machine that missed some changes catches up with the last
one:

* A node that leaves is ended by its machine, with its outputs left open, and then taken out everywhere. So
  its consumers lose an input, as on one machine, and not a source.
* A node that comes is started by its machine with the change, and a node that is replaced is replaced
  there. If that is not possible, the coordinator undoes the change by a further one.

A machine that gets its first node joins without any, and then handles a change like any other. A
machine whose last node was taken out is released.

The status of a peer names the revision of the dataflow, since the peer may be one change ahead or
behind.
"""

from __future__ import annotations

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import finish, review_work
from dora.daemon.supervisor.events import ChangeRequest, ChangeRequested
from dora.daemon.supervisor.handover import drop_replacement, end_handover, start_replacement
from dora.daemon.supervisor.operations import (
    NODE_GRACE,
    end_for,
    why_busy,
    why_in_operation,
    why_no_change,
    why_only_coordinator,
)
from dora.daemon.supervisor.reconcile import reconcile
from dora.daemon.supervisor.state import NodeState, PendingOperation, ProgramChange, RunState
from dora.daemon.supervisor.topology import apply_dataflow, take_parameters
from dora.dataflow.model import Dataflow
from dora.wire.daemon_protocol import CheckChange, Conflict, Ok, Rejected
from dora.wire.operations import ProposedChange


def request_change(run: RunState, event: ChangeRequested) -> None:
    """Check a change, or make it."""
    request, proposal = event.request, event.request.proposal
    is_check = isinstance(request, CheckChange)
    is_next = proposal.revision == run.revision + 1
    # A machine that has missed more than one change is brought to the last one, whatever was in between.
    leaving = _leaving(run, event.dataflow) if is_check or is_next else None
    replaces = bool(proposal.replaced) and not event.elsewhere.get(proposal.replaced) and is_next
    by_coordinator = run.coordinated and bool(request.machine)
    is_stale = proposal.revision <= run.revision if is_check else not is_next
    if by_coordinator and not is_check and (proposal.revision <= run.revision or run.done):
        run.reply(event.connection, Ok())  # this machine has it already
    elif by_coordinator and not is_check and not (replaces or leaving):
        reconcile(run, event)  # it is committed
    elif reason := _why_not_now(run, request, leaving, replaces=replaces):
        run.reply(event.connection, Rejected(reason))
    elif is_stale:
        run.reply(event.connection, Conflict())
    elif reason := _why_no_input(run, event.dataflow, apart_from=proposal.replaced):
        run.reply(event.connection, Rejected(reason))
    elif is_check:
        run.emit(do.AnswerSentCounts(event.connection))
    elif leaving is not None:
        end_for(run, leaving, PendingOperation("remove", event.connection, _grace(proposal)))
    elif replaces:
        _replace_program(run, event)
    else:
        reconcile(run, event)


def _leaving(run: RunState, dataflow: Dataflow) -> NodeState | None:
    """Return the node of this machine that is not in a dataflow to come; None if there is none."""
    wanted = {spec.id for spec in dataflow.nodes}
    return next((node for key, node in run.nodes.items() if key not in wanted and not node.machine), None)


def _grace(proposal: ProposedChange) -> float:
    return NODE_GRACE if proposal.grace is None else proposal.grace


def _why_not_now(
    run: RunState, request: ChangeRequest, leaving: NodeState | None, *, replaces: bool
) -> str:
    """Return why the dataflow cannot be changed now; "" if it can."""
    return (
        why_no_change(run)
        or ("" if request.machine else why_only_coordinator(run))
        or ("" if leaving is None else why_in_operation(leaving))
        or why_busy(run, apart_from="" if leaving is None else leaving.id)
        or (_why_operation(run) if replaces else "")
    )


def _why_no_input(run: RunState, dataflow: Dataflow, apart_from: str) -> str:
    """Return why a node cannot get a further input any more; "" if all can."""
    for spec in dataflow.nodes:
        node = run.nodes.get(spec.id)
        if node is None or node.id == apart_from:
            continue
        if {item.id for item in spec.inputs} <= {item.id for item in node.spec.inputs}:
            continue
        name = f"node `{spec.id}`"
        if node.operation is not None:
            return f"{name} is being {node.operation.participle}"
        if node.phase == "ended":
            return f"{name} has ended; `dora node restart {spec.id}` starts it again"
        if node.phase == "running" and (node.closed or run.work_done(node)):
            return f"all inputs of {name} have closed, so it is about to end"
    return ""


# --------------------------------------------------------------------------- another program


def _replace_program(run: RunState, event: ChangeRequested) -> None:
    """Start the new program of a node, which takes over once it is ready."""
    proposal = event.request.proposal
    node = run.nodes.get(proposal.replaced)
    if node is None:
        run.reply(event.connection, Conflict())
        return
    end_handover(run, node)
    if node.alive:
        node.program_change = ProgramChange(event.dataflow, event.connection, _grace(proposal))
        run.log("info", node, "is being replaced; the replacement is being started")
        start_replacement(run, node)
    else:
        _replace_at_once(run, node, event)


def _replace_at_once(run: RunState, node: NodeState, event: ChangeRequested) -> None:
    """Start the new program of a node that has no process."""
    take_parameters(run, node, event.dataflow)
    apply_dataflow(run, event.dataflow)
    run.count_restart(node)
    node.failure = None
    run.disarm_all(node)
    run.log("info", node, "was replaced")
    node.added_by = None
    run.spawn(node)
    run.reply(event.connection, Ok())
    review_work(run, list(run.nodes))


def client_disconnected(run: RunState, connection: int) -> None:
    """Drop the new program that a client waited for; it may never reach its `Node()`."""
    for node in run.nodes.values():
        change = node.program_change
        if change is not None and change.connection == connection and not node.draining:
            run.log("info", node, "is not replaced: the command was broken off")
            drop_replacement(run, node)
            node.program_change = None


def _why_operation(run: RunState) -> str:
    if any(node.operation is not None for node in run.nodes.values()):
        return "a node is being stopped; try again once that is done"
    return ""


def release(run: RunState) -> None:
    """Finish on this machine, if no node of the dataflow is here."""
    if run.begun and all(node.machine for node in run.nodes.values()):
        finish(run)
