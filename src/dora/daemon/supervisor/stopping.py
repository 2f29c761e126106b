"""Stops the dataflow: the stop event, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import signal

from dora.daemon.supervisor.closing import end_node, finish, refuse_start, try_finish
from dora.daemon.supervisor.handover import end_handover
from dora.daemon.supervisor.operations import cancel_requests
from dora.daemon.supervisor.processes import abandon
from dora.daemon.supervisor.state import ABANDON_AFTER, BEING_STOPPED, DeadlineName, RunState
from dora.wire.node_protocol import StopFrame


def stop(run: RunState, grace: float | None = None) -> None:
    """Ask all nodes of this machine to end. ``grace``: seconds until SIGTERM instead of the run's."""
    if run.stopping or run.only_dynamic_left:
        return
    run.stopping = True  # first: the rules below ask whether another process may follow
    if grace is not None:
        run.grace = grace
    run.arm(None, "term", run.grace, keep=True)
    for node in run.nodes.values():
        if node.machine and not node.awaits_machine:
            continue
        end_handover(run, node)
        cancel_requests(run, node)
        if node.phase == "backoff":
            end_node(run, node, None)
        elif node.phase == "awaiting fix":
            end_node(run, node, node.failure)
        elif node.present:
            run.send(node, StopFrame())
        elif node.phase == "ready" or (node.phase == "starting" and node.connected):
            refuse_start(run, node, "stopped", BEING_STOPPED)
        elif node.alive and node.phase == "starting":
            # No stop event can reach it, and it has no work to lose yet.
            node.refused = "stopped"
            run.signal(node, signal.SIGTERM)
    try_finish(run)


def kill(run: RunState, reason: str) -> None:
    """End the dataflow at once. ``reason`` follows "because the dataflow"."""
    stop(run)
    run.killing = True
    if run.only_dynamic_left:
        finish(run)
        return
    _kill_all(run, f"was killed because the dataflow {reason}")
    try_finish(run)  # perhaps no process is left here


def _kill_all(run: RunState, message: str) -> None:
    run.disarm(None, "unready", "term", "kill")
    for node in run.processes():
        run.kill(node, "grace", message)
    if run.processes():
        run.arm(None, "abandon", ABANDON_AFTER)


def run_deadline_expired(run: RunState, name: DeadlineName) -> None:
    """React to a deadline of the run."""
    match name:
        case "unready":
            for node in run.processes():
                if node.phase == "starting" and not node.connected:
                    node.refused = "broken"
                    run.signal(node, signal.SIGTERM)
        case "term":
            for node in run.processes():
                node.overdue = run.stopping
                run.signal(node, signal.SIGTERM)
            run.arm(None, "kill", run.grace / 2)
        case "kill":
            _kill_all(
                run,
                f"had to be killed: it did not end within the grace duration of {run.grace:g} s, "
                f"nor {run.grace / 2:g} s after SIGTERM",
            )
        case "abandon":
            for node in run.processes():
                abandon(run, node)
        case "last-grace":
            finish(run)
