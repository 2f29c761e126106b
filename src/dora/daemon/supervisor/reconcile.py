"""Carries out a change of the dataflow: takes nodes in and out, starts them, and reviews the others.

Whether the change is possible was decided before, in `dora.daemon.supervisor.changes`.
"""

from __future__ import annotations

import signal

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.closing import close_all_outputs, end_node, review_work, take_out, try_finish
from dora.daemon.supervisor.events import ChangeRequested, InputFailed
from dora.daemon.supervisor.handover import drop_replacement, renew_replacements, start_program
from dora.daemon.supervisor.operations import cancel_requests
from dora.daemon.supervisor.state import NodeState, RunState
from dora.daemon.supervisor.topology import apply_dataflow, take_parameters
from dora.wire.daemon_protocol import ApplyChange, Ok, Rejected
from dora.wire.operations import DisconnectOperation


def reconcile(run: RunState, event: ChangeRequested) -> None:
    """Bring this machine to the dataflow, and the revision, of a change."""
    request, dataflow = event.request, event.dataflow
    proposal = request.proposal
    assert isinstance(request, ApplyChange)
    run.distributed = run.distributed or any(event.elsewhere.values())
    for node_id, sent in request.sent.items():
        if (source := run.nodes.get(node_id)) is not None and source.machine:
            run.emit(do.SetSentCounts(node_id, sent))
    wanted = {spec.id: proposal.generations.get(spec.id, 0) for spec in dataflow.nodes}
    for node in [node for key, node in run.nodes.items() if wanted.get(key) != node.generation]:
        _remove(run, node, comes_again=node.id in wanted)
    replaced = [
        node
        for key, node in run.nodes.items()
        if key in wanted and not node.machine and node.program != proposal.program_of(key)
    ]
    for node in replaced:
        take_parameters(run, node, dataflow)
        node.program = proposal.program_of(node.id)
    added = []
    for spec in dataflow.nodes:
        if spec.id not in run.nodes:
            node = run.add_node(spec)
            node.generation = wanted[spec.id]
            node.program = proposal.program_of(spec.id)
            node.machine = event.elsewhere.get(spec.id, "")
            added.append(node)
    _sort_nodes(run, list(wanted))
    is_ending = run.stopping or run.broken_by
    to_start = [
        node
        for node in added + replaced
        if not (node.machine or node.spec.is_dynamic or node.alive or is_ending)
    ]
    connection = None if to_start else event.connection
    apply_dataflow(run, dataflow, connection, added={node.id for node in added})
    run.revision = proposal.revision  # `apply_dataflow` counts one, and this machine may have missed more
    for node in to_start:
        node.added_by = event.connection
    for node in added:
        if node in to_start:
            run.log("info", node, "was added to the dataflow")
            run.spawn(node)
        else:
            _add_without_process(run, node)
    for node in replaced:
        if not is_ending:
            start_program(run, node)
    renew_replacements(run)
    _log_link(run, proposal.added, "was connected to")
    _log_link(run, proposal.removed, "was disconnected from")
    review_work(run, list(run.nodes))
    try_finish(run)


def _sort_nodes(run: RunState, order: list[str]) -> None:
    """Put the nodes into the order of the dataflow; those that leave come last."""
    leaving = [node_id for node_id in run.nodes if node_id not in order]
    nodes = {node_id: run.nodes[node_id] for node_id in [*order, *leaving]}
    run.nodes.clear()  # the mapping stays the same object: others hold it
    run.nodes.update(nodes)


def _add_without_process(run: RunState, node: NodeState) -> None:
    if node.machine:
        node.phase = "dormant" if node.spec.is_dynamic else "starting"
        return
    run.log("info", node, "was added to the dataflow")
    if not node.spec.is_dynamic:  # the dataflow is ending
        node.phase = "ended"
        close_all_outputs(run, node)


def _remove(run: RunState, node: NodeState, *, comes_again: bool) -> None:
    """Prepare a node to leave the dataflow; ``comes_again``: another one has the same name."""
    if not node.machine:
        if node.alive:  # this machine was not asked to end it
            run.signal(node, signal.SIGKILL)
        elif node.spec.is_dynamic and node.connected:
            run.emit(do.Disconnect(node.id))
        run.log("info", node, "was removed from the dataflow")
    drop_replacement(run, node)
    cancel_requests(run, node)
    run.disarm_all(node)
    if comes_again:
        del run.nodes[node.id]


def _log_link(run: RunState, link: str, what: str) -> None:
    """Log a changed link ("a/out -> b/in") to a node of this machine."""
    source, _, target = link.partition(" -> ")
    node_id, _, input_id = target.partition("/")
    node = run.nodes.get(node_id)
    if node is not None and not node.machine:
        run.log("info", node, f"its input `{input_id}` {what} `{source}`")


def remove_failed_input(run: RunState, event: InputFailed) -> None:
    """Take out an input that a node could not make, with its link."""
    from dora.dataflow.edit import without_link  # only for changes of a running dataflow

    if (node := run.nodes.get(event.node_id)) is None:
        return
    if run.coordinated:  # the coordinator takes it out, if it still waits for the answer
        run.log("error", node, f"its input `{event.input_id}` cannot be made: {event.reason}")
        return
    if not any(item.id == event.input_id and str(item.source) == event.source for item in node.spec.inputs):
        return  # it was disconnected meanwhile
    operation = DisconnectOperation(event.source, f"{event.node_id}/{event.input_id}")
    apply_dataflow(run, without_link(run.dataflow, operation).dataflow)
    run.log("error", node, f"its input `{event.input_id}` was disconnected again: {event.reason}")
    renew_replacements(run)
    review_work(run, [node.id])


def added_node_spawned(run: RunState, node: NodeState) -> None:
    """Inform the client that a node that it added, or a program that it exchanged, has a process."""
    if node.added_by is not None:
        run.reply(node.added_by, Ok())
        node.added_by = None


def added_node_failed(run: RunState, node: NodeState, connection: int, reason: str) -> None:
    """Take out a node that was added but could not even be started."""
    run.reply(connection, Rejected(f"node `{node.id}` {reason}"))
    node.added_by = None
    if run.coordinated or node.program:  # the coordinator undoes the change; only the program is new
        end_node(run, node, None)
        return
    node.phase = "ended"
    take_out(run, node)
    try_finish(run)
