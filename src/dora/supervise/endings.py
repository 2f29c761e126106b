"""How outputs close and nodes end, and when the dataflow has: what one end means for the others."""

from __future__ import annotations

from typing import Literal

import msgspec

from dora.dataflow.change import without_node
from dora.dataflow.model import Dataflow
from dora.supervise import commands as do
from dora.supervise.excerpt import in_one_line
from dora.supervise.node_state import NodeState
from dora.supervise.reload import Reloads
from dora.supervise.result import NodeFailure
from dora.wire.control import InputsClosed, NodeFailed, NodeRestarted, StartRefused, Stop
from dora.wire.requests import Done

CLOSING_HOLD = 1.0
BROKEN_START_GRACE = 1.0  # for nodes that could not yet be told that the start failed
RETIRED_FOR = 30.0  # seconds that the coordinator may take to take out a node that has ended for that
FAREWELL = 1.0  # for dynamic nodes, once everybody else has ended


class Endings(Reloads):
    """The rules about closing and ending. ``grace`` and ``finish_grace`` as for the `Supervisor`."""

    def __init__(
        self,
        dataflow: Dataflow,
        watched: frozenset[str],
        reload_grace: float,
        grace: float,
        finish_grace: float | None,
    ) -> None:
        super().__init__(dataflow, watched, reload_grace)
        self._folder = f"{dataflow.working_dir}/"
        self._grace = grace
        self._finish_grace = finish_grace

    # ----------------------------------------------------------------------- outputs

    def _hold_or_close(self, node: NodeState) -> None:
        if not self._may_restart(node) and node.phase == "running":
            self.deadlines.setdefault((node.spec.id, "hold"), self._now + CLOSING_HOLD)

    def _close_outputs(self, node: NodeState, outputs: set[str]) -> None:
        fresh = outputs - node.outputs_closed
        node.outputs_closed |= fresh
        closed: dict[str, list[str]] = {}
        for output in sorted(fresh):
            for consumer_id, input_id in self.graph.consumers[node.spec.id].get(output, ()):
                if input_id not in self.nodes[consumer_id].inputs_closed:
                    closed.setdefault(consumer_id, []).append(input_id)
        for consumer_id, inputs in closed.items():
            consumer = self.nodes[consumer_id]
            consumer.inputs_closed.update(inputs)
            self._tell(consumer_id, f"inputs closed by `{node.spec.id}`: {', '.join(inputs)}")
            if consumer.present:
                self._send(consumer, InputsClosed(inputs))
        self._review_work(list(closed))

    def _review_work(self, node_ids: list[str]) -> None:
        """Draw the conclusions for nodes whose inputs have closed, or are others than before."""
        for consumer_id in node_ids:
            consumer = self.nodes.get(consumer_id)
            if consumer is None or consumer.machine or not self._work_done(consumer):
                continue
            if consumer.is_between:
                self._tell(consumer_id, "is not started again: all its inputs have closed")
                self._end(consumer, consumer.failure)
            # What it held back because it might have been restarted can close now.
            elif consumer.phase == "running":
                if consumer.closed:
                    self._hold_or_close(consumer)
                elif consumer.outputs_said_closed:
                    self._close_outputs(
                        consumer, consumer.outputs_said_closed - self.graph.text[consumer_id]
                    )
        self._review_stragglers()

    def _reopen_outputs(self, node: NodeState) -> None:
        """Tell consumers that a node is back; inputs that a dynamic node left behind open again."""
        node.outputs_closed.clear()
        node.outputs_said_closed.clear()
        for consumer_id, inputs in self.graph.inputs_fed_by(node.spec.id).items():
            consumer = self.nodes[consumer_id]
            consumer.inputs_closed.difference_update(inputs)
            if consumer.present and consumer is not node:
                self._send(consumer, NodeRestarted(node.spec.id))
        self._review_stragglers()

    def _announce_failure(self, node: NodeState, error: str) -> None:
        if not node.machine:
            node.announced += 1
            node.announcement = error
        for consumer_id, inputs in self.graph.inputs_fed_by(node.spec.id).items():
            consumer = self.nodes[consumer_id]
            affected = [input_id for input_id in inputs if input_id not in consumer.inputs_closed]
            if affected and consumer.present and consumer is not node:
                self._send(consumer, NodeFailed(node.spec.id, error, affected))

    # ----------------------------------------------------------------------- nodes

    def _end(self, node: NodeState, failure: NodeFailure | None) -> None:
        """A node ended for good."""
        if node.asked:  # and it did not even need to be
            self._reply(node.asked_by, Done(True))
            node.leaves, node.retired = node.asked == "remove", node.asked == "retire"
            node.asked = ""
        node.phase = "ended"
        node.connected = False
        self._forget_reload(node)
        self._forget_deadlines(node)
        self._commands.append(do.CloseReceivers(node.spec.id))
        if failure is not None:
            failure = self._blame(failure)
            self.failures.append(failure)
            self._tell(node.spec.id, f"failed: {failure.message}")
            if self.opened and not self.stopping and failure.kind == "exit":
                # The others may go on for hours before the report tells it. (Other kinds are told already.)
                self._commands.append(self._obituary(failure))
            if failure.kind != "cascading":
                self._announce_failure(node, f"node `{node.spec.id}` failed: {failure.message}")
        else:
            self._tell(node.spec.id, "ended")
        if node.leaves:
            self._take_out(node)
        elif node.retired:  # its consumers go on without it, see `dora.supervise.orders`
            self.deadlines[node.spec.id, "retired"] = self._now + RETIRED_FOR
        else:
            self._close_outputs(node, set(self.graph.consumers[node.spec.id]))
        if self.begun and not (self.opened or self.broken_by or self.stopping):
            self._break(node)
        self._try_finish()

    def _take_out(self, node: NodeState) -> None:
        """Take a node that has ended out of the dataflow."""
        self._note("info", node.spec.id, "was removed from the dataflow")
        consumers = list(self.graph.inputs_fed_by(node.spec.id))
        self._become(without_node(self.dataflow, node.spec.id))
        self._renew_successors()
        self._review_work(consumers)

    def _blame(self, failure: NodeFailure) -> NodeFailure:
        """Say in a failure which one it follows from: the first, if that node feeds this one."""
        if not self.failures or failure.kind == "cascading":
            return failure
        first = self.failures[0].node_id
        if not self.graph.feeds(first, failure.node_id):
            return failure
        return msgspec.structs.replace(failure, follows=first)

    def _obituary(self, failure: NodeFailure) -> do.Note:
        """Return the line of the log about a failure: how it ended, what it said, and what came first."""
        text = failure.message
        if (words := in_one_line(failure.last_lines)) and failure.exit_code:
            text += f": {words.replace(self._folder, '')}"
        if not self.failures[:-1]:
            return do.Note("error", failure.node_id, f"{text} (first failure)", {"cause": "first"})
        if failure.follows:
            text += f" (after the failure of `{failure.follows}`, which feeds it)"
            return do.Note("error", failure.node_id, text, {"cause": failure.follows})
        return do.Note("error", failure.node_id, text)

    def _break(self, culprit: NodeState) -> None:
        """The start barrier cannot open any more: end what was started."""
        self.broken_by = culprit.spec.id
        for node in self.nodes.values():
            if node.machine:
                continue
            # One that is still connecting may be waiting for the very node that ended.
            if node.phase == "ready" or (node.phase == "starting" and node.connected):
                self._refuse_start(node, "broken", self._broken_reason())
            elif node.phase == "backoff":
                self._end(node, node.failure)
        self.deadlines["", "unready"] = self._now + BROKEN_START_GRACE
        self.deadlines.setdefault(("", "term"), self._now + self._grace)

    def _refuse_start(self, node: NodeState, why: Literal["broken", "stopped"], reason: str) -> None:
        node.refused = why
        self._send(node, StartRefused(reason))
        self._tell(node.spec.id, f"was not let in: {reason}")

    def _review_stragglers(self) -> None:
        """Arm the guard of every node once all that are left have nothing to wait for."""
        left = [node for node in self.nodes.values() if node.alive or node.is_between]
        only_stragglers = self.opened and all(self._work_done(node) for node in left)
        for node in left:
            key = (node.spec.id, "finish")
            grace = node.spec.finish_grace
            if grace is None:
                grace = self._finish_grace
            if only_stragglers and grace is not None and node.doom is None and not node.machine:
                self.deadlines.setdefault(key, self._now + grace)
            else:
                self.deadlines.pop(key, None)

    # ----------------------------------------------------------------------- the dataflow

    def _try_finish(self) -> None:
        """End the dataflow if nobody is left whom it has to wait for."""
        if not self.begun or self.done:
            return
        static = [
            node
            for node in self.nodes.values()
            if not (node.spec.is_dynamic or (node.machine and self.killing))
        ]
        if any(node.phase != "ended" for node in static):
            return
        guests = [node for node in self.nodes.values() if node.spec.is_dynamic and node.connected]
        if not static and not self.stopping and any(n.spec.is_dynamic for n in self.nodes.values()):
            return
        if not self.leaving:
            self.leaving = True
            self.deadlines.clear()
            for node in guests:
                if node.phase == "ready":
                    self._refuse_start(node, "stopped", "the dataflow is ending")
                elif node.phase == "running" and not self.stopping:
                    self._send(node, Stop())
            if guests:
                self.deadlines["", "farewell"] = self._now + FAREWELL
        if not guests:
            self._finish()

    def _finish(self) -> None:
        if self.done:
            return
        self.done = True
        self.deadlines.clear()
        self._commands.append(do.Finish())
