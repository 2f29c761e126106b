"""New code for a running dataflow: which process gets it, and what happens if it does not start.

A node's new code starts in a second process, the *successor*, while the old one goes on. Code that
cannot be imported therefore changes nothing. When the successor comes to `Node()`, it is held there;
the old process is asked to end (`Reload`, then `Stop`), and once it has, the successor takes its place.
So two processes of one node exist at once, but never two that send and deliver. Where the engine allows
it, the successor makes all its preparations before that, and its queues fill already: it begins with the
message after the last one that the old process took. A node for which
even that is too much (``hot_reload: replace``) has no successor; its new code starts once it has ended.

Operators are exchanged inside their runtime, which does the same with objects.

While a process is starting, nobody knows which code it has read. What is saved then is remembered
and acted upon as soon as the process runs; only one that is not even connected, and may never be, gets
a successor at once. A node that fails for good is not given up but *mending*: its outputs stay open,
and it is started again when its code changes.
"""

from __future__ import annotations

import signal

from dora.dataflow.model import Dataflow
from dora.supervise import commands as do
from dora.supervise import events as on
from dora.supervise.excerpt import in_one_line
from dora.supervise.node_state import NodeState, Successor
from dora.supervise.result import NodeFailure
from dora.supervise.run_state import ABANDON_AFTER
from dora.supervise.topology import Topology
from dora.supervise.verdict import describe_exit
from dora.wire.control import Reload, Stop
from dora.wire.requests import Declined, Noted

RELOAD_GRACE = 5.0  # seconds between the stop event and SIGTERM; half of it until SIGKILL


class Reloads(Topology):
    """The rules about changed code. ``watched`` holds the nodes whose code may change."""

    def __init__(self, dataflow: Dataflow, watched: frozenset[str], reload_grace: float) -> None:
        super().__init__(dataflow)
        self._watched = watched
        self._reload_grace = reload_grace
        self.stands_by = False  # whether successors can make ready while the old process runs

    def watch(self, nodes: frozenset[str]) -> None:
        """Say whose code may change from now on."""
        self._watched = nodes

    def _code_changed(self, node: NodeState, change: on.CodeChanged) -> None:
        if self.stopping or self.broken_by or self.done or node.asked:
            return
        if node.replacement is not None:
            node.unseen_change = _both(node.unseen_change, change)
            return
        runs = node.phase == "running" and not node.closed
        # Perhaps it never will.
        has_not_connected = node.phase == "starting" and self.opened and not node.connected
        match node.phase:
            case "running" if runs and node.spec.is_runtime:
                self._send(node, Reload(list(change.operators), list(change.modules)))
                self._tell(node.spec.id, f"was told of new code of {', '.join(change.operators)}")
            case "running" | "starting" if runs or has_not_connected:
                if node.spec.hot_reload == "replace":
                    self._note("info", node.spec.id, "its code has changed; the old code has to end first")
                    self._make_way(node)
                else:
                    self._note("info", node.spec.id, "its code has changed; the new code is being started")
                    self._start_successor(node)
            case "starting" | "ready" | "running":
                node.unseen_change = _both(node.unseen_change, change)
            case "mending" | "backoff":
                self._note("info", node.spec.id, "its code has changed; it is started again")
                self._start_anew(node)
            case "ended":
                self._note("warn", node.spec.id, "its code has changed, but it has ended already")

    def _new_process_runs(self, node: NodeState) -> None:
        """Act on what was saved while this process was starting."""
        if node.fresh:
            node.fresh = False
            self._note("info", node.spec.id, "runs its new code")
        change, node.unseen_change = node.unseen_change, None
        if change is not None:
            self._code_changed(node, change)

    # ----------------------------------------------------------------------- the successor

    def _start_successor(self, node: NodeState) -> None:
        self._drop_successor(node)
        node.successor = Successor(self._next_incarnation(node))
        if node.spec.startup_timeout is not None:
            self.deadlines[node.spec.id, "successor"] = self._now + node.spec.startup_timeout
        self._commands.append(do.SpawnSuccessor(node.spec.id, node.successor.incarnation, node.replacement))
        self._tell(node.spec.id, "its new code is being started")

    def _is_successor(self, node: NodeState | None, event: on.Registering) -> bool:
        return (
            node is not None
            and node.successor is not None
            and node.successor.connection is None
            and node.successor.incarnation == event.incarnation
        )

    def _successor_registers(self, node: NodeState, connection: int) -> None:
        assert node.successor is not None
        node.successor.connection = connection
        self.deadlines.pop((node.spec.id, "successor"), None)
        if not self.stands_by:
            self._tell(node.spec.id, "its new code waits to take over")
            self._make_way(node)
            return
        successor = node.successor
        given = {} if node.replacement is None else node.replacement.node(node.spec.id).parameters
        successor.parameters = dict(given or node.parameters)
        self._tell(node.spec.id, "its new code makes ready to take over")
        self._commands.append(
            do.AdmitSuccessor(
                connection, node.spec.id, node.restart_count + 1, successor.parameters, node.replacement
            )
        )

    def _successor_ready(self, node: NodeState, event: on.SuccessorReady) -> None:
        if node.successor is not None and node.successor.incarnation == event.incarnation:
            self._tell(node.spec.id, "its new code stands by")
            self._make_way(node)

    def _renew_successors(self) -> None:
        """Let successors that stand by learn of links that are others now."""
        for node in self.nodes.values():
            if node.successor is not None and node.successor.connection is not None and self.stands_by:
                self._start_successor(node)

    def _make_way(self, node: NodeState) -> None:
        """Ask a process to end, for the new code to follow."""
        if node.makes_way:
            return
        node.makes_way = True
        if node.present:
            self.deadlines[node.spec.id, "way"] = self._now + self._grace_of(node)
            self._send(node, Reload())
            self._send(node, Stop())
            self._tell(node.spec.id, "was asked to make way for its new code")
        else:  # it has no work to lose
            self._hurry(node)

    def _successor_ended(self, node: NodeState, end: on.SuccessorEnded) -> None:
        if node.successor is None or node.successor.incarnation != end.incarnation:
            return
        node.successor = None
        self.deadlines.pop((node.spec.id, "successor"), None)
        why = end.reason or in_one_line(end.last_lines) or describe_exit(end.exit_code, end.signal)
        if node.replacement is not None:
            how = "ended before it took over" if node.makes_way else "does not start, the old one goes on"
            self._note("error", node.spec.id, f"what was to replace it {how}: {why}")
            self._give_up_replacement(node, f"what was to replace node `{node.spec.id}` {how}: {why}")
        elif node.makes_way:
            self._note("error", node.spec.id, f"the new code ended before it took over: {why}")
        else:
            self._note("error", node.spec.id, f"the new code does not start, the old code goes on: {why}")

    def _drop_successor(self, node: NodeState) -> None:
        if node.successor is not None:
            node.successor = None
            self.deadlines.pop((node.spec.id, "successor"), None)
            self._commands.append(do.DropSuccessor(node.spec.id))

    def _give_up_replacement(self, node: NodeState, reason: str) -> None:
        if node.replacement is not None:
            node.replacement = None
            self._reply(node.replaced_by, Declined(reason))

    def _grace_of(self, node: NodeState) -> float:
        return self._reload_grace if node.replacement is None else node.asked_grace

    def _forget_reload(self, node: NodeState) -> None:
        """The dataflow ends: this process is the node's last one."""
        self._drop_successor(node)
        self._give_up_replacement(node, f"node `{node.spec.id}` ends before it could be replaced")
        node.makes_way = False
        node.unseen_change = None
        for name in ("way", "way-kill"):
            self.deadlines.pop((node.spec.id, name), None)

    def _reload_expires(self, node: NodeState, name: str) -> None:
        key = node.spec.id
        if name == "successor":
            seconds = node.spec.startup_timeout
            message = f"had not connected within its `startup_timeout` of {seconds:g} s"
            self._note("error", key, f"the new code was killed, the old code goes on: it {message}")
            self._drop_successor(node)
            self._give_up_replacement(node, f"what was to replace node `{key}` was killed: it {message}")
        elif name == "way":
            message = f"its old code has not ended within {self._grace_of(node):g} s; it gets SIGTERM"
            self._note("warn", key, message)
            self._hurry(node)
        else:
            self._signal(node, signal.SIGKILL, "has to make way for its new code")
            self.deadlines[key, "abandon"] = self._now + ABANDON_AFTER

    def _hurry(self, node: NodeState) -> None:
        self._signal(node, signal.SIGTERM, "has to make way for its new code")
        self.deadlines[node.spec.id, "way-kill"] = self._now + self._grace_of(node) / 2

    # ----------------------------------------------------------------------- after a process

    def _follow(self, node: NodeState, words: str, *, needed: bool) -> bool:
        """Let new code follow a process that ended; False if there is none that should.

        ``needed``: the process failed, or would be restarted. Of one that ended well, and was not
        asked to, the work is done. ``words`` say how it ended.
        """
        if self.stopping or self.broken_by or self._work_done(node):
            return False
        if node.successor is not None and (node.makes_way or needed):
            if not node.makes_way:
                self._note("warn", node.spec.id, f"{words}; its new code takes over")
            self._succeed(node)
        elif node.makes_way:  # it had no successor, or that has ended
            self._start_anew(node)
        else:
            return False
        return True

    def _succeed(self, node: NodeState) -> None:
        key, successor = node.spec.id, node.successor
        assert successor is not None
        node.successor = None
        self._forget_deadlines(node)
        node.phase = "starting"
        node.connected = node.closed = node.makes_way = False
        node.doom = None
        node.pid = None
        node.incarnation = successor.incarnation
        node.reloads += 1
        stands_by = self.stands_by and successor.connection is not None
        if not stands_by:  # else its links stay as they are
            self._commands.append(do.CloseReceivers(key))
        if (dataflow := node.replacement) is not None:
            node.replacement = None
            self._take_parameters(node, dataflow)
            self._become(dataflow)
            self._note("info", key, "was replaced")
            self._reply(node.replaced_by, Noted())
        else:
            node.fresh = True
        self._commands.append(do.Succeed(key, node.restart_count))
        self._tell(key, "its new code takes over")
        if stands_by:
            node.connected = True
            node.parameters_told = successor.parameters
        elif successor.connection is not None:
            self._admit(node, successor.connection)
        elif node.spec.startup_timeout is not None:
            self.deadlines[key, "startup"] = self._now + node.spec.startup_timeout

    def _start_anew(self, node: NodeState) -> None:
        node.reloads += 1
        node.fresh = True
        node.failure = node.unseen_change = None
        self._forget_deadlines(node)
        self._commands.append(do.CloseReceivers(node.spec.id))
        self._spawn(node)

    def _can_be_mended(self, node: NodeState) -> bool:
        return (
            node.spec.id in self._watched
            and self.opened
            and not (self.stopping or self.broken_by)
            and not self._work_done(node)
        )

    def _mend(self, node: NodeState, failure: NodeFailure) -> None:
        """A node failed for good, for this code."""
        node.phase = "mending"
        node.connected = node.makes_way = False
        node.failure = failure
        self._forget_deadlines(node)
        self._commands.append(do.CloseReceivers(node.spec.id))
        self._note("error", node.spec.id, f"{failure.message}; it is started again when its code changes")
        if (change := node.unseen_change) is not None:
            self._code_changed(node, change)


def _both(earlier: on.CodeChanged | None, later: on.CodeChanged) -> on.CodeChanged:
    if earlier is None:
        return later
    return on.CodeChanged(
        later.node_id,
        tuple(dict.fromkeys(earlier.operators + later.operators)),
        tuple(dict.fromkeys(earlier.modules + later.modules)),
    )
