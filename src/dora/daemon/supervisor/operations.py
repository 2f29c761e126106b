"""Operations that end the process of a node: stop and restart, which clients request, and remove.

A removal is a change of the dataflow (`dora.daemon.supervisor.changes`) that begins with the end of the
node. The client gets its answer when the operation is done: when the process has ended, or another one
exists. If the dataflow is stopped meanwhile, the answer says so.

A node that has to end is asked to (`StopFrame`), gets SIGTERM after its grace, and SIGKILL after
another half of the grace. Messages that it sends until then arrive; its consumers are informed afterwards.
"""

from __future__ import annotations

import signal
from typing import assert_never

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import (
    end_node,
    end_operation,
    review_stragglers,
    take_out,
    try_finish,
)
from dora.daemon.supervisor.handover import end_handover
from dora.daemon.supervisor.result import NodeFailure
from dora.daemon.supervisor.state import (
    ABANDON_AFTER,
    BEING_STOPPED,
    NodeState,
    OperationKind,
    PendingOperation,
    RunState,
)
from dora.wire.daemon_protocol import Rejected
from dora.wire.node_protocol import StopFrame
from dora.wire.operations import NodeOperation, ProposedChange, RestartOperation, StopOperation

NODE_GRACE = 5.0  # seconds between the stop event and SIGTERM, as in dora-rs; half of it until SIGKILL


def why_no_change(run: RunState) -> str:
    """Return why nothing can be changed now; "" if it can."""
    if run.stopping or run.only_dynamic_left or run.done or run.broken_by:
        return "the dataflow is ending"
    if not run.opened:
        return "the dataflow is still starting; try again once all its nodes run"
    return ""


def grace_of(request: NodeOperation | ProposedChange) -> float:
    """Return how many seconds a node has until SIGTERM."""
    return NODE_GRACE if request.grace is None else request.grace


def begin_operation(run: RunState, connection: int, request: NodeOperation) -> None:
    """Stop or restart a node, at most one operation at a time."""
    kind: OperationKind
    match request:
        case StopOperation():
            kind = "stop"
        case RestartOperation():
            kind = "restart"
        case _:
            assert_never(request)
    operation = PendingOperation(kind, connection, grace_of(request))
    node = run.find_here(request.node)
    if isinstance(node, Rejected):
        run.reply(connection, node)
    elif reason := why_no_change(run) or why_in_operation(node) or _why_not(node, operation):
        run.reply(connection, Rejected(reason))
    else:
        end_for(run, node, operation)


def _why_not(node: NodeState, operation: PendingOperation) -> str:
    if not node.spec.is_dynamic:
        return ""
    participle = operation.participle
    return f"node `{node.id}` is not started by dora, so it cannot be {participle}; its process is yours"


def why_in_operation(node: NodeState) -> str:
    """Return why another operation on a node is not possible now; "" if it is."""
    if node.operation is None:
        return ""
    return f"node `{node.id}` is being {node.operation.participle} already"


def end_for(run: RunState, node: NodeState, operation: PendingOperation) -> None:
    """Ask a node to end for an operation, which is then finished."""
    if operation.kind != "restart" and node.phase == "ended":
        end_operation(run, node, operation, was_running=False)
        if operation.kind == "remove":
            take_out(run, node)
            try_finish(run)
        return
    end_handover(run, node)
    node.operation = operation
    run.disarm(node, "hold")
    if node.present:
        run.send(node, StopFrame())
    elif node.spec.is_dynamic and node.connected:
        run.emit(do.Disconnect(node.id))
    elif node.alive and not node.closed:  # it has no work to lose
        _terminate(run, node, operation)
        return
    elif not node.alive:  # nothing has to end
        finish_operation(run, node, operation, node.failure if node.phase == "awaiting fix" else None)
        return
    run.arm(node, "operation", operation.grace)


def finish_operation(
    run: RunState, node: NodeState, operation: PendingOperation, failure: NodeFailure | None
) -> None:
    """Finish the operation: the process of the node has ended, or there was none."""
    run.disarm_all(node)
    end_operation(run, node, operation)
    if operation.kind != "restart":
        end_node(run, node, failure)
        return
    if failure is not None:
        run.log("warn", node, failure.message)
    run.log("info", node, "is started again, as was asked")
    run.count_restart(node)
    run.close_receivers(node)
    run.spawn(node)
    review_stragglers(run)  # those that it feeds have something to wait for again


def finish_dynamic_removal(run: RunState, node: NodeState, operation: PendingOperation) -> None:
    """Take out a dynamic node that has left, or was disconnected, because of a removal."""
    end_operation(run, node, operation)
    take_out(run, node)
    try_finish(run)


def operation_expired(run: RunState, node: NodeState) -> None:
    """Terminate, or disconnect, a node that has not ended within its grace."""
    assert node.operation is not None
    grace = node.operation.grace
    if node.spec.is_dynamic:
        run.log("warn", node, f"has not left within {grace:g} s; its connection is closed")
        run.emit(do.Disconnect(node.id))
        run.arm(node, "operation", max(grace, 1.0))  # after 0 s it would be due again at once, for ever
    else:
        run.log("warn", node, f"has not ended within {grace:g} s; it gets SIGTERM")
        _terminate(run, node, node.operation)


def operation_kill_expired(run: RunState, node: NodeState) -> None:
    """Kill a node that did not end after SIGTERM either."""
    assert node.operation is not None
    grace = node.operation.grace
    message = f"had to be killed: it did not end within {grace:g} s, nor {grace / 2:g} s after SIGTERM"
    run.log("error", node, message)
    run.kill(node, "grace", message)
    run.arm(node, "abandon", ABANDON_AFTER)


def _terminate(run: RunState, node: NodeState, operation: PendingOperation) -> None:
    run.signal(node, signal.SIGTERM)
    run.arm(node, "operation-kill", operation.grace / 2)


def cancel_requests(run: RunState, node: NodeState) -> None:
    """Decline what clients wait for, since the dataflow is stopped."""
    if node.operation is not None:
        connection = node.operation.connection
        node.operation = None
        run.reply(connection, Rejected(BEING_STOPPED))
    if node.added_by is not None:
        run.reply(node.added_by, Rejected(BEING_STOPPED))
        node.added_by = None
    run.disarm(node, "operation", "operation-kill")
