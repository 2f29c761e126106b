"""Supervision of a dataflow as a state machine: events in, commands out.

The `Supervisor` decides everything about starting, closing, failing, restarting and stopping, and
performs nothing itself: it knows no process, no socket and no clock. The daemon passes events with
their time, carries out the commands, and reports with `TimePassed` that `Supervisor.next_deadline`
has come, after all events before it. So every rule is tested in microseconds, and tests can try any
order of events.

The idea is the worker state machine of dask.distributed: one entry point (`Supervisor.handle`), and
invariants that tests check after every step. The state is a record (`RunState`); the rules are functions
in the other modules of this package.

Rules that are less obvious than they look:

* `NodeFailed` reaches a consumer before the `InputsClosed` of the same node. A Python program that
  dies of an exception closes its node first and fails milliseconds to seconds later, so after
  `Closing` the consumers are informed only once the process has ended, or `CLOSING_HOLD` later
  if it lives on. A failure after that is announced late.
* While a node may still be restarted its outputs stay open, whatever it says.
* New code of a node (hot reload) has rules of its own, in `dora.daemon.supervisor.handover`.
* Nothing waits for ever: every wait that depends on a process has a deadline after which the
  process is killed, and a process that survives SIGKILL is abandoned after `ABANDON_AFTER`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dora.daemon.supervisor import (
    changes,
    closing,
    handover,
    operations,
    parameters,
    peers,
    processes,
    reconcile,
    restart,
    safe_states,
    start,
    stopping,
)
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.consumer_graph import NodeGraph
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.state import (
    DEFAULT_FINISH_GRACE,
    DEFAULT_GRACE,
    DeadlineName,
    NodeState,
    RunState,
)
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.model import Dataflow
from dora.wire import daemon_protocol, node_protocol
from dora.wire.operations import program_key


class Supervisor:
    """Supervise one run of a dataflow.

    All times are absolute, in seconds, on one clock that never goes back (``CLOCK_MONOTONIC``).
    """

    def __init__(
        self,
        dataflow: Dataflow,
        *,
        grace: float = DEFAULT_GRACE,
        finish_grace: float | None = DEFAULT_FINISH_GRACE,
        coordinated: bool = False,
        elsewhere: Mapping[str, str] | None = None,
        generations: Mapping[str, int] | None = None,
        revision: int = 0,
        former: PeerStatus | None = None,
    ) -> None:
        """Prepare a run; `handle` of a `Begin` starts it.

        ``grace`` is the time between the stop event and SIGTERM. ``finish_grace`` is how long a node may go
        on after all its inputs closed and all other nodes are done (None: for ever); a node's own setting
        wins. ``coordinated``: a coordinator has started the dataflow, and commits its changes.
        ``elsewhere`` gives the machine of a node on another machine. ``generations`` are as in
        `dora.dataflow.layout.Placement`. ``revision`` counts the changes of the dataflow so far, if it has
        run without this machine. ``former`` is the status of this machine's nodes as the others know it, if
        this machine has lost them: it starts those again that have not ended.
        """
        self.state = RunState(
            dataflow,
            NodeGraph(dataflow),
            grace=grace,
            finish_grace=finish_grace,
            coordinated=coordinated,
            distributed=bool(elsewhere),
            revision=revision,
            former=former,
        )
        for node_id, node in self.state.nodes.items():
            node.machine = (elsewhere or {}).get(node_id, "")
            node.generation = (generations or {}).get(node_id, 0)
            node.program = (generations or {}).get(program_key(node_id), 0)

    def handle(self, event: on.Event, now: float) -> list[do.Command]:
        """Handle one event, and every deadline that is due; return the commands to perform, in order.

        Deadlines that were due before the event wait for `TimePassed`, which comes after all events
        before it: a daemon that was held up learns of these events late, and not in their order.
        """
        run = self.state
        run.now = now
        waiting = [] if isinstance(event, on.TimePassed) else self._due()
        self._dispatch(event)
        while due := [key for key in self._due() if key not in waiting]:
            key = min(due, key=run.deadlines.__getitem__)
            del run.deadlines[key]
            node_id, name = key
            if node_id:
                _NODE_DEADLINES[name](run, run.nodes[node_id])
            else:
                stopping.run_deadline_expired(run, name)
        commands, run.commands = run.commands, []
        return commands

    def next_deadline(self) -> float | None:
        """Return the time of the earliest deadline, None if there is none."""
        return self.state.next_deadline()

    def alive(self) -> list[str]:
        """Return the nodes that have a process."""
        return [node_id for node_id, node in self.state.nodes.items() if node.alive]

    def result(self, dataflow_id: str) -> DataflowResult:
        """Return how the run ended so far; root causes come first, nodes that others pulled down last."""
        run = self.state
        failed = {failure.node_id for failure in run.failures}
        return DataflowResult(
            dataflow_id=dataflow_id,
            failures=tuple(sorted(run.failures, key=lambda failure: failure.kind == "cascading")),
            undeclared={key: node.undeclared for key, node in run.nodes.items() if node.undeclared},
            stopped=run.stopping,
            overdue=tuple(key for key, node in run.nodes.items() if node.overdue and key not in failed),
            machine_losses=dict(run.machine_losses),
        )

    def status(self) -> PeerStatus:
        """Return the status of this machine for its peers."""
        return peers.known_status(self.state, "")

    def known_status(self, machine: str) -> PeerStatus:
        """Return the status of another machine's nodes as it is known here."""
        return peers.known_status(self.state, machine)

    def watch(self, nodes: frozenset[str]) -> None:
        """Set the nodes whose code may change from now on (hot reload)."""
        self.state.watched = nodes

    def _due(self) -> list[tuple[str, DeadlineName]]:
        if (first := self.state.next_deadline()) is None or first > self.state.now:
            return []
        return [key for key, time in self.state.deadlines.items() if time <= self.state.now]

    def _dispatch(self, event: on.Event) -> None:
        run = self.state
        match event:
            case on.Begin():
                start.begin(run)
            case on.Registering():
                start.register(run, event)
            case on.RequestReceived(connection=connection, request=request):
                if isinstance(request, on.ParameterRequest):
                    run.reply(connection, parameters.answer_request(run, request))
                else:
                    operations.begin_operation(run, connection, request)
            case on.ChangeRequested():
                changes.request_change(run, event)
                if isinstance(event.request, daemon_protocol.ApplyChange):
                    peers.repeat_status(run)
            case on.InputFailed():
                reconcile.remove_failed_input(run, event)
            case on.ClientDisconnected(connection=connection):
                changes.client_disconnected(run, connection)
            case on.StopRequested(grace=grace):
                stopping.stop(run, grace)
            case on.MessageReceived(message=node_protocol.StopDataflow()):
                stopping.stop(run)
            case on.KillRequested(reason=reason):
                stopping.kill(run, reason)
            case on.PeerStatusReceived(machine=machine, status=status):
                peers.take_status(run, machine, status)
            case on.OtherMachineLost(machine=machine, reason=reason):
                peers.lose_machine(run, machine, reason, may_return=event.may_return)
            case on.Released():
                changes.release(run)
            case on.TimePassed():
                pass
            case _:
                # A node that was removed may still have a process, which was abandoned.
                if (node := run.nodes.get(event.node_id)) is not None:
                    _handle_node_event(run, node, event)


def _handle_node_event(run: RunState, node: NodeState, event: on.NodeEvent) -> None:
    match event:
        case on.Spawned(pid=pid):
            processes.spawned(run, node, pid)
        case on.SpawnFailed(reason=reason):
            processes.spawn_failed(run, node, reason)
        case on.ProcessEnded():
            processes.process_ended(run, node, event)
        case on.CodeChanged():
            handover.code_changed(run, node, event)
        case on.ReplacementEnded():
            handover.replacement_ended(run, node, event)
        case on.ReplacementReady():
            handover.replacement_ready(run, node, event)
        case on.MessageReceived(message=message):
            _handle_message(run, node, message)
        case on.Disconnected():
            processes.disconnected(run, node)
        case on.Progress():
            start.arm_health_check(run, node)


def _handle_message(run: RunState, node: NodeState, message: on.NodeMessage) -> None:
    match message:
        case node_protocol.Ready():
            start.ports_ready(run, node)
        case node_protocol.OutputsClosed(outputs=outputs):
            closing.outputs_done(run, node, outputs)
        case node_protocol.Closing(undeclared=undeclared):
            processes.node_closed(run, node, undeclared)
        case node_protocol.OperatorFailure(operator=operator):
            node.failed_operator = operator
        case node_protocol.SafeStateChanged():
            safe_states.changed(run, node, message)
        case node_protocol.SetOwnParameters(values=values):
            parameters.set_by_node(run, node, values)


_NODE_DEADLINES: Final[dict[DeadlineName, Callable[[RunState, NodeState], None]]] = {
    "restart": restart.restart_due,
    "startup": processes.startup_expired,
    "health": processes.health_expired,
    "finish": processes.finish_grace_expired,
    "hold": closing.hold_expired,
    "abandon": processes.abandon,
    "operation": operations.operation_expired,
    "operation-kill": operations.operation_kill_expired,
    "replacement": handover.startup_expired,
    "drain": handover.drain_expired,
    "drain-kill": handover.drain_kill_expired,
}
