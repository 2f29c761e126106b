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
* Which programs are replaced follows from their numbers (`ProposedChange.program_of`) alone, so it makes no
  difference whether a machine hears of a replacement at once, later, or for the second time. A program is
  handed over if nothing else comes or goes; otherwise the new one starts when the old one has ended.

A machine that gets its first node joins without any, and then handles a change like any other. A
machine whose last node was taken out is released.

The status of a peer names the revision of the dataflow, since the peer may be one change ahead or
behind.
"""

from __future__ import annotations

from typing import Final

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import finish
from dora.daemon.supervisor.events import ChangeRequest, ChangeRequested
from dora.daemon.supervisor.handover import drop_replacement, end_handover, start_replacement
from dora.daemon.supervisor.operations import end_for, grace_of, why_in_operation, why_no_change
from dora.daemon.supervisor.reconcile import reconcile
from dora.daemon.supervisor.state import NodeState, PendingOperation, ProgramChange, RunState
from dora.dataflow.model import Dataflow
from dora.dataflow.problems import being_replaced
from dora.wire.daemon_protocol import CheckChange, Conflict, Ok, Rejected

_ONLY_COORDINATOR: Final = "only the coordinator that started the dataflow changes it"


def request_change(run: RunState, event: ChangeRequested) -> None:
    """Check a change, or make it."""
    request, proposal = event.request, event.request.proposal
    is_check = isinstance(request, CheckChange)
    is_next = proposal.revision == run.revision + 1
    # A machine that has missed more than one change is brought to the last one, whatever was in between.
    leaving = _leaving(run, event.dataflow) if is_check or is_next else None
    replaced = _replaced(run, event)
    by_coordinator = run.coordinated and bool(request.machine)
    is_stale = proposal.revision <= run.revision if is_check or by_coordinator else not is_next
    if by_coordinator and not is_check and (is_stale or run.done):
        run.reply(event.connection, Ok())  # this machine has it already
    elif by_coordinator and not is_check and not (replaced or leaving):
        reconcile(run, event)  # it is committed
    elif reason := _why_not_now(run, request, leaving, replaces=replaced is not None):
        run.reply(event.connection, Rejected(reason))
    elif is_stale:
        run.reply(event.connection, Conflict())
    elif reason := _why_no_input(run, event.dataflow, apart_from=replaced):
        run.reply(event.connection, Rejected(reason))
    elif is_check:
        run.emit(do.AnswerSentCounts(event.connection))
    elif leaving is not None:
        end_for(run, leaving, PendingOperation("remove", event.connection, grace_of(proposal)))
    elif replaced is not None:
        _replace_program(run, replaced, event)
    else:
        reconcile(run, event)


def _replaced(run: RunState, event: ChangeRequested) -> NodeState | None:
    """Return the node of this machine whose program a change replaces, if it brings and takes no node."""
    proposal = event.request.proposal
    wanted = {spec.id: proposal.generations.get(spec.id, 0) for spec in event.dataflow.nodes}
    if wanted != {node.id: node.generation for node in run.nodes.values()}:
        return None
    found = [
        node
        for node in run.nodes.values()
        if not node.machine and node.program != proposal.program_of(node.id)
    ]
    return found[0] if len(found) == 1 else None


def _leaving(run: RunState, dataflow: Dataflow) -> NodeState | None:
    """Return the node of this machine that is not in a dataflow to come; None if there is none."""
    wanted = {spec.id for spec in dataflow.nodes}
    return next((node for key, node in run.nodes.items() if key not in wanted and not node.machine), None)


def _why_not_now(
    run: RunState, request: ChangeRequest, leaving: NodeState | None, *, replaces: bool
) -> str:
    """Return why the dataflow cannot be changed now; "" if it can."""
    return (
        why_no_change(run)
        or ("" if request.machine or not run.coordinated else _ONLY_COORDINATOR)
        or ("" if leaving is None else why_in_operation(leaving))
        or _why_busy(run, apart_from=leaving)
        or (_why_operation(run) if replaces else "")
    )


def _why_busy(run: RunState, apart_from: NodeState | None) -> str:
    """Return which node is being replaced, as a reason to wait; "" if there is none."""
    for node in run.nodes.values():
        if node.program_change is not None and node is not apart_from:
            return being_replaced(node.id)
    return ""


def _why_no_input(run: RunState, dataflow: Dataflow, apart_from: NodeState | None) -> str:
    """Return why a node cannot get a further input any more; "" if all can."""
    for spec in dataflow.nodes:
        node = run.nodes.get(spec.id)
        if node is None or node is apart_from:
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


def _replace_program(run: RunState, node: NodeState, event: ChangeRequested) -> None:
    """Start the new program of a node, which takes over once it is ready."""
    proposal = event.request.proposal
    if not node.alive:
        reconcile(run, event)
        return
    end_handover(run, node)
    node.program_change = ProgramChange(event.dataflow, proposal, event.connection, grace_of(proposal))
    run.log("info", node, "is being replaced; the replacement is being started")
    start_replacement(run, node)


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
