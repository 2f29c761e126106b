"""Decides on changes of the dataflow: nodes and links that come and go, and programs that are replaced.

There is one way: a client proposes the whole dataflow with its revision, `CheckChange` asks whether this
machine can make the change, and `ApplyChange` makes it. A proposal is a state, not a difference.

On one machine the supervisor commits: the client that asks for `ApplyChange` gets `Conflict` if another
change came first. On several machines the coordinator commits. It asks every machine, records the change,
and sends it to all of them; each brings itself to that state (`reconcile`), so a machine that missed some
changes catches up with the last one. All machines add or remove the node, and its own machine starts and
ends its process:

* A node that is added is started with the change; if it cannot be started, the coordinator takes it
  out again.
* A node that has to leave is *retired* first: its machine ends it, as for a removal, and its
  outputs stay open, so that consumers on all machines lose an input and not a source. If the change
  does not come, because the coordinator has died, consumers are informed after `RETIRED_FOR` as if
  the node had been stopped.
* A node that is replaced is replaced by its own machine, before the commit; the others are informed
  afterwards.

A machine that gets its first node joins without any, and then handles a change like any other. A
machine whose last node was taken out is released. The first change that the coordinator sends to a
dataflow on one machine, before a further machine joins, changes nothing else: from then on the coordinator
commits.

The status of a peer names the revision of the dataflow, since the peer may be one change ahead or
behind.
"""

from __future__ import annotations

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import finish, review_work
from dora.daemon.supervisor.events import ChangeRequest, ChangeRequested
from dora.daemon.supervisor.handover import drop_replacement, end_handover, start_replacement
from dora.daemon.supervisor.operations import NODE_GRACE, why_busy, why_no_change, why_only_coordinator
from dora.daemon.supervisor.reconcile import reconcile
from dora.daemon.supervisor.state import NodeState, ProgramChange, RunState
from dora.daemon.supervisor.topology import apply_dataflow, take_parameters
from dora.dataflow.model import Dataflow
from dora.wire.daemon_protocol import CheckChange, Conflict, Ok, Rejected


def request_change(run: RunState, event: ChangeRequested) -> None:
    """Check a change, or make it."""
    request, proposal = event.request, event.request.proposal
    replaces = bool(proposal.replaced) and not event.elsewhere.get(proposal.replaced)
    is_check = isinstance(request, CheckChange)
    by_coordinator = run.coordinated and bool(request.machine)
    is_stale = proposal.revision <= run.revision if is_check else proposal.revision != run.revision + 1
    if by_coordinator and not is_check and (proposal.revision <= run.revision or run.done):
        run.reply(event.connection, Ok())  # this machine has it already
    elif by_coordinator and not is_check and not replaces:
        reconcile(run, event)  # it is committed
    elif reason := _why_not_now(run, request, replaces=replaces):
        run.reply(event.connection, Rejected(reason))
    elif is_stale:
        run.reply(event.connection, Conflict())
    elif reason := _why_no_input(run, event.dataflow, apart_from=proposal.replaced):
        run.reply(event.connection, Rejected(reason))
    elif is_check:
        run.emit(do.AnswerSentCounts(event.connection))
    elif replaces:
        _replace_program(run, event)
    else:
        reconcile(run, event)


def _why_not_now(run: RunState, request: ChangeRequest, *, replaces: bool) -> str:
    """Return why the dataflow cannot be changed now; "" if it can."""
    return (
        why_no_change(run)
        or ("" if request.machine else why_only_coordinator(run))
        or why_busy(run)
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
        grace = NODE_GRACE if proposal.grace is None else proposal.grace
        node.program_change = ProgramChange(event.dataflow, event.connection, grace)
        run.log("info", node, "is being replaced; the replacement is being started")
        start_replacement(run, node)
    else:
        _replace_at_once(run, node, event)


def _replace_at_once(run: RunState, node: NodeState, event: ChangeRequested) -> None:
    """Start the new program of a node that has no process."""
    take_parameters(run, node, event.dataflow)
    apply_dataflow(run, event.dataflow)
    node.restarts.append(run.now)
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
