"""Starts the dataflow: registration of nodes, the start barrier, and the health check that follows.

A node registers, makes its ports, and waits at the barrier. The barrier opens once every node that
dora starts waits there; a node that comes later starts at once.
"""

from __future__ import annotations

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import parameters
from dora.daemon.supervisor.closing import (
    close_outputs,
    end_node,
    refuse_start,
    reopen_outputs,
    review_stragglers,
    try_finish,
)
from dora.daemon.supervisor.events import Registering
from dora.daemon.supervisor.handover import is_replacement, process_runs, replacement_registers
from dora.daemon.supervisor.state import BEING_STOPPED, NodeState, RunState
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.problems import listed
from dora.wire.node_protocol import InputsClosed, Started


def begin(run: RunState) -> None:
    """Start all processes of this machine."""
    run.begun = True
    if run.former is not None:  # the others run
        open_barrier(run)
    for node in run.nodes.values():
        if node.machine:
            node.phase = "dormant" if node.spec.is_dynamic else "starting"
        elif run.former is not None and _has_ended(run, node, run.former):
            end_node(run, node, None)
        elif not node.spec.is_dynamic:
            run.spawn(node)
    try_open(run)
    try_finish(run)


def _has_ended(run: RunState, node: NodeState, former: PeerStatus) -> bool:
    """Take over what the other machines know of a node that was lost; return whether it has ended."""
    status = former.nodes.get(node.id)
    if status is None or former.revision < node.generation:
        return False
    run.count_restart(node, status.restarts)
    node.reopen_count, node.failed_processes = status.reopen_count, status.failed_processes
    node.announced_failures, node.announcement = status.announced_failures, status.announcement
    close_outputs(run, node, set(status.outputs_closed))
    return status.phase == "ended"


def register(run: RunState, event: Registering) -> None:
    """Admit a process, or refuse it."""
    node = run.nodes.get(event.node_id)
    if node is not None and is_replacement(node, event):
        replacement_registers(run, node, event.connection)
        return
    if refusal := _refusal(run, node, event):
        run.emit(do.Refuse(event.connection, refusal))
        return
    assert node is not None
    if node.spec.is_dynamic:
        run.begin_process(node, event.incarnation)
    node.closed = False  # the same process may have closed a node object before
    run.disarm(node, "startup")
    run.admit(node, event.connection)


def _refusal(run: RunState, node: NodeState | None, event: Registering) -> str:
    """Return why a registration is refused; "" if it is not."""
    name = f"`{event.node_id}`"
    if node is None:
        return f"this dataflow has no node {name}; it has {listed(run.nodes)}"
    if node.machine:
        return f"node {name} is on machine `{node.machine}`"
    if node.spec.is_dynamic:
        if run.stopping or run.only_dynamic_left or run.done:
            return f"the dataflow is ending; node {name} cannot join any more"
        if run.broken_by:
            return run.broken_reason
        if node.phase != "dormant":
            return f"node {name} has joined already, from another process"
        return ""
    if event.dynamic:
        return f"node {name} is started by dora itself; only nodes with `path: dynamic` can be joined"
    if node.phase != "starting" or node.connected or event.incarnation != node.incarnation:
        if node.spec.operators:
            return (
                f"the runtime of node {name} is connected already; a program that calls Node() is no "
                "operator: write `path:` instead of `operator:`"
            )
        return f"node {name} has been connected already; a process can take part once"
    if run.stopping:
        node.refused = "stopped"
        return BEING_STOPPED
    if run.broken_by:
        node.refused = "broken"
        return run.broken_reason
    return ""


def ports_ready(run: RunState, node: NodeState) -> None:
    """Start a node whose ports exist, or keep it at the barrier."""
    if node.phase != "starting" or not node.connected:
        return
    node.phase = "ready"
    if node.refused:
        return  # the refusal is on its way
    if run.stopping:
        refuse_start(run, node, "stopped", BEING_STOPPED)
    elif run.broken_by:
        refuse_start(run, node, "broken", run.broken_reason)
    elif run.opened:
        _start_node(run, node)
    else:
        try_open(run)


def try_open(run: RunState) -> None:
    """Open the start barrier once every node that dora starts waits at it, or ended without connecting."""
    if not run.begun or run.opened or run.broken_by or run.stopping or run.done:
        return
    ready = ("ready", "running", "ended")  # running: on a machine that opened the barrier before this one
    # From the end: nodes mostly get ready in the order of the dataflow, and one that is not decides.
    if any(not node.spec.is_dynamic and node.phase not in ready for node in reversed(run.nodes.values())):
        return
    open_barrier(run)


def open_barrier(run: RunState) -> None:
    """Start all nodes that wait at the barrier."""
    run.opened = True
    run.epoch_ns = round(run.now * 1e9)
    for node in run.nodes.values():
        if node.phase == "ready" and not node.machine:
            _start_node(run, node)
    review_stragglers(run)


def _start_node(run: RunState, node: NodeState) -> None:
    node.phase = "running"
    run.send(node, Started(run.epoch_ns))
    if node.restart_count or (node.spec.is_dynamic and node.outputs_closed):
        node.reopen_count += 1
        reopen_outputs(run, node)
    if node.inputs_closed:
        run.send(node, InputsClosed(sorted(node.inputs_closed)))
    parameters.send_changes(run, node)
    arm_health_check(run, node)
    process_runs(run, node)


def arm_health_check(run: RunState, node: NodeState) -> None:
    """Start the time again in which a running node has to show a sign of life."""
    timeout = node.spec.health_check_timeout
    checked = node.present and node.alive and not node.closed and node.kill_reason is None
    if timeout is not None and checked:
        run.arm(node, "health", timeout)
    else:
        run.disarm(node, "health")
