"""Reacts to the processes of nodes: those that cannot be started, close, disconnect, end, or hang."""

from __future__ import annotations

import signal

from dora.daemon.supervisor import events as on
from dora.daemon.supervisor import handover
from dora.daemon.supervisor.closing import (
    announce_failure,
    close_outputs,
    end_node,
    hold_or_close,
    try_finish,
)
from dora.daemon.supervisor.operations import finish_dynamic_removal, finish_operation
from dora.daemon.supervisor.reconcile import added_node_failed, added_node_spawned
from dora.daemon.supervisor.restart import back_off, restart_delay
from dora.daemon.supervisor.result import FailureKind, NodeFailure, describe_exit
from dora.daemon.supervisor.start import try_open
from dora.daemon.supervisor.state import ABANDON_AFTER, NodeState, RunState

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOP_CODES = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # of shells, for a child that ended by the signal


def spawned(run: RunState, node: NodeState, pid: int) -> None:
    """Remember the process of a node."""
    node.pid = pid
    added_node_spawned(run, node)


def spawn_failed(run: RunState, node: NodeState, reason: str) -> None:
    """End a node whose process could not be started, or wait for better code."""
    if node.added_by is not None:
        added_node_failed(run, node, node.added_by, reason)
        return
    failure = NodeFailure(node.id, "spawn", message=reason, restarts=len(node.restarts))
    if handover.can_await_fix(run, node):
        handover.await_fix(run, node, failure)
        return
    run.log("error", node, reason)
    end_node(run, node, failure)


def node_closed(run: RunState, node: NodeState, undeclared: dict[str, int]) -> None:
    """The node object was closed; its process usually ends soon."""
    for output, count in undeclared.items():
        node.undeclared[output] = node.undeclared.get(output, 0) + count
    node.closed = True
    run.disarm(node, "health")
    if not node.spec.is_dynamic:
        hold_or_close(run, node)


def disconnected(run: RunState, node: NodeState) -> None:
    """The connection of a node ended."""
    if not node.connected:
        return
    node.connected = False
    run.disarm(node, "health")
    if node.spec.is_dynamic:
        _dynamic_node_left(run, node)
    elif node.phase == "ready" and not node.refused:
        # It gave up waiting at the barrier; the process may try once more, or end.
        node.phase = "starting"
    elif node.phase == "running" and not node.closed:
        node.closed = True
        hold_or_close(run, node)


def _dynamic_node_left(run: RunState, node: NodeState) -> None:
    was_running, was_ready = node.phase == "running", node.phase != "starting"
    run.end_process(node, "dormant")
    if was_running and not node.closed:
        run.log("warn", node, "the connection broke; the node did not say goodbye")
        announce_failure(run, node, f"the connection to dynamic node `{node.id}` broke")
    if node.operation is not None:
        finish_dynamic_removal(run, node, node.operation)
        return
    if was_ready:  # else it took no part: a program registers with several dataflows to find its own
        close_outputs(run, node, set(node.spec.outputs))
    try_finish(run)


def process_ended(run: RunState, node: NodeState, end: on.ProcessEnded) -> None:
    """Start another process, or end the node."""
    if node.phase not in ("starting", "ready", "running"):
        return
    node.absent = end.exit_code == 0 and node.phase == "starting" and not node.connected
    words = describe_exit(end.exit_code, end.signal)
    asked_to_end = run.stopping or node.draining or node.operation is not None
    failure = _failure_of(node, end, stopping=asked_to_end, opened=run.opened)
    if failure is not None and failure.remedy:
        run.log("error", node, f"hint: {failure.remedy}")
    if node.operation is not None:
        finish_operation(run, node, node.operation, failure)
        return
    delay = None
    if run.may_restart(node):
        delay = restart_delay(node.spec.restart, failure is not None, node.restarts, run.now)
    if handover.follow(run, node, words, needed=failure is not None or delay is not None):
        return
    if delay is not None:
        back_off(run, node, delay, failure, words)
    elif failure is not None and handover.can_await_fix(run, node):
        handover.await_fix(run, node, failure)
    else:
        if node.absent and not (run.stopping or node.refused):
            text = "ended (status 0) without a `dora.Node()`; the dataflow goes on without it"
            run.log("info" if node.spec.is_shell else "warn", node, text)
        end_node(run, node, failure)
        try_open(run)


def _failure_of(
    node: NodeState, end: on.ProcessEnded, *, stopping: bool, opened: bool
) -> NodeFailure | None:
    """Return the failure that the exit of a process means, or None for a clean end.

    A node that dora killed fails for the kill reason, unless it ended cleanly before the signal
    arrived. After a stop, an end by SIGTERM or SIGINT is clean. A node that connected must not end
    before the start barrier opens, unless it was refused.
    """
    kind: FailureKind = "exit"
    message = describe_exit(end.exit_code, end.signal)
    if end.exit_code == 0:
        if opened or stopping or node.refused or node.absent:
            return None
        message = "ended (status 0) while it waited for the other nodes to be ready"
    elif node.kill_reason is not None:
        kind, message = node.kill_reason
    elif node.refused == "broken":
        kind = "cascading"
    elif node.refused == "stopped" or (
        stopping and (end.signal in _STOP_SIGNALS or end.exit_code in _STOP_CODES)
    ):
        return None
    has_id = not any(operator.alone for operator in node.spec.operators)
    if node.failed_operator and has_id and end.exit_code and message == describe_exit(end.exit_code, None):
        message += f" in operator `{node.failed_operator}`"
    return NodeFailure(
        node_id=node.id,
        kind=kind,
        exit_code=end.exit_code,
        signal=end.signal,
        message=message,
        last_lines=end.last_lines,
        remedy=end.remedy,
        restarts=len(node.restarts),
    )


# --------------------------------------------------------------------------- deadlines


def startup_expired(run: RunState, node: NodeState) -> None:
    """Kill a process that has not connected in time."""
    seconds = node.spec.startup_timeout
    message = f"was killed: it had not connected within its `startup_timeout` of {seconds:g} s"
    _kill(run, node, "startup_timeout", message)


def health_expired(run: RunState, node: NodeState) -> None:
    """Kill a process that shows no sign of life."""
    seconds = node.spec.health_check_timeout
    message = f"was killed: no sign of life within its `health_check_timeout` of {seconds:g} s"
    _kill(run, node, "health_check", message)


def finish_grace_expired(run: RunState, node: NodeState) -> None:
    """Kill a process that goes on although its inputs have closed and all others are done."""
    _kill(run, node, "grace", "was killed: it outlived its closed inputs by more than `finish_grace_secs`")


def _kill(run: RunState, node: NodeState, kind: FailureKind, message: str) -> None:
    run.log("error", node, message)
    run.kill(node, kind, message)
    run.arm(node, "abandon", ABANDON_AFTER)


def abandon(run: RunState, node: NodeState) -> None:
    """End a node although its process survives SIGKILL."""
    message = f"process {node.pid} could not be killed; it is left behind"
    run.log("error", node, message)
    kind = node.kill_reason[0] if node.kill_reason is not None else "grace"
    end_node(run, node, NodeFailure(node.id, kind, message=message, restarts=len(node.restarts)))
