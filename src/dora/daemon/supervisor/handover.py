"""New code for a running node: the handover from its old process to a new one.

The new code starts in a second process, the *replacement*, while the old process goes on. So code
that cannot be imported changes nothing. When the replacement reaches `Node()`, it is held there;
the old process *drains*: it is asked to end (`ReloadFrame`, then `StopFrame`), and once it has ended, the
replacement takes over. Two processes of one node may exist at the same time, but never two that
send and receive. The replacement *stands by*: it makes all its preparations before the old process
drains, and its queues fill already, so it begins with the message after the last one that the old
process took. A node for which even that is too much (``hot_reload: replace``) has no replacement; its
new code starts once the old process has ended.

Operators are replaced inside their runtime, which does the same with objects.

While a process is starting, dora cannot know which code it has read. A change that is saved then is
kept until the process runs. Only a process that is not even connected, and may never be, gets a
replacement at once. A node that fails for good *awaits a fix*: its outputs stay open, and it is
restarted when its code changes.
"""

from __future__ import annotations

import signal

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.result import NodeFailure, describe_exit
from dora.daemon.supervisor.state import ABANDON_AFTER, NodeState, Replacement, RunState
from dora.daemon.supervisor.topology import apply_dataflow, take_parameters
from dora.wire.daemon_protocol import Ok, Rejected
from dora.wire.excerpt import error_line
from dora.wire.node_protocol import ReloadFrame, StopFrame

RELOAD_GRACE = 5.0  # seconds: the most that a process gets which is followed by one with new code


def code_changed(run: RunState, node: NodeState, change: on.CodeChanged) -> None:
    """React to saved code, depending on what the node is doing."""
    if run.stopping or run.broken_by or run.done or node.operation is not None:
        return
    if node.program_change is not None:
        node.pending_change = _merged(node.pending_change, change)
        return
    runs = node.phase == "running" and not node.closed
    # Perhaps it never will.
    has_not_connected = node.phase == "starting" and run.opened and not node.connected
    match node.phase:
        case "running" if runs and node.spec.is_runtime:
            run.send(node, ReloadFrame(list(change.operators), list(change.modules)))
        case "running" | "starting" if runs or has_not_connected:
            if node.spec.hot_reload == "replace":
                run.log("info", node, "its code has changed; the old code has to end first")
                drain(run, node)
            else:
                run.log("info", node, "its code has changed; the new code is being started")
                start_replacement(run, node)
        case "starting" | "ready" | "running":
            node.pending_change = _merged(node.pending_change, change)
        case "awaiting fix" | "backoff":
            run.log("info", node, "its code has changed; it is started again")
            _restart_with_new_code(run, node)
        case "ended":
            run.log("warn", node, "its code has changed, but it has ended already")


def process_runs(run: RunState, node: NodeState) -> None:
    """React to code that was saved while this process was starting."""
    if node.announce_new_code:
        node.announce_new_code = False
        run.log("info", node, "runs its new code")
    change, node.pending_change = node.pending_change, None
    if change is not None:
        code_changed(run, node, change)


# --------------------------------------------------------------------------- the replacement


def start_replacement(run: RunState, node: NodeState) -> None:
    """Start a process with the node's new code, or with another program."""
    drop_replacement(run, node)
    node.replacement = Replacement(node.take_incarnation())
    if node.spec.startup_timeout is not None:
        run.arm(node, "replacement", node.spec.startup_timeout)
    dataflow = None if node.program_change is None else node.program_change.dataflow
    run.emit(do.SpawnReplacement(node.id, node.replacement.incarnation, dataflow))


def is_replacement(node: NodeState, event: on.Registering) -> bool:
    """Return whether a registration comes from the node's replacement."""
    return (
        node.replacement is not None
        and node.replacement.connection is None
        and node.replacement.incarnation == event.incarnation
    )


def replacement_registers(run: RunState, node: NodeState, connection: int) -> None:
    """Prepare the replacement, which then stands by."""
    replacement = node.replacement
    assert replacement is not None
    replacement.connection = connection
    run.disarm(node, "replacement")
    dataflow = None if node.program_change is None else node.program_change.dataflow
    given = {} if dataflow is None else dataflow.node(node.id).parameters
    replacement.parameters = dict(given or node.parameters)
    run.emit(
        do.AdmitReplacement(connection, node.id, node.restart_count + 1, replacement.parameters, dataflow)
    )


def replacement_ready(run: RunState, node: NodeState, event: on.ReplacementReady) -> None:
    """Drain the old process, since the replacement stands by."""
    if node.replacement is not None and node.replacement.incarnation == event.incarnation:
        drain(run, node)


def renew_replacements(run: RunState) -> None:
    """Start replacements that stand by anew, since their links have changed."""
    for node in run.nodes.values():
        if node.replacement is not None and node.replacement.connection is not None:
            start_replacement(run, node)


def start_program(run: RunState, node: NodeState) -> None:
    """Start the program that the dataflow names now: at once, or when the old process has ended."""
    end_handover(run, node)
    if node.alive:
        if node.operation is None:  # else it ends anyway
            run.log("info", node, "gets another program; the old one has to end first")
            drain(run, node)
        return
    run.count_restart(node)
    run.disarm_all(node)
    run.log("info", node, "was replaced")
    run.mark("replaced", node, "runs another program")
    run.spawn(node)


def drain(run: RunState, node: NodeState) -> None:
    """Ask a process to end, so that the new code can follow."""
    if node.draining:
        return
    node.draining = True
    if node.present:
        run.arm(node, "drain", _grace(run, node))
        run.send(node, ReloadFrame())  # first: the process leaves its links to the next one
        run.send(node, StopFrame())
    else:  # it has no work to lose
        _terminate(run, node)


def replacement_ended(run: RunState, node: NodeState, end: on.ReplacementEnded) -> None:
    """Report that the new code does not run."""
    if node.replacement is None or node.replacement.incarnation != end.incarnation:
        return
    node.replacement = None
    run.disarm(node, "replacement")
    why = end.reason or error_line(end.last_lines) or describe_exit(end.exit_code, end.signal)
    if node.program_change is not None:
        how = "ended before it took over" if node.draining else "does not start, the old one goes on"
        run.log("error", node, f"its replacement {how}: {why}")
        _cancel_program_change(run, node, f"the replacement of node `{node.id}` {how}: {why}")
    elif node.draining:
        run.log("error", node, f"the new code ended before it took over: {why}")
    else:
        run.log("error", node, f"the new code does not start, the old code goes on: {why}")


def drop_replacement(run: RunState, node: NodeState) -> None:
    """Kill the replacement, if there is one."""
    if node.replacement is not None:
        node.replacement = None
        run.disarm(node, "replacement")
        run.emit(do.DropReplacement(node.id))


def end_handover(run: RunState, node: NodeState) -> None:
    """Give up the new code: the present process is the node's last one."""
    drop_replacement(run, node)
    _cancel_program_change(run, node, f"node `{node.id}` ends before it could be replaced")
    node.draining = False
    node.pending_change = None
    run.disarm(node, "drain", "drain-kill")


def _cancel_program_change(run: RunState, node: NodeState, reason: str) -> None:
    if node.program_change is not None:
        connection = node.program_change.connection
        node.program_change = None
        run.reply(connection, Rejected(reason))


# --------------------------------------------------------------------------- deadlines


def startup_expired(run: RunState, node: NodeState) -> None:
    """Kill a replacement that has not connected in time."""
    seconds = node.spec.startup_timeout
    message = f"had not connected within its `startup_timeout` of {seconds:g} s"
    run.log("error", node, f"the new code was killed, the old code goes on: it {message}")
    drop_replacement(run, node)
    _cancel_program_change(run, node, f"the replacement of node `{node.id}` was killed: it {message}")


def drain_expired(run: RunState, node: NodeState) -> None:
    """Terminate a process that has not drained in time."""
    message = f"its old code has not ended within {_grace(run, node):g} s; it gets SIGTERM"
    run.log("warn", node, message)
    _terminate(run, node)


def drain_kill_expired(run: RunState, node: NodeState) -> None:
    """Kill a process that did not end after SIGTERM either."""
    run.signal(node, signal.SIGKILL)
    run.arm(node, "abandon", ABANDON_AFTER)


def _terminate(run: RunState, node: NodeState) -> None:
    run.signal(node, signal.SIGTERM)
    run.arm(node, "drain-kill", _grace(run, node) / 2)


def _grace(run: RunState, node: NodeState) -> float:
    return min(run.grace, RELOAD_GRACE) if node.program_change is None else node.program_change.grace


# --------------------------------------------------------------------------- after a process


def follow(run: RunState, node: NodeState, words: str, *, needed: bool) -> bool:
    """Start new code after a process that ended; return False if there is none to start.

    ``needed``: the process failed, or would be restarted. A process that ended well, and was not
    asked to, has done its work. ``words`` describe its exit.
    """
    if run.stopping or run.broken_by or run.work_done(node):
        return False
    if node.replacement is not None and (node.draining or needed):
        if not node.draining:
            run.log("warn", node, f"{words}; its new code takes over")
        _promote(run, node, node.replacement)
    elif node.draining:  # it had no replacement, or the replacement has ended
        _restart_with_new_code(run, node)
    else:
        return False
    return True


def _promote(run: RunState, node: NodeState, replacement: Replacement) -> None:
    node.replacement = None
    run.disarm_all(node)
    run.begin_process(node, replacement.incarnation)
    run.count_reload(node)
    stands_by = replacement.connection is not None
    if not stands_by:  # else its links stay as they are
        run.close_receivers(node)
    if (change := node.program_change) is not None:
        node.program_change = None
        take_parameters(run, node, change.dataflow)
        apply_dataflow(run, change.dataflow)
        run.revision = change.proposal.revision
        node.program = change.proposal.program_of(node.id)
        run.log("info", node, "was replaced")
        run.mark("replaced", node, "runs another program")
        run.reply(change.connection, Ok())
    else:
        node.announce_new_code = True
    run.emit(do.PromoteReplacement(node.id, node.restart_count))
    if stands_by:
        node.connected = True
        node.parameters_sent = replacement.parameters
    elif node.spec.startup_timeout is not None:
        run.arm(node, "startup", node.spec.startup_timeout)


def _restart_with_new_code(run: RunState, node: NodeState) -> None:
    run.count_reload(node)
    node.announce_new_code = True
    node.pending_change = None
    run.disarm_all(node)
    run.close_receivers(node)
    run.spawn(node)


def can_await_fix(run: RunState, node: NodeState) -> bool:
    """Return whether a node that failed for good may be restarted when its code changes."""
    return (
        node.id in run.watched
        and run.opened
        and not (run.stopping or run.broken_by)
        and not run.work_done(node)
    )


def await_fix(run: RunState, node: NodeState, failure: NodeFailure) -> None:
    """Keep a node that failed for good until its code changes."""
    run.end_process(node, "awaiting fix")
    node.failure = failure
    run.mark("failed", node, failure.why())
    run.log("error", node, f"{failure.message}; it is started again when its code changes")
    if (change := node.pending_change) is not None:
        code_changed(run, node, change)


def _merged(earlier: on.CodeChanged | None, later: on.CodeChanged) -> on.CodeChanged:
    if earlier is None:
        return later
    return on.CodeChanged(
        later.node_id,
        tuple(dict.fromkeys(earlier.operators + later.operators)),
        tuple(dict.fromkeys(earlier.modules + later.modules)),
    )
