"""The life of a dataflow as a state machine: events in, commands out.

The `Supervisor` decides everything about starting, closing, failing, restarting and stopping, and
does nothing itself: it knows no process, no socket and no clock. The daemon feeds it with what
happened and when, carries out the commands, and says that time has passed at `Supervisor.next_deadline`,
after all that has happened by then. So every rule here is tested in microseconds, and any order of events
can be tried.

The idea is the worker state machine of dask.distributed: one mutator (`Supervisor.handle`), a story
that tells what happened to a node and why, and invariants that are checked after every step under
test.

Rules that are less obvious than they look:

* `NodeFailed` reaches a consumer before the `InputsClosed` of the same node. A Python program that
  dies of an exception closes its node first and fails a few milliseconds later, so after `NodeClosed` the
  consumers are told only once the process has ended, or `CLOSING_HOLD` later if it lives on.
* While a node may still be restarted its outputs stay open, whatever it says.
* New code of a node (hot reload) has rules of its own, in `dora.supervise.reload`; how nodes end, and what
  that means for others, is in `dora.supervise.endings`.
* Nobody waits for ever: every wait that depends on a process has a deadline after which the process
  is killed, and a process that survives SIGKILL is given up after `ABANDON_AFTER`.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

from dora.dataflow.model import Dataflow
from dora.dataflow.report import listed
from dora.supervise import commands as do
from dora.supervise import events as on
from dora.supervise.news import MachineNews
from dora.supervise.node_state import NodeState
from dora.supervise.orders import Orders
from dora.supervise.other_machines import OtherMachines
from dora.supervise.parameters import ParameterRules
from dora.supervise.reload import RELOAD_GRACE
from dora.supervise.restart import recent_restarts, restart_delay
from dora.supervise.result import FailureKind, NodeFailure
from dora.supervise.run_state import ABANDON_AFTER
from dora.supervise.verdict import describe_exit, judge
from dora.wire.control import InputsClosed, Started, Stop

DEFAULT_GRACE = 10.0  # seconds between the stop event and SIGTERM; half of it until SIGKILL
DEFAULT_FINISH_GRACE = 120.0


class Supervisor(Orders, OtherMachines, ParameterRules):
    """Supervise one run of a dataflow.

    All times are absolute, in seconds, on one clock that never goes back (``CLOCK_MONOTONIC``).
    ``grace`` is the time between the stop event and SIGTERM. ``finish_grace`` is how long a node may
    go on after all its inputs closed and everybody else is done (None: for ever); a node's own
    setting wins. ``watched`` are the nodes whose code may change (hot reload), ``elsewhere`` the nodes of
    other machines with their machine. ``births`` are as in `dora.dataflow.links.Place`, of a dataflow that
    has run without this machine.
    """

    def __init__(
        self,
        dataflow: Dataflow,
        *,
        grace: float = DEFAULT_GRACE,
        finish_grace: float | None = DEFAULT_FINISH_GRACE,
        watched: frozenset[str] = frozenset(),
        elsewhere: Mapping[str, str] | None = None,
        births: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(dataflow, watched, min(grace, RELOAD_GRACE), grace, finish_grace)
        self.spans = bool(elsewhere)
        for node_id, machine in (elsewhere or {}).items():
            self.nodes[node_id].machine = machine
        for node_id, node in self.nodes.items():
            node.birth = (births or {}).get(node_id, 0)

    def handle(self, event: on.Event, now: float) -> list[do.Command]:
        """Take one event in, and every deadline that is due; return what has to be done, in order.

        Deadlines that were due before wait for `TimePassed`, which comes after all that has happened by
        then: a daemon that was held up hears of it late, and not in its order.
        """
        self._now = now
        waiting = [] if isinstance(event, on.TimePassed) else self._due()
        self._dispatch(event)
        while due := [key for key in self._due() if key not in waiting]:
            key = min(due, key=self.deadlines.__getitem__)
            del self.deadlines[key]
            self._expire(*key)
        commands, self._commands = self._commands, []
        return commands

    def _due(self) -> list[tuple[str, str]]:
        return [key for key, time in self.deadlines.items() if time <= self._now]

    # ----------------------------------------------------------------------- events

    def _dispatch(self, event: on.Event) -> None:
        match event:
            case (
                on.ProcessEnded(node_id=node_id)
                | on.SuccessorEnded(node_id=node_id)
                | on.PortsReady(node_id=node_id)
                | on.Disconnected(node_id=node_id)
                | on.OutputsDone(node_id=node_id)
                | on.NodeClosed(node_id=node_id)
            ) if node_id not in self.nodes:
                pass  # it was removed, and its process given up before it ended
            case on.Begin():
                self._begin()
            case on.Spawned(node_id=node_id, pid=pid):
                self.nodes[node_id].pid = pid
                self._tell(node_id, f"started as process {pid}")
                self._added_is_there(self.nodes[node_id])
            case on.SpawnFailed(node_id=node_id, reason=reason):
                self._spawn_failed(self.nodes[node_id], reason)
            case on.ProcessEnded():
                self._process_ended(self.nodes[event.node_id], event)
            case on.CodeChanged():
                self._code_changed(self.nodes[event.node_id], event)
            case on.SuccessorEnded():
                self._successor_ended(self.nodes[event.node_id], event)
            case on.SuccessorReady():
                self._successor_ready(self.nodes[event.node_id], event)
            case on.Registering():
                self._register(event)
            case on.PortsReady(node_id=node_id):
                self._ready(self.nodes[node_id])
            case on.OutputsDone(node_id=node_id, outputs=outputs):
                node = self.nodes[node_id]
                node.outputs_said_closed.update(outputs)
                self._tell(node_id, f"said that it is done with {', '.join(outputs)}")
                if not self._may_restart(node):
                    self._close_outputs(node, set(outputs) - self.graph.text[node_id])
            case on.NodeClosed(node_id=node_id, undeclared=undeclared):
                self._node_closed(self.nodes[node_id], undeclared)
            case on.Disconnected(node_id=node_id):
                self._disconnected(self.nodes[node_id])
            case on.Progress(node_id=node_id):
                self._arm_health(self.nodes[node_id])
            case on.ParametersAsked() | on.ParameterSet() | on.ParameterDeleted():
                self._parameter_request(event)
            case on.NodeAsked():
                self._node_asked(event)
            case on.ChangeAsked():
                self._change_asked(event)
            case on.AskerGone(connection=connection):
                self._asker_gone(connection)
            case on.ReplaceAsked():
                self._replace_asked(event)
            case on.ChangeChecked():
                self._change_checked(event)
            case on.ChangeOrdered():
                self._change_ordered(event)
                for other, latest in list(self._latest.items()):  # it may be about nodes that are new here
                    self._take_news(other, latest)
            case on.HandedOver(connection=connection):
                self._handed_over(connection)
            case on.StopRequested(reason=reason, grace=grace):
                self._stop(reason, grace)
            case on.KillRequested():
                self._kill()
            case on.NewsArrived(machine=machine, news=news):
                self._take_news(machine, news)
            case on.MachineLost(machine=machine, reason=reason):
                self._lose(machine, reason)
            case on.Released():
                self._released()
            case on.TimePassed():
                pass

    def _begin(self) -> None:
        self.begun = True
        for node in self.nodes.values():
            if node.machine:
                node.phase = "dormant" if node.spec.is_dynamic else "starting"
            elif not node.spec.is_dynamic:
                self._spawn(node)
        self._try_open()
        self._try_finish()

    def _spawn_failed(self, node: NodeState, reason: str) -> None:
        if node.added_by is not None:
            self._added_fails(node, reason)
            return
        failure = NodeFailure(node.spec.id, "spawn", message=reason, restarts=len(node.restarts))
        if self._can_be_mended(node):
            self._mend(node, failure)
            return
        self._note("error", node.spec.id, reason)
        self._end(node, failure)

    def _register(self, event: on.Registering) -> None:
        node = self.nodes.get(event.node_id)
        if node is not None and self._is_successor(node, event):
            self._successor_registers(node, event.connection)
            return
        if refusal := self._refusal(node, event):
            self._commands.append(do.Refuse(event.connection, refusal))
            if node is not None:
                self._tell(event.node_id, f"was refused: {refusal}")
            return
        assert node is not None
        if node.spec.is_dynamic:
            node.phase = "starting"
        node.closed = False
        self.deadlines.pop((event.node_id, "startup"), None)
        self._admit(node, event.connection)
        self._tell(event.node_id, "connected")

    def _refusal(self, node: NodeState | None, event: on.Registering) -> str:
        """Return why a registration is refused; "" if it is not."""
        name = f"`{event.node_id}`"
        if node is None:
            return f"this dataflow has no node {name}; it has {listed(self.nodes)}"
        if node.machine:
            return f"node {name} is on machine `{node.machine}`"
        if node.spec.is_dynamic:
            if self.stopping or self.leaving or self.done:
                return f"the dataflow is ending; node {name} cannot join any more"
            if self.broken_by:
                return self._broken_reason()
            if node.phase != "dormant":
                return f"node {name} has joined already, from another process"
            return ""
        if event.dynamic:
            return f"node {name} is started by dora itself; only nodes with `path: dynamic` can be joined"
        if node.phase != "starting" or node.connected or event.incarnation != node.incarnation:
            return f"node {name} has been connected already; a process can take part once"
        if self.stopping:
            node.refused = "stopped"
            return "the dataflow is being stopped"
        if self.broken_by:
            node.refused = "broken"
            return self._broken_reason()
        return ""

    def _ready(self, node: NodeState) -> None:
        if node.phase != "starting" or not node.connected:
            return
        node.phase = "ready"
        self._tell(node.spec.id, "is ready")
        if node.refused:
            return  # it will read so
        if self.stopping:
            self._refuse_start(node, "stopped", "the dataflow is being stopped")
        elif self.broken_by:
            self._refuse_start(node, "broken", self._broken_reason())
        elif self.opened:
            self._start(node)
        else:
            self._try_open()

    def _node_closed(self, node: NodeState, undeclared: dict[str, int]) -> None:
        for output, count in undeclared.items():
            node.undeclared[output] = node.undeclared.get(output, 0) + count
        node.closed = True
        self.deadlines.pop((node.spec.id, "health"), None)
        self._tell(node.spec.id, "closed its node")
        if not node.spec.is_dynamic:
            self._hold_or_close(node)

    def _disconnected(self, node: NodeState) -> None:
        if not node.connected:
            return
        node.connected = False
        self.deadlines.pop((node.spec.id, "health"), None)
        self._tell(node.spec.id, "disconnected")
        if node.spec.is_dynamic:
            self._dynamic_left(node)
        elif node.phase == "ready" and not node.refused:
            # It gave up waiting at the barrier; the process may try once more, or end.
            node.phase = "starting"
        elif node.phase == "running" and not node.closed:
            node.closed = True
            self._hold_or_close(node)

    def _dynamic_left(self, node: NodeState) -> None:
        was_running = node.phase == "running"
        node.phase = "dormant"
        self._forget_deadlines(node)
        self._commands.append(do.CloseReceivers(node.spec.id))
        if was_running and not node.closed:
            self._note("warn", node.spec.id, "the connection broke; the node did not say goodbye")
            self._announce_failure(node, f"the connection to dynamic node `{node.spec.id}` broke")
        if node.asked:
            self._asked_left(node)
            return
        self._close_outputs(node, set(node.spec.outputs))
        self._try_finish()

    def _process_ended(self, node: NodeState, end: on.ProcessEnded) -> None:
        if node.phase not in ("starting", "ready", "running"):
            return
        node.connected = False
        words = describe_exit(end.exit_code, end.signal)
        self._tell(node.spec.id, f"its process {words}")
        asked_to_end = self.stopping or node.makes_way or bool(node.asked)
        failure = judge(node, end, stopping=asked_to_end, opened=self.opened)
        if node.asked:
            self._asked_is_over(node, failure)
            return
        delay = None
        if self._may_restart(node):
            delay = restart_delay(node.spec.restart, failure is not None, node.restarts, self._now)
        if self._follow(node, words, needed=failure is not None or delay is not None):
            return
        if delay is None:
            if failure is not None and self._can_be_mended(node):
                self._mend(node, failure)
            else:
                self._end(node, failure)
            return
        node.phase = "backoff"
        node.failure = failure
        self._forget_deadlines(node)
        self.deadlines[node.spec.id, "restart"] = self._now + delay
        self._commands.append(do.CloseReceivers(node.spec.id))
        reason = failure.message if failure is not None else words
        when = f"in {delay:g} s" if delay else "now"
        limit = node.spec.restart.max_restarts
        count = len(recent_restarts(node.spec.restart, node.restarts, self._now)) + 1
        of_limit = f" of {limit}" if limit else ""
        self._note("warn", node.spec.id, f"{reason}; restarting {when} (restart {count}{of_limit})")

    # ----------------------------------------------------------------------- start

    def _try_open(self) -> None:
        """Open the start barrier once every node that dora starts waits at it."""
        if not self.begun or self.opened or self.broken_by or self.stopping:
            return
        ready = ("ready", "running")  # the latter on a machine that knew first
        if any(not node.spec.is_dynamic and node.phase not in ready for node in self.nodes.values()):
            return
        self._open()

    def _open(self) -> None:
        self.opened = True
        self.epoch_ns = round(self._now * 1e9)
        for node in self.nodes.values():
            if node.phase == "ready" and not node.machine:
                self._start(node)
        self._review_stragglers()

    def _start(self, node: NodeState) -> None:
        node.phase = "running"
        self._send(node, Started(self.epoch_ns))
        self._tell(node.spec.id, "runs")
        if node.restart_count or (node.spec.is_dynamic and node.outputs_closed):
            node.reopened += 1
            self._reopen_outputs(node)
        if node.inputs_closed:
            self._send(node, InputsClosed(sorted(node.inputs_closed)))
        self._tell_parameters(node)
        self._arm_health(node)
        self._new_process_runs(node)

    # ----------------------------------------------------------------------- other machines

    def _take_news(self, machine: str, news: MachineNews) -> None:
        self._latest[machine] = news
        if not self.begun or self.done:
            return
        # Another supervisor opens only when it knows that the nodes of all machines are ready.
        if news.opened and not (self.opened or self.broken_by or self.stopping):
            self._open()
        if news.killing and not self.killing:
            self._kill()
        elif news.stopping:
            self._stop(f"machine `{machine}` stops")
        for node_id, item in news.nodes.items():
            node = self.nodes.get(node_id)
            if node is None or node.machine != machine or self.done:
                continue
            if news.revision >= node.birth:  # else it is about another one of this name
                self._mirror(node, item)
        self._try_open()

    # ----------------------------------------------------------------------- stop

    def _stop(self, reason: str, grace: float | None = None) -> None:
        if self.stopping or self.leaving:
            return
        self.stopping = True
        if grace is not None:
            self._grace = grace
        self.deadlines.setdefault(("", "term"), self._now + self._grace)
        for node in self.nodes.values():
            if node.machine:
                continue
            self._forget_reload(node)
            self._forget_requests(node)
            if node.phase == "backoff":
                self._end(node, None)
            elif node.phase == "mending":
                self._end(node, node.failure)
            elif node.present:
                self._send(node, Stop())
                self._tell(node.spec.id, f"was asked to stop: {reason}")
            elif node.phase == "ready" or (node.phase == "starting" and node.connected):
                self._refuse_start(node, "stopped", "the dataflow is being stopped")
            elif node.alive and node.phase == "starting":
                # No stop event can reach it, and there is no work of its to lose yet.
                node.refused = "stopped"
                self._signal(node, signal.SIGTERM, "has not connected yet")
        self._try_finish()

    def _kill(self) -> None:
        self._stop("at once")
        self.killing = True
        if self.leaving:
            self._finish()
            return
        self._kill_all("was killed because the dataflow had to end at once")
        self._try_finish()  # nobody may be left here

    def _kill_all(self, message: str) -> None:
        for name in ("unready", "term", "kill"):
            self.deadlines.pop(("", name), None)
        for node in self._alive():
            self._doom(node, "grace", message)
        if any(self._alive()):
            self.deadlines["", "abandon"] = self._now + ABANDON_AFTER

    # ----------------------------------------------------------------------- deadlines

    def _expire(self, node_id: str, name: str) -> None:
        if node_id:
            self._expire_node(self.nodes[node_id], name)
            return
        match name:
            case "unready":
                for node in self._alive():
                    if node.phase == "starting" and not node.connected:
                        node.refused = "broken"
                        self._signal(node, signal.SIGTERM, "the dataflow could not start")
            case "term":
                for node in self._alive():
                    self._signal(node, signal.SIGTERM, f"has not ended within {self._grace:g} s")
                self.deadlines["", "kill"] = self._now + self._grace / 2
            case "kill":
                self._kill_all(
                    f"had to be killed: it did not end within the grace duration of {self._grace:g} s, "
                    f"nor {self._grace / 2:g} s after SIGTERM"
                )
            case "abandon":
                for node in self._alive():
                    self._abandon(node)
            case "farewell":
                self._finish()

    def _expire_node(self, node: NodeState, name: str) -> None:
        key = node.spec.id
        match name:
            case "restart":
                node.restarts.append(self._now)
                self._spawn(node)
            case "startup":
                seconds = node.spec.startup_timeout
                message = f"was killed: it had not connected within its `startup_timeout` of {seconds:g} s"
                self._doom_one(node, "startup_timeout", message)
            case "health":
                seconds = node.spec.health_check_timeout
                message = f"was killed: no sign of life within its `health_check_timeout` of {seconds:g} s"
                self._doom_one(node, "health_check", message)
            case "finish":
                message = "was killed: it outlived its closed inputs by more than `finish_grace_secs`"
                self._doom_one(node, "grace", message)
            case "hold":
                self._close_outputs(node, set(self.graph.consumers[key]) - self.graph.text[key])
            case "abandon":
                self._abandon(node)
            case "asked" | "asked-kill":
                self._asked_expires(node, name)
            case "retired":
                self._is_left_behind(node)
            case "successor" | "way" | "way-kill":
                self._reload_expires(node, name)

    def _doom_one(self, node: NodeState, kind: FailureKind, message: str) -> None:
        self._note("error", node.spec.id, message)
        self._doom(node, kind, message)
        self.deadlines[node.spec.id, "abandon"] = self._now + ABANDON_AFTER

    def _abandon(self, node: NodeState) -> None:
        message = f"process {node.pid} could not be killed; it is left behind"
        self._note("error", node.spec.id, message)
        kind = node.doom[0] if node.doom is not None else "grace"
        self._end(node, NodeFailure(node.spec.id, kind, message=message, restarts=len(node.restarts)))

    def _arm_health(self, node: NodeState) -> None:
        timeout = node.spec.health_check_timeout
        if timeout is not None and node.present and node.alive and not node.closed and node.doom is None:
            self.deadlines[node.spec.id, "health"] = self._now + timeout
        else:
            self.deadlines.pop((node.spec.id, "health"), None)
