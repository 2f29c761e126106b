"""Decides on changes of the dataflow: nodes and links that come and go, and programs that are replaced.

A dataflow on one machine is changed by its supervisor, which answers the client that asks. A
dataflow on several machines is changed by the coordinator. It asks every machine whether its part
can become the new dataflow (`CheckChange`), records the change, and sends it to all of them
(`ApplyChange`). An order holds the whole dataflow and its revision, not a difference, so a machine
that missed some changes catches up with the last one. All machines add or remove the node, and its
own machine starts and ends its process:

* A node that is added is started with the order; if it cannot be started, the coordinator takes it
  out again.
* A node that has to leave is *retired* first: its machine ends it, as for a removal, and its
  outputs stay open, so that consumers on all machines lose an input and not a source. If the order
  does not come, because the coordinator has died, consumers are informed after `RETIRED_FOR` as if
  the node had been stopped.
* A node that is replaced is replaced by its own machine; the others are informed afterwards.

A machine that gets its first node joins without any, and then handles a change like any other. A
machine whose last node was taken out is released. A dataflow on one machine, which its supervisor
changes by itself, is handed over to the coordinator before the first further machine joins.

The status of a peer names the revision of the dataflow, since the peer may be one change ahead or
behind.
"""

from __future__ import annotations

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import finish, review_work
from dora.daemon.supervisor.events import ChangeRequested
from dora.daemon.supervisor.handover import drop_replacement, end_handover, start_replacement
from dora.daemon.supervisor.operations import NODE_GRACE, why_busy, why_no_change, why_only_coordinator
from dora.daemon.supervisor.reconcile import change_locally, reconcile
from dora.daemon.supervisor.state import NodeState, ProgramChange, RunState
from dora.daemon.supervisor.topology import apply_dataflow, take_parameters, with_present_parameters
from dora.dataflow.model import Dataflow
from dora.wire.daemon_protocol import (
    ApplyChange,
    ChangeDataflow,
    CheckChange,
    Conflict,
    Ok,
    Rejected,
    ReplaceNode,
)


def request_change(run: RunState, event: ChangeRequested) -> None:
    """Carry out a change, check it, or decline it."""
    match request := event.request:
        case ChangeDataflow():
            _change_dataflow(run, event, request)
        case ReplaceNode():
            _replace_program(run, event, request)
        case CheckChange():
            _check_change(run, event, request)
        case ApplyChange():
            if request.revision <= run.revision or run.done:  # this machine has it already
                run.reply(event.connection, Ok())
            else:
                reconcile(run, event, request)


def _change_dataflow(run: RunState, event: ChangeRequested, request: ChangeDataflow) -> None:
    reason = why_no_change(run) or why_only_coordinator(run) or why_busy(run)
    if not reason and request.revision != run.revision:
        run.reply(event.connection, Conflict())
    elif reason := reason or _why_no_input(run, event.dataflow):
        run.reply(event.connection, Rejected(reason))
    else:
        change_locally(run, event.connection, request, event.dataflow)


def _check_change(run: RunState, event: ChangeRequested, request: CheckChange) -> None:
    reason = why_no_change(run) or why_busy(run)
    if not reason and request.revision <= run.revision:
        run.reply(event.connection, Conflict())
    elif reason := reason or _why_no_input(run, event.dataflow):
        run.reply(event.connection, Rejected(reason))
    else:
        run.emit(do.AnswerSentCounts(event.connection))


def _why_no_input(run: RunState, dataflow: Dataflow) -> str:
    """Return why a node cannot get a further input any more; "" if all can."""
    for spec in dataflow.nodes:
        node = run.nodes.get(spec.id)
        if node is None or {item.id for item in spec.inputs} <= {item.id for item in node.spec.inputs}:
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


def _replace_program(run: RunState, event: ChangeRequested, request: ReplaceNode) -> None:
    """Start the new program of a node, which takes over once it is ready."""
    node = run.nodes.get(request.node_id)
    reason = (
        why_no_change(run)
        or (why_only_coordinator(run) if request.placement is None else "")
        or why_busy(run)
        or _why_operation(run)
    )
    if reason:
        run.reply(event.connection, Rejected(reason))
    elif node is None or request.revision != run.revision:
        run.reply(event.connection, Conflict())
    elif node.alive:
        end_handover(run, node)
        grace = NODE_GRACE if request.grace is None else request.grace
        node.program_change = ProgramChange(event.dataflow, event.connection, grace)
        run.log("info", node, "is being replaced; the replacement is being started")
        start_replacement(run, node)
    else:
        end_handover(run, node)
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


# --------------------------------------------------------------------------- the coordinator


def why_no_handover(run: RunState) -> str:
    """Return why the coordinator cannot change a dataflow on one machine now; "" if it can."""
    if run.distributed:
        return ""
    return why_no_change(run) or why_busy(run) or _why_operation(run)


def hand_over(run: RunState, connection: int) -> None:
    """Hand the changes of the dataflow over to the coordinator."""
    if not run.distributed:
        run.distributed = True
        run.revision += 1  # a change that a client has begun is outdated by that
        run.dataflow = with_present_parameters(run, run.dataflow)
    run.reply(connection, Ok())


def release(run: RunState) -> None:
    """Finish on this machine, if no node of the dataflow is here."""
    if run.begun and all(node.machine for node in run.nodes.values()):
        finish(run)
