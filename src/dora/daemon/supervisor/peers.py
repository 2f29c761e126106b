"""Nodes of other machines: what is known of them, and what that means for the nodes of this one.

Each machine has a supervisor for its part of a dataflow. It knows the whole graph, decides about
its own nodes, and mirrors the others from the status that their supervisors send. A `PeerStatus`
holds everything that peers have to know, so only the latest one counts, and nothing has to be sent
again after a connection was cut. From the same status every supervisor draws the same conclusions:
when the start barrier opens, which inputs are closed, when the dataflow has ended.

The nodes of a machine that is lost have no supervisor, so each of the others decides about them: those that
may be started again wait for the machine, and the others have failed. When the machine is back, its new
supervisor begins with what the others know of its nodes (`known_status`).
"""

from __future__ import annotations

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import (
    announce_failure,
    break_start_if_closed,
    close_outputs,
    end_node,
    reopen_outputs,
    review_stragglers,
    try_finish,
    with_root_cause,
)
from dora.daemon.supervisor.restart import restart_delay
from dora.daemon.supervisor.result import NodeFailure
from dora.daemon.supervisor.safe_states import source_failed
from dora.daemon.supervisor.start import open_barrier, try_open
from dora.daemon.supervisor.state import NodeState, RunState
from dora.daemon.supervisor.status import NodeStatus, PeerStatus
from dora.daemon.supervisor.stopping import kill, stop
from dora.dataflow.problems import listed


def known_status(run: RunState, machine: str) -> PeerStatus:
    """Return the status of another machine's nodes as this supervisor knows it; "": of this machine's."""
    failures = {failure.node_id: failure for failure in run.failures}
    return PeerStatus(
        nodes={
            node_id: NodeStatus(
                phase=node.phase,
                outputs_closed=tuple(sorted(node.outputs_closed)),
                reopen_count=node.reopen_count,
                announced_failures=node.announced_failures,
                announcement=node.announcement,
                failed_processes=node.failed_processes,
                restarts=len(node.restarts),
                failure=failures.get(node_id) if node.phase == "ended" else None,
            )
            for node_id, node in run.nodes.items()
            if node.machine == machine
        },
        revision=run.revision,
        opened=run.opened,
        stopping=run.stopping,
        killing=run.killing,
    )


def take_status(run: RunState, machine: str, status: PeerStatus) -> None:
    """Update the nodes of another machine, and follow what it does with the dataflow."""
    run.peers[machine] = status
    if not run.begun or run.done:
        return
    if any(node.awaits_machine and node.machine == machine for node in run.nodes.values()):
        run.emit(do.Log("warn", None, f"machine `{machine}` is back, and starts its nodes again"))
    # Another supervisor opens the barrier only when it knows that the nodes of all machines are ready.
    if status.opened and not (run.opened or run.broken_by or run.stopping):
        open_barrier(run)
    if status.killing and not run.killing:
        kill(run, "had to end at once")
    elif status.stopping:
        stop(run)
    for node_id, item in status.nodes.items():
        node = run.nodes.get(node_id)
        if node is None or node.machine != machine or run.done:
            continue
        if status.revision >= node.generation:  # else it is about an earlier node of this name
            _mirror(run, node, item)
    try_open(run)


def repeat_status(run: RunState) -> None:
    """Take the latest status of all peers again; it may be about nodes that are new here."""
    for machine, status in list(run.peers.items()):
        take_status(run, machine, status)


def _mirror(run: RunState, node: NodeState, status: NodeStatus) -> None:
    """Take over the status of a node from the supervisor that decides about it."""
    node.awaits_machine = False
    if (missed := status.restarts - len(node.restarts)) > 0:
        run.count_restart(node, missed)
        if node.phase == "ended":  # somebody has started it again
            node.phase = "starting"
            review_stragglers(run)  # those that it feeds have something to wait for again
    if node.phase == "ended":
        return
    is_back = status.reopen_count > node.reopen_count
    closed = set(status.outputs_closed) - (set() if is_back else node.outputs_closed)
    has_failed = status.failed_processes > node.failed_processes
    if closed or has_failed:
        # First: what the network still brings is older than the failure, and is no sign of life.
        run.emit(do.SetSentCounts(node.id, status.sent))
    if has_failed:
        node.failed_processes = status.failed_processes
        source_failed(run, node)
    if status.announced_failures > node.announced_failures:
        node.announced_failures = status.announced_failures
        announce_failure(run, node, status.announcement)
    if is_back:
        node.reopen_count = status.reopen_count
        reopen_outputs(run, node)
    if closed:
        close_outputs(run, node, closed)
    before, node.phase = node.phase, status.phase
    if before == status.phase:
        return
    if status.phase in ("ended", "backoff", "awaiting fix", "dormant"):
        run.close_receivers(node)
    elif status.phase == "running":
        # That its former process has ended may be known here after the new one has connected its inputs.
        run.emit(do.OpenReceivers(node.id))
    if status.phase == "ended":
        if status.failure is not None:
            run.failures.append(with_root_cause(run, status.failure))
        node.absent = status.failure is None and not run.opened
        break_start_if_closed(run, node)
        review_stragglers(run)  # its outputs may have closed before, when it was still at work
        try_finish(run)


def lose_machine(run: RunState, machine: str, reason: str, *, may_return: bool) -> None:
    """End the nodes of a machine that is lost, except those that wait for it; stop if one says so."""
    lost = [
        node
        for node in run.nodes.values()
        if node.machine == machine
        and node.phase != "ended"
        and not (node.awaits_machine and may_return)  # it was told before
    ]
    if not lost:
        return
    run.peers.pop(machine, None)
    run.machine_losses[machine] = run.machine_losses.get(machine, 0) + 1
    message = f"machine `{machine}` is lost: {reason}"
    stops = run.opened and any(node.spec.deploy.on_machine_lost == "stop" for node in lost)
    waiting = [node for node in lost if may_return and not stops and _may_follow(run, node)]
    later = f"; {listed([node.id for node in waiting])} will be started again there" if waiting else ""
    run.emit(do.Log("error", None, message + later))
    for node in lost:
        # A dynamic node that had not joined has nothing to fail with.
        failed = not (node.spec.is_dynamic and node.phase == "dormant")
        failure = NodeFailure(node.id, "machine", message=message, restarts=len(node.restarts))
        if node in waiting:
            _await_machine(run, node, failure)
        elif node.spec.is_dynamic and may_return and run.opened and not (stops or run.stopping):
            _leave(run, node, message)
        else:
            end_node(run, node, failure if failed else None)
    if stops:
        stop(run)


def _may_follow(run: RunState, node: NodeState) -> bool:
    """Return whether the restart policy of a node whose machine is lost wants another process."""
    return (
        run.opened
        and run.may_restart(node)
        and restart_delay(node.spec.restart, True, node.restarts, run.now) is not None
    )


def _leave(run: RunState, node: NodeState, message: str) -> None:
    """Take leave of a dynamic node, which may join again when its machine is back."""
    was_running, node.phase = node.phase == "running", "dormant"
    run.close_receivers(node)
    if was_running:
        announce_failure(run, node, message)
    close_outputs(run, node, set(node.spec.outputs))


def _await_machine(run: RunState, node: NodeState, failure: NodeFailure) -> None:
    node.phase = "backoff"
    node.awaits_machine = True
    node.failure = failure
    run.count_restart(node)
    run.close_receivers(node)
    source_failed(run, node)
