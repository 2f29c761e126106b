"""Changes of a dataflow on several machines, which the coordinator decides.

It asks every machine whether its part can become the dataflow to come (`ChangeChecked`), notes what it is
from now on, and tells them all (`ChangeOrdered`). What it says is the whole dataflow, with a number, and no
difference: so a machine that was away for some changes catches up with the last one. A node is put in or
taken out on all machines, and its own machine starts and ends its process:

* One that is added is started with the order; if it cannot be, the coordinator takes it out again.
* One that is to be taken out is *retired* first: its machine ends it, as for a removal, and its outputs
  stay open, so that consumers on all machines lose an input and not a source. Should the order not come,
  because the coordinator has died, they are told after `RETIRED_FOR` as if it had been stopped.
* One that is replaced is so by its own machine; the others hear of it afterwards.

A machine that gets its first node takes part without any at first, and has then a change like any other.
One whose last node was taken out is released. A dataflow on one machine, whose supervisor decides by
itself, is handed over before the first further machine joins.

News of other machines says which dataflow it is about, since they may be one change ahead or behind.
"""

from __future__ import annotations

import signal
from collections import deque

from dora.dataflow.model import Dataflow
from dora.supervise import commands as do
from dora.supervise import events as on
from dora.supervise.news import MachineNews
from dora.supervise.node_requests import NodeRequests
from dora.supervise.node_state import NodeState
from dora.supervise.run_state import STORY_LENGTH
from dora.wire.requests import Declined, Noted, Outdated


class Orders(NodeRequests):
    """The rules about changes that the coordinator decides."""

    def __init__(
        self,
        dataflow: Dataflow,
        watched: frozenset[str],
        reload_grace: float,
        grace: float,
        finish_grace: float | None,
    ) -> None:
        super().__init__(dataflow, watched, reload_grace, grace, finish_grace)
        self._latest: dict[str, MachineNews] = {}  # what each of the other machines has told last

    def why_not_handed_over(self) -> str:
        """Return why a dataflow on one machine cannot be changed by the coordinator now; "" if it can."""
        if self.spans:
            return ""
        busy = any(node.asked for node in self.nodes.values())
        return (
            self._cannot_change()
            or self._replacing()
            or ("a node is being stopped; try again once that is done" if busy else "")
        )

    def _handed_over(self, connection: int) -> None:
        if not self.spans:
            self.spans = True
            self.revision += 1  # what somebody has begun by what there was before comes to nothing
            self.dataflow = self._with_present_parameters(self.dataflow)
        self._reply(connection, Noted())

    def _change_checked(self, event: on.ChangeChecked) -> None:
        reason = self._cannot_change() or self._replacing()
        if not reason and event.revision <= self.revision:
            self._commands.append(do.Answer(event.connection, Outdated()))
            return
        reason = reason or self._why_no_input(event.dataflow)
        if reason:
            self._reply(event.connection, Declined(reason))
        else:
            self._commands.append(do.AnswerSent(event.connection))

    def _change_ordered(self, event: on.ChangeOrdered) -> None:
        """Become what the coordinator says; a machine that is ahead does nothing."""
        if event.revision <= self.revision or self.done:
            self._reply(event.connection, Noted())
            return
        self.spans = True
        for node_id, sent in event.sent.items():
            if (source := self.nodes.get(node_id)) is not None and source.machine:
                self._commands.append(do.NoteSent(node_id, sent))
        wanted = {spec.id: event.births.get(spec.id, 0) for spec in event.dataflow.nodes}
        for node in [node for key, node in self.nodes.items() if wanted.get(key) != node.birth]:
            self._prepare_to_leave(node, comes_again=node.spec.id in wanted)
        fresh = [spec for spec in event.dataflow.nodes if spec.id not in self.nodes]
        for spec in fresh:
            state = NodeState(spec, parameters=dict(spec.parameters), birth=wanted[spec.id])
            state.machine = event.elsewhere.get(spec.id, "")
            self.nodes[spec.id] = state
            self._stories[spec.id] = deque(maxlen=STORY_LENGTH)
        order = [spec.id for spec in event.dataflow.nodes]
        order += [node_id for node_id in self.nodes if node_id not in wanted]
        self.nodes = {node_id: self.nodes[node_id] for node_id in order}
        starts = [node for spec in fresh if not (node := self.nodes[spec.id]).machine]
        started = [node for node in starts if not (node.spec.is_dynamic or self.stopping or self.broken_by)]
        self._become(event.dataflow, None if started else event.connection)
        self.revision = event.revision
        for spec in fresh:
            self._begin_anew(self.nodes[spec.id], event.connection, started)
        self._renew_successors()
        self._note_links(event.added, event.removed)
        self._review_work(list(self.nodes))
        self._try_finish()

    def _begin_anew(self, node: NodeState, connection: int, started: list[NodeState]) -> None:
        if node.machine:
            node.phase = "dormant" if node.spec.is_dynamic else "starting"
            return
        self._note("info", node.spec.id, "was added to the dataflow")
        if node in started:
            node.added_by = connection
            self._spawn(node)
        elif not node.spec.is_dynamic:  # the dataflow is ending
            node.phase = "ended"
            self._close_outputs(node, set(self.graph.consumers[node.spec.id]))

    def _prepare_to_leave(self, node: NodeState, *, comes_again: bool) -> None:
        """Let go of a node that is not in the dataflow to come."""
        node_id = node.spec.id
        if not node.machine:
            if node.alive:  # nobody asked this machine to end it
                self._signal(node, signal.SIGKILL, "is not in the dataflow any more")
            self._note("info", node_id, "was removed from the dataflow")
        self._drop_successor(node)
        self._forget_requests(node)
        self._forget_deadlines(node)
        if comes_again:
            del self.nodes[node_id]
            del self._stories[node_id]

    def _released(self) -> None:
        """End this part, if there is nothing of the dataflow here."""
        if self.begun and all(node.machine for node in self.nodes.values()):
            self._finish()

    def _is_left_behind(self, node: NodeState) -> None:
        node.retired = False
        self._note(
            "warn", node.spec.id, "was stopped to be removed, but the coordinator has not removed it"
        )
        self._close_outputs(node, set(self.graph.consumers[node.spec.id]))

    def _note_links(self, added: str, removed: str) -> None:
        """Tell of links to nodes of this machine."""
        here = {node_id for node_id, node in self.nodes.items() if not node.machine}

        def of_here(text: str) -> str:
            return text if text.partition(" -> ")[2].partition("/")[0] in here else ""

        super()._note_links(of_here(added), of_here(removed))
