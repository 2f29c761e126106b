"""What somebody asks of a running dataflow: stop, restart or remove a node, add one, change links.

Whoever asks is answered when it is done: when a process has ended, when another one exists, when the links
are laid. If the dataflow is stopped meanwhile, the answer is that.

A node that shall end is asked to (`Stop`), gets SIGTERM after its grace and SIGKILL after half of it
again. What it sends until then arrives; its consumers are told after that.
"""

from __future__ import annotations

import signal

from dora.dataflow.model import Dataflow
from dora.dataflow.report import no_node
from dora.supervise import commands as do
from dora.supervise import events as on
from dora.supervise.endings import Endings
from dora.supervise.node_state import NodeState
from dora.supervise.result import NodeFailure
from dora.supervise.run_state import ABANDON_AFTER
from dora.wire.control import Stop
from dora.wire.requests import Declined, Done, Noted, Outdated

NODE_GRACE = 5.0  # seconds between the stop event and SIGTERM; half of it until SIGKILL

_DOING = {"stop": "stopped", "restart": "restarted", "remove": "removed", "retire": "removed"}


class NodeRequests(Endings):
    """The rules about requests. At most one concerns a node at a time."""

    def _cannot_change(self) -> str:
        """Return why nothing can be changed now; "" if it can."""
        if self.stopping or self.leaving or self.done or self.broken_by:
            return "the dataflow is ending"
        if not self.opened:
            return "the dataflow is still starting; try again once all its nodes run"
        return ""

    def _several_machines(self) -> str:
        return (
            "the dataflow runs on several machines, which only its coordinator changes"
            if self.spans
            else ""
        )

    # ----------------------------------------------------------------------- one node

    def _node_asked(self, event: on.NodeAsked) -> None:
        """Stop, restart or remove a node."""
        node = self.nodes.get(event.node_id)
        if node is None:
            reason = no_node(event.node_id, self.nodes)
        else:
            reason = self._cannot_change() or self._why_not(node, event.what)
        if node is None or reason:
            self._reply(event.connection, Declined(reason))
            return
        if event.what != "restart" and node.phase == "ended":
            self._reply(event.connection, Done(False))
            if event.what == "remove":
                self._take_out(node)
                self._try_finish()
            return
        self._forget_reload(node)
        node.asked = event.what
        node.asked_by = event.connection
        node.asked_grace = NODE_GRACE if event.grace is None else event.grace
        self._tell(node.spec.id, f"is to be {_DOING[event.what]}")
        self.deadlines.pop((node.spec.id, "hold"), None)
        if node.present:
            self._send(node, Stop())
        elif node.spec.is_dynamic and node.connected:
            self._commands.append(do.PutOut(node.spec.id))
        elif node.alive and not node.closed:  # it has no work to lose
            self._hasten(node)
            return
        elif not node.alive:  # nothing has to end
            self._asked_is_over(node, node.failure if node.phase == "mending" else None)
            return
        self.deadlines[node.spec.id, "asked"] = self._now + node.asked_grace

    def _why_not(self, node: NodeState, what: str) -> str:
        name = f"node `{node.spec.id}`"
        if node.asked:
            return f"{name} is being {_DOING[node.asked]} already"
        if what in ("remove", "retire") and (busy := self._replacing(node.spec.id)):
            return busy
        if node.machine:
            return f"{name} is on machine `{node.machine}`; ask there"
        if what == "remove" and (several := self._several_machines()):
            return several
        if node.spec.is_dynamic and what not in ("remove", "retire"):
            return f"{name} is not started by dora, so it cannot be {_DOING[what]}; its process is yours"
        return ""

    def _asked_is_over(self, node: NodeState, failure: NodeFailure | None) -> None:
        """The process of a node that was asked to end has ended, or there was none."""
        what, node.asked = node.asked, ""
        self._forget_deadlines(node)
        self._reply(node.asked_by, Done(True))
        node.leaves, node.retired = what == "remove", what == "retire"
        if what != "restart":
            self._end(node, failure)
            return
        if failure is not None:
            self._note("warn", node.spec.id, failure.message)
        self._note("info", node.spec.id, "is started again, as was asked")
        node.restarts.append(self._now)
        node.failure = None
        self._commands.append(do.CloseReceivers(node.spec.id))
        self._spawn(node)

    def _asked_left(self, node: NodeState) -> None:
        """A dynamic node that is to be removed has left, or was put out."""
        what, node.asked = node.asked, ""
        self._reply(node.asked_by, Done(True))
        if what == "retire":
            node.retired = True
            self._end(node, None)
        else:
            self._take_out(node)
            self._try_finish()

    def _asked_expires(self, node: NodeState, name: str) -> None:
        key, grace = node.spec.id, node.asked_grace
        if name == "asked" and node.spec.is_dynamic:
            self._note("warn", key, f"has not left within {grace:g} s; its connection is closed")
            self._commands.append(do.PutOut(key))
            self.deadlines[key, "asked"] = self._now + max(grace, 1.0)
        elif name == "asked":
            self._note("warn", key, f"has not ended within {grace:g} s; it gets SIGTERM")
            self._hasten(node)
        else:
            message = (
                f"had to be killed: it did not end within {grace:g} s, nor {grace / 2:g} s after SIGTERM"
            )
            self._note("error", key, message)
            self._doom(node, "grace", message)
            self.deadlines[key, "abandon"] = self._now + ABANDON_AFTER

    def _hasten(self, node: NodeState) -> None:
        self._signal(node, signal.SIGTERM, f"is to be {_DOING[node.asked]}")
        self.deadlines[node.spec.id, "asked-kill"] = self._now + node.asked_grace / 2

    def _forget_requests(self, node: NodeState) -> None:
        """The dataflow is stopped: that comes first."""
        if node.asked:
            node.asked = ""
            self._reply(node.asked_by, Declined("the dataflow is being stopped"))
        if node.added_by is not None:
            self._reply(node.added_by, Declined("the dataflow is being stopped"))
            node.added_by = None
        for name in ("asked", "asked-kill"):
            self.deadlines.pop((node.spec.id, name), None)

    # ----------------------------------------------------------------------- nodes and links

    def _change_asked(self, event: on.ChangeAsked) -> None:
        """Become a dataflow with a node or a link more, or a link less."""
        reason = self._cannot_change() or self._several_machines() or self._replacing()
        if not reason and event.revision != self.revision:
            self._reply(event.connection, Outdated())
            return
        reason = reason or self._why_no_input(event.dataflow)
        if reason:
            self._reply(event.connection, Declined(reason))
            return
        fresh = [spec for spec in event.dataflow.nodes if spec.id not in self.nodes]
        self._become(event.dataflow, None if fresh else event.connection)
        for spec in fresh:
            node = self.nodes[spec.id]
            self._note("info", spec.id, "was added to the dataflow")
            if spec.is_dynamic:
                self._reply(event.connection, Noted())
            else:
                node.added_by = event.connection
                self._spawn(node)
        self._renew_successors()
        self._note_links(event.added, event.removed)
        self._review_work(list(self.nodes))
        self._try_finish()

    def _note_links(self, added: str, removed: str) -> None:
        for text, what in ((added, "was connected to"), (removed, "was disconnected from")):
            if text:
                source, _, target = text.partition(" -> ")
                node_id, _, input_id = target.partition("/")
                self._note("info", node_id, f"its input `{input_id}` {what} `{source}`")

    def _why_no_input(self, dataflow: Dataflow) -> str:
        """Return why a node cannot get a further input any more; "" if all can."""
        for spec in dataflow.nodes:
            node = self.nodes.get(spec.id)
            if node is None or {item.id for item in spec.inputs} <= {item.id for item in node.spec.inputs}:
                continue
            name = f"node `{spec.id}`"
            if node.asked:
                return f"{name} is being {_DOING[node.asked]}"
            if node.phase == "ended":
                return f"{name} has ended; `dora node restart {spec.id}` starts it again"
            if node.phase == "running" and (node.closed or self._work_done(node)):
                return f"all inputs of {name} have closed, so it is about to end"
        return ""

    def _added_is_there(self, node: NodeState) -> None:
        if node.added_by is not None:
            self._reply(node.added_by, Noted())
            node.added_by = None

    def _added_fails(self, node: NodeState, reason: str) -> None:
        """A node that was added could not even be started: it was never part of the dataflow."""
        assert node.added_by is not None
        self._reply(node.added_by, Declined(f"node `{node.spec.id}` {reason}"))
        if self.spans:  # the coordinator takes it out
            node.added_by = None
            self._end(node, None)
            return
        node.phase = "ended"
        self._take_out(node)
        self._try_finish()

    # ----------------------------------------------------------------------- replacement

    def _replacing(self, but: str = "") -> str:
        for node in self.nodes.values():
            if node.replacement is not None and node.spec.id != but:
                return f"node `{node.spec.id}` is being replaced; try again once that is done"
        return ""

    def _asker_gone(self, connection: int) -> None:
        """Give up a replacement that nobody waits for; its program may never get as far as its `Node()`."""
        for node in self.nodes.values():
            if node.replacement is not None and node.replaced_by == connection and not node.makes_way:
                self._note("info", node.spec.id, "is not replaced: the command was broken off")
                self._drop_successor(node)
                node.replacement = None

    def _replace_asked(self, event: on.ReplaceAsked) -> None:
        """Start the process of a node's other program, which is to take over."""
        node = self.nodes.get(event.node_id)
        reason = self._cannot_change() or ("" if event.ordered else self._several_machines())
        reason = reason or self._replacing()
        if not reason and any(other.asked for other in self.nodes.values()):
            reason = "a node is being stopped; try again once that is done"
        if reason:
            self._reply(event.connection, Declined(reason))
            return
        if node is None or event.revision != self.revision:
            self._reply(event.connection, Outdated())
            return
        self._forget_reload(node)
        if not node.alive:
            self._take_parameters(node, event.dataflow)
            self._become(event.dataflow)
            node.restarts.append(self._now)
            node.failure = None
            self._forget_deadlines(node)
            self._note("info", node.spec.id, "was replaced")
            node.added_by = None
            self._spawn(node)
            self._reply(event.connection, Noted())
            self._review_work(list(self.nodes))
            return
        node.replacement = event.dataflow
        node.replaced_by = event.connection
        node.asked_grace = NODE_GRACE if event.grace is None else event.grace
        self._note("info", node.spec.id, "is being replaced; what replaces it is being started")
        self._start_successor(node)
