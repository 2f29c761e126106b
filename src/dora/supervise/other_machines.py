"""Nodes of other machines: what is known of them, and what that means for the nodes of this one.

Each machine has a supervisor for its share of a dataflow. It knows the whole graph, decides about its own
nodes, and sees those of other machines as their supervisors tell: `MachineNews` holds everything that
others have to know, so only the latest counts, and after a connection was cut nothing has to be said again.
From the same news every supervisor draws the same conclusions: when the start barrier opens, which
inputs are closed, when the dataflow has ended.
"""

from __future__ import annotations

from dora.supervise import commands as do
from dora.supervise.endings import Endings
from dora.supervise.news import MachineNews, NodeNews
from dora.supervise.node_state import NodeState
from dora.supervise.result import NodeFailure


class OtherMachines(Endings):
    """The rules about nodes of other machines."""

    def news(self) -> MachineNews:
        """Return what the other machines have to know of this one."""
        failures = {failure.node_id: failure for failure in self.failures}
        return MachineNews(
            nodes={
                node_id: NodeNews(
                    phase=node.phase,
                    outputs_closed=tuple(sorted(node.outputs_closed)),
                    reopened=node.reopened,
                    announced=node.announced,
                    announcement=node.announcement,
                    failure=failures.get(node_id) if node.phase == "ended" else None,
                )
                for node_id, node in self.nodes.items()
                if not node.machine
            },
            revision=self.revision,
            opened=self.opened,
            stopping=self.stopping,
            killing=self.killing,
        )

    def _mirror(self, node: NodeState, news: NodeNews) -> None:
        """Take over what another supervisor says of one of its nodes."""
        if node.phase == "ended":
            self._mirror_closings(node, news)  # of one that was retired
            return
        node_id = node.spec.id
        if news.announced > node.announced:
            node.announced = news.announced
            self._announce_failure(node, news.announcement)
        if news.reopened > node.reopened:
            node.reopened = news.reopened
            self._reopen_outputs(node)
        self._mirror_closings(node, news)
        before, node.phase = node.phase, news.phase
        if before == news.phase:
            return
        self._tell(node_id, f"is {news.phase} on machine `{node.machine}`")
        if news.phase in ("ended", "backoff", "mending", "dormant"):
            self._commands.append(do.CloseReceivers(node_id))
        if news.phase == "ended":
            if news.failure is not None:
                self.failures.append(self._blame(news.failure))
            if self.begun and not (self.opened or self.broken_by or self.stopping):
                self._break(node)
            self._try_finish()

    def _mirror_closings(self, node: NodeState, news: NodeNews) -> None:
        if closed := set(news.outputs_closed) - node.outputs_closed:
            self._commands.append(do.NoteSent(node.spec.id, news.sent))
            self._close_outputs(node, closed)

    def _lose(self, machine: str, reason: str) -> None:
        """A machine is lost, and its nodes with it."""
        lost = [node for node in self.nodes.values() if node.machine == machine and node.phase != "ended"]
        if not lost:
            return
        message = f"machine `{machine}` is lost: {reason}"
        self._commands.append(do.Note("error", None, message))
        for node in lost:
            # A dynamic node that was not there has nothing to fail with.
            failed = not (node.spec.is_dynamic and node.phase == "dormant")
            failure = NodeFailure(node.spec.id, "machine", message=message, restarts=len(node.restarts))
            self._end(node, failure if failed else None)
