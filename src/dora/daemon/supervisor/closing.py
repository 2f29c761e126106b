"""Closes outputs, ends nodes and finishes the dataflow: what the end of one node means for the others."""

from __future__ import annotations

from typing import Literal

import msgspec

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.handover import end_handover, renew_replacements
from dora.daemon.supervisor.result import NodeFailure
from dora.daemon.supervisor.state import NodeState, PendingOperation, RunState
from dora.daemon.supervisor.topology import apply_dataflow
from dora.wire.node_protocol import (
    InputsClosed,
    NodeFailedFrame,
    NodeRestartedFrame,
    StartRefused,
    StopFrame,
)
from dora.wire.operations import OperationResult

# In seconds.
CLOSING_HOLD = 10.0  # for the end of a process whose node has closed; a slow exit handler may delay it
BROKEN_START_GRACE = 1.0  # for nodes that could not be informed yet that the start failed
LAST_GRACE = 1.0  # for dynamic nodes, once all other nodes have ended; nobody kills their processes


# --------------------------------------------------------------------------- outputs


def hold_or_close(run: RunState, node: NodeState) -> None:
    """Close the outputs of a node that closed, unless its process ends soon and says more."""
    if not run.may_restart(node) and node.phase == "running":
        run.arm(node, "hold", CLOSING_HOLD, keep=True)


def hold_expired(run: RunState, node: NodeState) -> None:
    """Close the outputs of a node that closed, although its process lives on."""
    close_outputs(run, node, set(run.graph.consumers[node.id]) - run.graph.text[node.id])


def outputs_done(run: RunState, node: NodeState, outputs: list[str]) -> None:
    """Close outputs that a node is done with, unless another process of it may follow."""
    node.outputs_done.update(outputs)
    if not run.may_restart(node):
        close_outputs(run, node, set(outputs) - run.graph.text[node.id])


def close_outputs(run: RunState, node: NodeState, outputs: set[str]) -> None:
    """Close outputs of a node and inform their consumers."""
    newly_closed = outputs - node.outputs_closed
    node.outputs_closed |= newly_closed
    affected = []
    for consumer_id, inputs in run.graph.inputs_fed_by(node.id, newly_closed).items():
        consumer = run.nodes[consumer_id]
        closing = [input_id for input_id in inputs if input_id not in consumer.inputs_closed]
        if closing:
            affected.append(consumer_id)
            consumer.inputs_closed.update(closing)
            if consumer.present:
                run.send(consumer, InputsClosed(closing))
    _review_consumers(run, affected)
    if not run.has_stragglers:  # a closing cannot change that
        review_stragglers(run)


def close_all_outputs(run: RunState, node: NodeState) -> None:
    """Close all outputs of a node."""
    close_outputs(run, node, set(run.graph.consumers[node.id]))


def review_work(run: RunState, node_ids: list[str]) -> None:
    """Draw the conclusions for nodes whose inputs have changed."""
    _review_consumers(run, node_ids)
    review_stragglers(run)


def _review_consumers(run: RunState, node_ids: list[str]) -> None:
    for node_id in node_ids:
        node = run.nodes.get(node_id)
        if node is None or (node.machine and not node.awaits_machine) or not run.work_done(node):
            continue
        if node.between_processes:
            end_node(run, node, node.failure)
        # Outputs that stayed open because of a possible restart can close now.
        elif node.phase == "running":
            if node.closed:
                hold_or_close(run, node)
            elif node.outputs_done:
                close_outputs(run, node, node.outputs_done - run.graph.text[node_id])


def reopen_outputs(run: RunState, node: NodeState) -> None:
    """Inform consumers that a node is back; inputs that a dynamic node left behind open again."""
    node.outputs_closed.clear()
    node.outputs_done.clear()
    for consumer_id, inputs in run.graph.inputs_fed_by(node.id).items():
        consumer = run.nodes[consumer_id]
        consumer.inputs_closed.difference_update(inputs)
        if consumer.present and consumer is not node:
            run.send(consumer, NodeRestartedFrame(node.id))
    review_stragglers(run)


def announce_failure(run: RunState, node: NodeState, error: str) -> None:
    """Inform consumers that a node failed.

    The affected inputs are the open ones, or all that the node feeds when it failed after they closed.
    """
    if not node.machine:
        node.announced_failures += 1
        node.announcement = error
    for consumer_id, inputs in run.graph.inputs_fed_by(node.id).items():
        consumer = run.nodes[consumer_id]
        still_open = [input_id for input_id in inputs if input_id not in consumer.inputs_closed]
        if inputs and consumer.present and consumer is not node:
            run.send(consumer, NodeFailedFrame(node.id, error, still_open or list(inputs)))


# --------------------------------------------------------------------------- nodes


def end_node(run: RunState, node: NodeState, failure: NodeFailure | None) -> None:
    """End a node for good."""
    if (operation := node.operation) is not None:  # the node ended before dora had to act
        end_operation(run, node, operation)
    node.awaits_machine = False
    end_handover(run, node)
    run.end_process(node, "ended")
    if failure is not None:
        failure = with_root_cause(run, failure)
        run.failures.append(failure)
        run.mark("failed", node, failure.why())
        if run.opened and not run.stopping and failure.kind == "exit":
            # The others may go on for hours before the final report. (Other kinds are in the log already.)
            run.emit(_failure_note(run, failure))
        if failure.kind != "cascading":
            # Before the outputs close: consumers get `NODE_FAILED`, then `INPUT_CLOSED`.
            announce_failure(run, node, f"node `{node.id}` failed: {failure.message}")
    if node.removing:
        take_out(run, node)
    else:
        close_all_outputs(run, node)
    break_start_if_closed(run, node)
    try_finish(run)


def end_operation(
    run: RunState, node: NodeState, operation: PendingOperation, *, was_running: bool = True
) -> None:
    """End an operation, and answer its client. A node that leaves is taken out afterwards."""
    node.operation = None
    node.removing = operation.kind == "remove"
    if node.removing:
        run.emit(do.AnswerNodeRemoved(operation.connection, node.id, was_running))
    else:
        run.reply(operation.connection, OperationResult(node.id, was_running))


def take_out(run: RunState, node: NodeState) -> None:
    """Take a node that has ended out of the dataflow.

    Its outputs have stayed open until now, so its consumers lose an input, and not a source.
    """
    from dora.dataflow.edit import without_node  # only for changes of a running dataflow

    run.log("info", node, "was removed from the dataflow")
    consumers = list(run.graph.inputs_fed_by(node.id))
    apply_dataflow(run, without_node(run.dataflow, node.id))
    renew_replacements(run)
    review_work(run, consumers)


def with_root_cause(run: RunState, failure: NodeFailure) -> NodeFailure:
    """Return a failure with its root cause: the first failed node, if that feeds this one."""
    if not run.failures or failure.kind == "cascading":
        return failure
    if run.killing and failure.kind == "grace":  # it was killed with the first one, not because of it
        return failure
    first = run.failures[0].node_id
    if not run.graph.feeds(first, failure.node_id):
        return failure
    return msgspec.structs.replace(failure, follows=first)


def _failure_note(run: RunState, failure: NodeFailure) -> do.Log:
    """Return the log entry of a failure: the exit, the error message, and the root cause."""
    text = failure.why(run.dataflow.working_dir)
    if not run.failures[:-1]:
        return do.Log("error", failure.node_id, f"{text} (first failure)", {"cause": "first"})
    if failure.follows:
        text += f" (after the failure of `{failure.follows}`, which feeds it)"
        return do.Log("error", failure.node_id, text, {"cause": failure.follows})
    return do.Log("error", failure.node_id, text)


def break_start_if_closed(run: RunState, culprit: NodeState) -> None:
    """After a node ended: if the start barrier is still closed, it cannot open; end what was started."""
    if not run.begun or run.opened or run.broken_by or run.stopping or culprit.absent:
        return
    run.broken_by = culprit.id
    for node in run.nodes.values():
        if node.machine:
            continue
        # A node that is still connecting may be waiting for the very node that ended.
        if node.phase == "ready" or (node.phase == "starting" and node.connected):
            refuse_start(run, node, "broken", run.broken_reason)
        elif node.phase == "backoff":
            end_node(run, node, node.failure)
    run.arm(None, "unready", BROKEN_START_GRACE)
    run.arm(None, "term", run.grace, keep=True)


def refuse_start(run: RunState, node: NodeState, why: Literal["broken", "stopped"], reason: str) -> None:
    """Inform a node that it does not take part."""
    node.refused = why
    run.send(node, StartRefused(reason))


def review_stragglers(run: RunState) -> None:
    """Limit the time of every node once none of those left has anything to wait for."""
    # From the end: nodes mostly end in the order of the dataflow, and the first that works decides.
    only_stragglers = run.opened and all(
        run.work_done(node) for node in reversed(run.nodes.values()) if _is_left(node)
    )
    if not (only_stragglers or run.has_stragglers):
        return
    run.has_stragglers = only_stragglers
    for node in filter(_is_left, run.nodes.values()):
        grace = run.finish_grace if node.spec.finish_grace is None else node.spec.finish_grace
        if only_stragglers and grace is not None and node.kill_reason is None and not node.machine:
            run.arm(node, "finish", grace, keep=True)
        else:
            run.disarm(node, "finish")


def _is_left(node: NodeState) -> bool:
    return node.alive or node.between_processes


# --------------------------------------------------------------------------- the dataflow


def try_finish(run: RunState) -> None:
    """Finish the dataflow once all nodes have ended that it has to wait for."""
    if not run.begun or run.done:
        return
    # From the end, see `review_stragglers`.
    if any(node.phase != "ended" for node in reversed(run.nodes.values()) if _is_waited_for(run, node)):
        return
    waited_for = any(_is_waited_for(run, node) for node in run.nodes.values())
    dynamic = [node for node in run.nodes.values() if node.spec.is_dynamic]
    if dynamic and not waited_for and not run.stopping:
        return
    connected = [node for node in dynamic if node.connected]
    if not run.only_dynamic_left:
        run.only_dynamic_left = True
        run.deadlines.clear()
        for node in connected:
            if node.phase == "ready":
                refuse_start(run, node, "stopped", "the dataflow is ending")
            elif node.phase == "running" and not run.stopping:
                run.send(node, StopFrame())
        if connected:
            run.arm(None, "last-grace", LAST_GRACE)
    if not connected:
        finish(run)


def _is_waited_for(run: RunState, node: NodeState) -> bool:
    """Return whether the dataflow goes on for as long as a node does."""
    return not (node.spec.is_dynamic or (node.machine and run.killing))


def finish(run: RunState) -> None:
    """The dataflow has ended."""
    if run.done:
        return
    run.done = True
    run.deadlines.clear()
    run.emit(do.Finish())
