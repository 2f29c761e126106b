"""How outputs close and nodes end, and when the dataflow has: what one end means for the others."""

from __future__ import annotations

from typing import Literal

from dora.dataflow.model import Dataflow
from dora.supervise import commands as do
from dora.supervise.node_state import NodeState
from dora.supervise.reload import Reloads
from dora.supervise.result import NodeFailure
from dora.wire.control import InputsClosed, NodeFailed, StartRefused, Stop

CLOSING_HOLD = 1.0
BROKEN_START_GRACE = 1.0  # for nodes that could not yet be told that the start failed
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
        for consumer_id in closed:
            consumer = self.nodes[consumer_id]
            if not self._work_done(consumer):
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

    def _announce_failure(self, node: NodeState, error: str) -> None:
        for consumer_id, inputs in self.graph.inputs_fed_by(node.spec.id).items():
            consumer = self.nodes[consumer_id]
            affected = [input_id for input_id in inputs if input_id not in consumer.inputs_closed]
            if affected and consumer.present and consumer is not node:
                self._send(consumer, NodeFailed(node.spec.id, error, affected))

    # ----------------------------------------------------------------------- nodes

    def _end(self, node: NodeState, failure: NodeFailure | None) -> None:
        """A node ended for good."""
        node.phase = "ended"
        node.connected = False
        self._forget_reload(node)
        self._forget_deadlines(node)
        self._commands.append(do.CloseReceivers(node.spec.id))
        if failure is not None:
            self.failures.append(failure)
            self._tell(node.spec.id, f"failed: {failure.message}")
            if self.opened and not self.stopping and failure.kind == "exit":
                # The others may go on for hours before the report tells it. (Other kinds are told already.)
                self._commands.append(do.Note("error", node.spec.id, failure.message))
            if failure.kind != "cascading":
                self._announce_failure(node, f"node `{node.spec.id}` failed: {failure.message}")
        else:
            self._tell(node.spec.id, "ended")
        self._close_outputs(node, set(self.graph.consumers[node.spec.id]))
        if self.begun and not (self.opened or self.broken_by or self.stopping):
            self._break(node)
        self._try_finish()

    def _break(self, culprit: NodeState) -> None:
        """The start barrier cannot open any more: end what was started."""
        self.broken_by = culprit.spec.id
        for node in self.nodes.values():
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
            if only_stragglers and grace is not None and node.doom is None:
                self.deadlines.setdefault(key, self._now + grace)
            else:
                self.deadlines.pop(key, None)

    # ----------------------------------------------------------------------- the dataflow

    def _try_finish(self) -> None:
        """End the dataflow if nobody is left whom it has to wait for."""
        if not self.begun or self.done:
            return
        static = [node for node in self.nodes.values() if not node.spec.is_dynamic]
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
