"""Daemon of one run: performs what the `Supervisor` decides.

Everything happens in one thread, in callbacks of the `Loop`. Each callback feeds an event to the
supervisor; an `Executor` performs the commands that come back, with the daemon as its back end.
Processes are in `dora.daemon.processes`, connections in `dora.daemon.node_connections` (nodes) and
`dora.daemon.requests` (clients).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from dora.daemon.accounting import GATEWAY, Accounting
from dora.daemon.black_box import BlackBox
from dora.daemon.capacity import needs_of, prepare_limits
from dora.daemon.cleanup import Cleanup
from dora.daemon.control_server import Connection, ControlServer, NodeTable
from dora.daemon.event_loop import Loop
from dora.daemon.executor import Executor, traced
from dora.daemon.guardian import kill_run
from dora.daemon.health import Health
from dora.daemon.journal import Journal
from dora.daemon.link_changes import LinkChanges, prepare_plan
from dora.daemon.logs.entry import LogEntry
from dora.daemon.node_connections import NodeConnections
from dora.daemon.node_processes import NodeProcesses
from dora.daemon.options import LocalRunOptions
from dora.daemon.processes.scheduling import check_scheduling
from dora.daemon.requests import RequestHandler
from dora.daemon.run_directory import RunDirectory
from dora.daemon.run_log import RunLog
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.state import DEFAULT_GRACE
from dora.daemon.supervisor.supervisor import Supervisor
from dora.daemon.taps import Taps
from dora.daemon.template.client import TemplateClient
from dora.daemon.template.process import TemplateConnection
from dora.daemon.watchdog import Watchdog
from dora.dataflow.layout import Plan, RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.dataflow.problems import listed
from dora.transport.board import Board
from dora.transport.doorbell import Doorbell
from dora.wire.clock import ClockOffset
from dora.wire.daemon_protocol import Answer, NodeRemoved, Ok, Rejected, Request, RunProgress, SentCounts
from dora.wire.node_config import InputConfig, RemoteConfig
from dora.wire.node_protocol import Register, ToDaemon, ToNode

if TYPE_CHECKING:
    from dora.daemon.gateway_process import GatewayProcess
    from dora.daemon.progress import ProgressMeter
    from dora.daemon.reload.watch import HotReload
    from dora.daemon.supervisor.status import FormerPart, Peers

RECORDERS_TIMEOUT = 5.0  # seconds that recorders may take for the last messages; one may be stopped
# Seconds until the first look at nodes that wait for each other; a shorter run spares the import.
CIRCLES_AFTER = 1.0
SLOW_STOP_AFTER = 2.0  # seconds after a stop until the log names the nodes that have not ended


class Daemon:
    """Run one dataflow in a directory made for it; `run` returns when it has ended.

    The caller closes the loop after `close`, and also if the constructor raises.
    """

    def __init__(
        self,
        loop: Loop,
        dataflow: Dataflow,
        options: LocalRunOptions,
        context: RunContext,
        run: RunDirectory,
        on_log: Callable[[LogEntry], None],
        watchdog: Watchdog,
        finish_grace: float | None,
        template: TemplateConnection | None = None,
    ) -> None:
        self.dataflow = dataflow
        self.loop = loop
        self._grace = DEFAULT_GRACE if options.grace is None else options.grace
        placement = context.placement
        self.supervisor = Supervisor(
            dataflow,
            grace=self._grace,
            finish_grace=finish_grace,
            elsewhere={n.id: machine for n in dataflow.nodes if (machine := placement.elsewhere(n.id))},
            coordinated=bool(placement.machine),
            generations=placement.generations,
            revision=options.revision,
            former=None if options.former is None else options.former.status,
        )
        self.peers: Peers | None = None  # the supervisors of the other machines
        self._meter: ProgressMeter | None = None  # once somebody asks
        self.on_running: Callable[[], None] | None = None  # called once, when every node is ready
        self.on_failure: Callable[[DataflowResult], None] | None = None  # called with all failures so far
        # Called with a node and its parameters after they were changed.
        self.on_parameters: Callable[[str, dict[str, Any]], None] = lambda *_: None
        self.options = options
        self._run = run
        self.context = context
        self._watchdog = watchdog
        self._plan = plan(dataflow, context)
        prepare_limits(needs_of(self._plan, context, dataflow))
        check_scheduling(dataflow, placement.elsewhere)
        for path in self._plan.bells:
            Doorbell.make(path)
        self._accounting = Accounting(Board.create(run.board, self._plan.lines), self._plan)
        if options.former is not None:
            self._accounting.resume(options.former)
        # Each of these gets those before it in its constructor. Events go up to the supervisor, and
        # commands come down from it. This circle is closed here alone: what sees events gets `feed`, or a
        # method of this object that feeds; the executor has this object as its `Backend`, and requests have
        # it as their `RunningDaemon`. None of them calls anything before `run`.
        handle = traced(self.supervisor.handle)
        state = self.supervisor.state
        self.journal = Journal(state)
        self._executor = Executor(
            self.supervisor, self, self._accounting, time.monotonic, handle, self.journal.mark
        )
        self._nodes = NodeTable()
        self._taps = Taps(self._plan)
        self.run_log = RunLog(
            dataflow,
            self._plan,
            run.dataflow_id,
            options.log_directory or "",
            state,
            self._accounting,
            self._nodes,
            self.loop,
            on_log,
            self._on_log_broken,
            run.name,
        )
        self._hot_reload: HotReload | None = None
        if options.hot_reload:
            from dora.daemon.reload.watch import HotReload

            self._hot_reload = HotReload(dataflow, self.loop, self.feed, self.run_log.write)
            self.supervisor.watch(self._hot_reload.nodes)
        self._cleanup = Cleanup(
            self.loop, run, context.engine, self._accounting, state, self._taps, self.run_log
        )
        self._health = Health(self.loop, state, self._nodes, self._accounting, self.feed)
        self._link_changes = LinkChanges(
            self.loop, self._accounting, self._nodes, self._plan, self._on_input_failed
        )
        run.lock_board()
        self._server = ControlServer(
            self.loop, run.socket, self._on_message, self._on_closed, self.run_log.write
        )
        self._requests = RequestHandler(
            self,
            self._plan,
            run.name,
            self._accounting,
            self._nodes,
            self._taps,
            self._cleanup,
            self.loop,
            self.journal,
        )
        self.black_box = BlackBox(
            dataflow,
            self._plan,
            context,
            options.black_box,
            self.run_log.directory,
            run.name,
            words=self._accounting.board.words,
            loop=self.loop,
            journal=self.journal,
            inspect=self._requests.run_view,
            is_open=lambda: state.opened,
            resume=self._requests.event_logs.resume,
            log=self.run_log.write,
        )
        self._requests.black_box = self.black_box
        self._requests.event_logs.black_box = self.black_box.frame
        self._processes = NodeProcesses(
            self.loop,
            run,
            options,
            feed=self.feed,
            on_line=self.run_log.line,
            on_end=self._on_process_ended,
            template=None if template is None else TemplateClient(self.loop, template),
            watchdog=watchdog,
            on_warning=self.run_log.warn,
            is_encrypted=context.placement.is_encrypted,
        )
        self._connections = NodeConnections(
            self._server,
            self._nodes,
            self._accounting,
            self._link_changes,
            self._requests,
            self.journal,
            options.state_directory,
            feed=self.feed,
            on_closed=self._on_node_disconnected,
        )
        self._gateway: GatewayProcess | None = None  # once there may be links to other machines

    def run(self, stop_after: float | None) -> DataflowResult:
        """Run the dataflow to its end. ``stop_after`` is a time on ``time.monotonic``."""
        self._apply_gateway()
        self.feed(on.Begin())
        self._watchdog.watch(self.loop, self.run_log.warn)
        _ = self.run_log.text  # imported while the nodes start
        if self._hot_reload is not None:
            self._hot_reload.start()
            if not self._hot_reload.nodes:
                self.run_log.warn("no node of this dataflow has Python files that could be reloaded")
        if stop_after is not None:
            self.loop.call_at(stop_after, self._stop_in_time)
        self._health.watch(self.dataflow)
        self.black_box.start()
        self.loop.call_later(CIRCLES_AFTER, self._watch_circles)
        failures = 0
        while not self.supervisor.state.done:
            self.loop.run_once(self.supervisor.next_deadline())
            deadline = self.supervisor.next_deadline()
            if deadline is not None and deadline <= time.monotonic():
                self.feed(on.TimePassed())
            if self.supervisor.state.opened and self.on_running is not None:
                on_running, self.on_running = self.on_running, None
                on_running()
            if len(self.supervisor.state.failures) > failures:
                failures = len(self.supervisor.state.failures)
                if self.on_failure is not None:
                    self.on_failure(self.supervisor.result(self._run.dataflow_id))
        result = self.supervisor.result(self._run.dataflow_id)
        self._finish_recorders([failure.node_id for failure in result.failures])
        self.black_box.finish()
        links = self._accounting.report(self.run_log.text.sent, self.run_log.text.dropped)
        unlogged, networks = self.run_log.files.statistics(), self._accounting.report_networks()
        return msgspec.structs.replace(
            result,
            links=links,
            node_counts=self._accounting.report_nodes(),
            uncounted_links=self._accounting.uncounted_links,
            unlogged=unlogged,
            networks=networks,
            strict=self.options.strict,
            black_box=tuple(self.black_box.saved),
        )

    def _watch_circles(self) -> None:
        from dora.daemon.mutual_waits import watch_circles

        watch_circles(self.dataflow, self.loop, self.supervisor.state, self._accounting, self.run_log.warn)

    def _finish_recorders(self, failed: list[str]) -> None:
        """Wait until recorders have taken the last messages; these go with the shared memory."""
        self._taps.announce_end(failed)
        deadline = time.monotonic() + RECORDERS_TIMEOUT
        while self._taps.has_recorders and time.monotonic() < deadline:
            self.loop.run_once(deadline)

    def close(self) -> None:
        """Kill the remaining processes and close everything; the caller removes the run's directory."""
        self._processes.kill_all()  # first, while everything that nodes use is still there
        if self._gateway is not None:
            self._gateway.close()
        if self.supervisor.state.killing:
            kill_run(self._run.run_id)  # also processes that left their process group
        self._server.close()
        self.run_log.files.close()
        self.black_box.close()
        self._accounting.close()
        if self._hot_reload is not None:
            self._hot_reload.close()
        self._watchdog.unwatch()

    @property
    def socket(self) -> str:
        """Where nodes and commands connect."""
        return self._run.socket

    def interrupt(self, count: int) -> None:
        """Stop the dataflow at the first signal, kill it at the second. Safe in signal handlers."""
        self.loop.call_threadsafe(
            lambda: (
                self._stop("interrupted")
                if count == 1
                else self.feed(on.KillRequested("was interrupted twice"))
            )
        )

    def stop(self, reason: str, grace: float | None = None) -> None:
        """Stop the dataflow, from any thread. ``grace``: seconds, instead of the options'."""
        self.loop.call_threadsafe(lambda: self.feed(on.StopRequested(reason, grace)))

    def loading_pid(self, node_id: str) -> int | None:
        """Return the process that imports packages for a node. For the daemon's thread only."""
        return self._processes.loading_pid(node_id)

    def counts(self, node_ids: Collection[str]) -> tuple[int, int, int]:
        """Return how many messages all links have delivered and lost, and how many these nodes have sent.

        For the daemon's thread only.
        """
        links = self._accounting.report(self.run_log.text.sent, self.run_log.text.dropped)
        sent = sum(map(self._sent, node_ids))
        return sum(link.received for link in links), sum(link.dropped for link in links), sent

    def works(self) -> bool:
        """Return whether a node does something else than to wait for events.

        For the daemon's thread only.
        """
        running = (node.id for node in self.supervisor.state.nodes.values() if node.phase == "running")
        return any(map(self._accounting.works, running))

    def drained(self, node_ids: Collection[str]) -> bool:
        """Return whether all that these nodes have sent was taken. For the daemon's thread only."""
        return all(map(self._accounting.drained, node_ids))

    def set_clocks(self, offsets: Mapping[str, ClockOffset]) -> None:
        """Note how far this machine's clock is ahead of others. For the daemon's thread only."""
        self._accounting.set_clocks(offsets)

    def set_remote(self, remote: RemoteConfig) -> None:
        """Give the gateway other endpoints. For the daemon's thread only."""
        if (gateway := self._plan.gateway) is None:
            return
        placement = msgspec.structs.replace(self.context.placement, remote=remote)
        self.context = msgspec.structs.replace(self.context, placement=placement)
        self._plan = msgspec.structs.replace(
            self._plan, gateway=msgspec.structs.replace(gateway, remote=remote)
        )
        self._apply_gateway()

    def ask_part_of(self, machine: str, tell: Callable[[FormerPart], None]) -> None:
        """Call a function with what is known here of the part of a lost machine, when that is final.

        The endpoint of the machine is no longer in `set_remote`. So once the gateway uses
        these, nothing of that part arrives any more. For the daemon's thread only.
        """

        def look() -> None:
            tell(self._accounting.part_of(machine, self.supervisor.known_status(machine)))

        if self._gateway is None:
            look()
        else:
            self._gateway.call_when_applied(look)

    def progress(self) -> RunProgress:
        """Return how far the run is. For the daemon's thread only."""
        if self._meter is None:
            from dora.daemon.progress import ProgressMeter

            self._meter = ProgressMeter(self)
        return self._meter.measure()

    def kill_hard(self) -> None:
        """Kill all nodes without any bookkeeping: the last resort of a signal handler."""
        self._processes.signal_all(signal.SIGKILL)  # the guardian does the rest when this process has ended

    def log(self, entry: LogEntry) -> None:
        """Log an entry of the daemon."""
        self.run_log.text.entry(entry)

    def _stop_in_time(self) -> None:
        if not self.supervisor.state.opened:
            self.run_log.warn("the time to stop came before all nodes were ready")
        self._stop("its time is over")

    def _stop(self, reason: str) -> None:
        self.feed(on.StopRequested(reason))
        if self._grace > SLOW_STOP_AFTER:
            sent = {node_id: self._sent(node_id) for node_id in self.supervisor.alive()}
            self.loop.call_later(SLOW_STOP_AFTER, lambda: self._report_slow_stop(sent))

    def _report_slow_stop(self, sent: dict[str, int]) -> None:
        """Name the nodes that have not ended. ``sent``: how many messages each had sent at the stop."""
        run = self.supervisor.state
        if not (run.killing or run.done) and (slow := self.supervisor.alive()):
            when = f"SIGTERM follows {self._grace:g} s after the stop"
            text = f"still waiting for {listed(slow)}; {when}, or press Ctrl-C again to kill them now"
            if sending := [node_id for node_id in slow if self._sent(node_id) > sent.get(node_id, 0)]:
                text += f" ({listed(sending)} still sent: a loop learns of the stop from `node.try_recv()`)"
            self.run_log.warn(text)

    def _sent(self, node_id: str) -> int:
        return sum(self._accounting.sent(node_id).values())

    # ----------------------------------------------------------------------- supervisor

    def feed(self, event: on.Event) -> None:
        """Give an event to the supervisor and perform its commands, in order."""
        self._executor.feed(event)

    def idle(self) -> None:
        """Send the status to the other machines, if it has changed."""
        if self.peers is not None:
            self.peers.send_changes(self.supervisor.status(), self._accounting.sent)

    def finish(self) -> None:
        """Do nothing: `run` checks whether the dataflow has ended."""

    def perform(self, command: do.LiveCommand) -> None:
        """Perform a command about new code, clients or other machines."""
        match command:
            case do.SpawnReplacement(node_id=node_id, incarnation=incarnation):
                dataflow = self.dataflow if command.dataflow is None else command.dataflow
                self._processes.spawn_replacement(dataflow, node_id, incarnation)
            case do.PromoteReplacement(node_id=node_id, restart_count=restart_count):
                self.run_log.mark_restart(node_id, restart_count)
                self._cleanup.make_room(node_id)
                self._processes.promote_replacement(node_id)  # `Spawned` before `Ready`
                self._connections.promote_replacement(node_id)
            case do.DropReplacement(node_id=node_id):
                self._processes.drop_replacement(node_id)
                self._connections.drop_replacement(node_id)
            case do.AdmitReplacement(dataflow=dataflow):
                self._connections.admit_replacement(
                    command, self._plan if dataflow is None else self.prepare_plan(dataflow)
                )
            case do.Disconnect(node_id=node_id):
                self._connections.disconnect(node_id)
            case do.ApplyDataflow(dataflow=dataflow, connection=client):
                self._apply_dataflow(dataflow, client)
            case do.Answer(connection=number, answer=answer):
                self._answer(number, answer)
            case do.AnswerSentCounts(connection=number):
                here = [name for name, node in self.supervisor.state.nodes.items() if not node.machine]
                self._answer(number, SentCounts({name: self._accounting.sent(name) for name in here}))
            case do.AnswerNodeRemoved(connection=number, node_id=node_id, was_running=was_running):
                self._answer(number, NodeRemoved(was_running, self._accounting.sent(node_id)))
            case do.RecordParameters(node_id=node_id, parameters=parameters):
                self.journal.parameters(node_id, parameters)
                self.on_parameters(node_id, parameters)
            case do.SetSentCounts(node_id=node_id, sent=sent):
                self._accounting.set_sent(node_id, sent)

    def release_text(self, node_id: str) -> None:
        """Send a node that has started the text that was kept for it."""
        self.run_log.text.release(node_id)

    def prepare_plan(self, dataflow: Dataflow, context: RunContext | None = None) -> Plan:
        """Return the plan of a dataflow to come, with room for it; raises ``OSError``."""
        return prepare_plan(dataflow, context or self.context, self._plan, self._accounting.board)

    def _apply_dataflow(self, dataflow: Dataflow, client: int | None) -> None:
        known = {node.id for node in self.dataflow.nodes}
        for node in dataflow.nodes:
            if node.id not in known:
                self.journal.parameters(node.id, node.parameters)
        self.dataflow, self._plan = dataflow, self.prepare_plan(dataflow)
        self._requests.change(self._plan)
        try:
            self.black_box.follow(dataflow, self._plan)
        except OSError as error:
            self.run_log.warn(f"there is no memory for new outputs in the black box: {error.strerror}")
        self.run_log.change(dataflow, self._plan)
        self._health.watch(dataflow)
        self._apply_gateway()
        if self._hot_reload is not None:
            self._hot_reload.follow(dataflow)
            self.supervisor.watch(self._hot_reload.nodes)
        self._link_changes.apply(
            self._plan, lambda fault: self._answer(client, Rejected(fault) if fault else Ok())
        )

    def _apply_gateway(self) -> None:
        """Give the plan to the gateway; the first one with other machines starts it."""
        if (config := self._plan.gateway) is None:
            return
        if self._gateway is None:
            from dora.daemon.gateway_process import GatewayProcess  # most dataflows have none

            self._gateway = GatewayProcess(
                self.loop,
                self._run.run_id,
                self.run_log.write,
                on_ended=self._on_gateway_ended,
            )
        self._gateway.apply(config)

    def _on_gateway_ended(self) -> None:
        self._cleanup.add(GATEWAY)
        self._cleanup.make_room(GATEWAY)

    def _on_log_broken(self) -> None:
        self.feed(on.StopRequested("its log could not be shown any more"))

    def _on_input_failed(self, node_id: str, item: InputConfig, reason: str) -> None:
        self.feed(on.InputFailed(node_id, item.id, item.source, reason))

    # ----------------------------------------------------------------------- processes

    def spawn(self, command: do.Spawn) -> None:
        """Start the process of a node; feed `Spawned` or `SpawnFailed`."""
        wait = None
        if command.restart_count:
            self.run_log.mark_restart(command.node_id, command.restart_count)
            wait = partial(self._cleanup.wait_for_room, command.node_id)
        self._processes.spawn(self.dataflow, command.node_id, command.incarnation, wait)

    def signal(self, node_id: str, number: int) -> None:
        """Send a signal to the process of a node, if it has one."""
        self._processes.signal(node_id, number)

    def _on_process_ended(self, node_id: str, exit_code: int | None, number: int | None) -> None:
        self._connections.process_ended(node_id)  # first: its last frames come before its end
        self.run_log.text.end_traceback(node_id)
        self._cleanup.add(node_id)
        lines = self.run_log.text.last_lines(node_id)
        remedy = self._remedy(node_id, lines, number) if exit_code or number else ""
        self.feed(on.ProcessEnded(node_id, exit_code, number, lines, remedy))

    def _remedy(self, node_id: str, lines: tuple[str, ...], number: int | None) -> str:
        from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
        from dora.daemon.remedies import failed_program, remedy

        node = next((node for node in self.dataflow.nodes if node.id == node_id), None)
        if node is None or node.is_shell:
            return ""
        spec = launch_spec(self.dataflow, node, uv=self.options.uv)
        try:
            command = spec.command(allow_shell=False)
        except CannotSpawn:  # its file has been removed meanwhile
            return ""
        return remedy(lines, number, failed_program(self.dataflow, node, spec.interpreter, command))

    # ----------------------------------------------------------------------- connections

    def admit(self, command: do.Admit) -> None:
        """Answer a registration; the connection is the node's from now on."""
        self._connections.admit(command, self._plan)

    def refuse(self, connection: int, reason: str) -> None:
        """Answer a registration with a reason and close the connection."""
        self._connections.refuse(self._server.connections.get(connection), reason)

    def send(self, node_id: str, message: ToNode) -> bool:
        """Send a frame to a node; return False if it is not connected."""
        return self._nodes.send(node_id, message)

    def _answer(self, number: int | None, answer: Answer) -> None:
        if (connection := self._server.connections.get(-1 if number is None else number)) is not None:
            connection.send(answer)

    def _on_message(self, connection: Connection, message: ToDaemon | Request) -> None:
        if isinstance(message, Register):
            self._connections.register(connection, message)
        elif isinstance(message, Request):
            self._requests.handle(connection, message)
        else:
            self._connections.handle(connection, message)

    def _on_closed(self, connection: Connection) -> None:
        if connection.node_id:
            self._connections.closed(connection)
        else:
            self._requests.client_disconnected(connection)
            self.feed(on.ClientDisconnected(connection.number))

    def _on_node_disconnected(self, node_id: str) -> None:
        if (node := self.supervisor.state.nodes.get(node_id)) is not None and node.spec.is_dynamic:
            self._cleanup.add(node_id)
