"""Daemon of one run: processes and connections, which the `Supervisor` decides about.

Everything happens in one thread, in callbacks of the `Loop`. Each callback feeds an event to the
supervisor; an `Executor` performs the commands that come back, with the daemon as its back end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dora.daemon.accounting import Accounting
from dora.daemon.cleanup import Cleanup
from dora.daemon.control_server import Connection, ControlServer
from dora.daemon.event_loop import Loop
from dora.daemon.event_trace import told
from dora.daemon.executor import Executor, LiveCommand, event_of_message
from dora.daemon.guardian import kill_run
from dora.daemon.health import Health
from dora.daemon.link_changes import LinkChanges, prepared
from dora.daemon.logs.entry import LogEntry, Stream
from dora.daemon.options import LocalRunOptions, finish_grace_from_environment
from dora.daemon.processes.child import Child
from dora.daemon.processes.command import CannotSpawn
from dora.daemon.processes.launch import Replacements, WaitingReplacement, start_process
from dora.daemon.requests import Decided, RequestHandler, event_of, registration_fault
from dora.daemon.run_directory import RunDirectory
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.state import DEFAULT_GRACE
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import Plan, RunContext, plan
from dora.dataflow.problems import listed
from dora.transport.board import Board
from dora.transport.doorbell import Doorbell
from dora.wire.daemon_protocol import Answer, Ok, Rejected, Request, SentCounts
from dora.wire.excerpt import LINES_KEPT
from dora.wire.node_config import NodeConfig
from dora.wire.node_protocol import (
    InputAttached,
    InputDetached,
    PublishResult,
    Ready,
    Register,
    Registered,
    RegistrationRefused,
    TextInput,
    ToDaemon,
    ToNode,
)

if TYPE_CHECKING:
    from dora.daemon.logs.router import TextRouter
    from dora.daemon.logs.writer import LogFiles
    from dora.daemon.options import Peers
    from dora.daemon.reload.watch import HotReload
    from dora.daemon.watchdog import Watchdog

# A run that ends sooner has no guardian to pay for. If its daemon is killed before, the nodes lose
# their connection and end; whatever does not is killed at the next start.
GUARDIAN_AFTER = 0.5  # seconds
LAST_LOOK = 5.0  # seconds that recorders may take for the last messages
PATIENCE = 2.0  # seconds after a stop, before it is said who has not ended


class Daemon:
    """Run one dataflow in a directory made for it; `run` returns when it has ended."""

    def __init__(
        self,
        dataflow: Dataflow,
        options: LocalRunOptions,
        context: RunContext,
        run: RunDirectory,
        on_log: Callable[[LogEntry], None],
    ) -> None:
        self.dataflow = dataflow
        self.loop = Loop()
        self._hot_reload = self._watch_code() if options.hot_reload else None
        self._grace = DEFAULT_GRACE if options.grace is None else options.grace
        self.supervisor = Supervisor(
            dataflow,
            grace=self._grace,
            finish_grace=finish_grace_from_environment(),
            watched=self._hot_reload.nodes if self._hot_reload is not None else frozenset(),
            elsewhere={n.id: machine for n in dataflow.nodes if (machine := context.elsewhere(n.id))},
            standby=context.engine == "iceoryx2",
            generations=context.generations,
        )
        self.others: Peers | None = None  # the supervisors of other machines
        self.trouble: BaseException | None = None  # an exception of ``on_log``
        self.on_running: Callable[[], None] | None = None  # called once, when every node is ready
        self.on_changed: Callable[[Dataflow], None] | None = None  # called with what runs from now on
        self.on_parameters: Callable[[str, dict[str, Any]], None] = lambda *_: None  # are others now
        self.options = options
        self._run = run
        self.context = context
        self._on_log: Callable[[LogEntry], None] | None = on_log
        self._plan = plan(dataflow, context)
        self._waiting: dict[str, WaitingReplacement] = {}  # successors that stand by
        self._children: dict[str, Child] = {}
        self._successors = Replacements()
        self._members: dict[str, Connection] = {}  # connections of admitted nodes
        for path in self._plan.bells:
            Doorbell.make(path)
        self._keeper = Accounting(Board.create(run.board, self._plan.lines), self._plan)
        handle = told(self.supervisor.handle)
        self._executor = Executor(self.supervisor, self, self._keeper, time.monotonic, handle)
        self._remains = Cleanup(
            self.loop,
            run,
            self._keeper,
            is_recorded=lambda node_id: self._keeper.recorded(node_id, self._guests.recorded_slots()),
            is_over=lambda: self.supervisor.state.done,
            on_cleaned=lambda: self._guests.cleaned_up(),
            on_trouble=lambda text: self.note("warn", None, text),
        )
        self._health = Health(
            *(self.loop, self.supervisor.state.nodes, self._members, self._keeper),
            on_progress=lambda node_id: self.feed(on.Progress(node_id)),
        )
        self._rewiring = LinkChanges(self.loop, self._keeper, self._members, self._plan)
        self._log_options = {node.id: node.log for node in dataflow.nodes}
        run.lock_board()
        self._server = ControlServer(self.loop, run.socket, self._on_message, self._on_closed, self.note)
        self._guests = RequestHandler(
            *(dataflow, self._plan, lambda: self.context, run.name),
            *(self.supervisor.state, self._members, self._remains.add_tap),
        )
        self._watchdog: Watchdog | None = None

    def run(self, stop_after: float | None) -> DataflowResult:
        """Run the dataflow to its end. ``stop_after`` is a time on ``time.monotonic``."""
        self.feed(on.Begin())
        self.loop.call_at(time.monotonic() + GUARDIAN_AFTER, self._start_watchdog)
        _ = self._text  # imported while the nodes start
        if self._hot_reload is not None:
            self._hot_reload.start()
            if not self._hot_reload.nodes:
                self.note("warn", None, "no node of this dataflow has Python files that could be reloaded")
        if stop_after is not None:
            self.loop.call_at(stop_after, lambda: self._stop("its time is over"))
        self._health.watch(self.dataflow)
        while not self.supervisor.state.done:
            self.loop.run_once(self.supervisor.next_deadline())
            deadline = self.supervisor.next_deadline()
            if deadline is not None and deadline <= time.monotonic():
                self.feed(on.TimePassed())
            if self.supervisor.state.opened and self.on_running is not None:
                told, self.on_running = self.on_running, None
                told()
        result = self.supervisor.result(self._run.dataflow_id)
        self._let_recorders_end([failure.node_id for failure in result.failures])
        links = self._keeper.report(self._text.sent, self._text.dropped)
        return msgspec.structs.replace(result, links=links, unlogged=self._log_files.statistics())

    def _let_recorders_end(self, failed: list[str]) -> None:
        """Let those who record take the last messages, before these go with the shared memory."""
        self._guests.tell_end(failed)
        deadline = time.monotonic() + LAST_LOOK
        while self._guests.take_to_the_end and time.monotonic() < deadline:
            self.loop.run_once(deadline)

    def close(self) -> None:
        """Kill what is left and close everything; the run's directory is the caller's."""
        if self._watchdog is not None:
            self._watchdog.dismiss()
        for child in (*self._children.values(), *self._successors):
            child.kill_now()
        self._children.clear()
        if self.supervisor.state.killing:
            kill_run(self._run.run_id)  # also those who left their process group
        self._server.close()
        self._log_files.close()
        self._keeper.close()
        if self._watchdog is not None:
            self._watchdog.wait()
        self.loop.close()

    @property
    def socket(self) -> str:
        """Where nodes and commands connect."""
        return self._run.socket

    def interrupt(self, count: int) -> None:
        """Take a signal from outside: the first stops, the second kills. Safe in signal handlers."""
        self.loop.call_threadsafe(
            lambda: self._stop("interrupted") if count == 1 else self.feed(on.KillRequested())
        )

    def stop(self, reason: str, grace: float | None = None) -> None:
        """Stop the dataflow, from any thread. ``grace``: seconds instead of those of the options."""
        self.loop.call_threadsafe(lambda: self.feed(on.StopRequested(reason, grace)))

    def traffic(self) -> int:
        """Return how many messages have been received or lost on all links. For the daemon's thread."""
        links = self._keeper.report(self._text.sent, self._text.dropped)
        return sum(link.received + link.dropped for link in links)

    def kill_hard(self) -> None:
        """Kill all nodes without any bookkeeping: the last resort of a signal handler."""
        for child in (*self._children.values(), *self._successors):
            child.signal(9)

    def note(
        self,
        level: Literal["error", "warn", "info"],
        node_id: str | None,
        text: str,
    ) -> None:
        """Log a sentence of the daemon's own."""
        self.log(LogEntry(time.time_ns(), level, node_id, text, "daemon"))

    def log(self, entry: LogEntry) -> None:
        """Log an entry of the daemon's own."""
        self._text.entry(entry)

    def _stop(self, reason: str) -> None:
        self.feed(on.StopRequested(reason))
        if self._grace > PATIENCE:
            self.loop.call_at(time.monotonic() + PATIENCE, self._say_who_is_waited_for)

    def _say_who_is_waited_for(self) -> None:
        run = self.supervisor.state
        if not (run.killing or run.done) and (slow := self.supervisor.alive()):
            when = f"{self._grace:g} s after the stop; a second Ctrl-C kills at once"
            self.note("warn", None, f"waiting for {listed(slow)} to end, which SIGTERM will hasten {when}")

    # ----------------------------------------------------------------------- supervisor

    def feed(self, event: on.Event) -> None:
        """Give an event to the supervisor and perform its commands, in order."""
        self._executor.feed(event)

    def idle(self) -> None:
        """Send the status to the other machines, if it has changed."""
        if self.others is not None:
            self.others.tell(self.supervisor.status(), self._keeper.sent)

    def finish(self) -> None:
        """`run` sees by itself that the dataflow has ended."""

    def perform(self, command: LiveCommand) -> None:
        """Perform a command about new code, clients or other machines."""
        match command:
            case do.SpawnReplacement():
                self._spawn_successor(command)
            case do.PromoteReplacement(node_id=node_id, restart_count=restart_count):
                self._forget_last_process(node_id, restart_count)
                self._take_over(node_id)
            case do.DropReplacement(node_id=node_id):
                self._successors.drop(node_id)
                self._waiting.pop(node_id, None)
            case do.AdmitReplacement():
                self._admit_successor(command)
            case do.Disconnect(node_id=node_id):
                if (connection := self._members.get(node_id)) is not None:
                    self._server.connections.pop(connection.number, None)
                    connection.close()
                    self._on_closed(connection)
            case do.ApplyDataflow(dataflow=dataflow, connection=asker):
                self._rewire(dataflow, asker)
            case do.Answer(connection=number, answer=answer):
                self._answer(number, answer)
            case do.AnswerSentCounts(connection=number):
                here = [name for name, node in self.supervisor.state.nodes.items() if not node.machine]
                self._answer(number, SentCounts({name: self._keeper.sent(name) for name in here}))
            case do.RecordParameters(node_id=node_id, parameters=parameters):
                self.on_parameters(node_id, parameters)
            case do.SetSentCounts(node_id=node_id, sent=sent):
                self._keeper.note_sent(node_id, sent)

    def refuse(self, connection: int, reason: str) -> None:
        """Answer a registration with a reason and close the connection."""
        if (refused := self._server.connections.pop(connection, None)) is not None:
            refused.send(RegistrationRefused(reason))
            refused.close()

    def send(self, node_id: str, message: ToNode) -> bool:
        """Send a frame to a node; return False if it is not connected."""
        if (connection := self._members.get(node_id)) is None:
            return False
        connection.send(message)
        return True

    def signal(self, node_id: str, number: int) -> None:
        """Send a signal to the process of a node, if it has one."""
        if (child := self._children.get(node_id)) is not None:
            child.signal(number)

    def release_text(self, node_id: str) -> None:
        """Send a node that has started the text that was kept for it."""
        self._text.release(node_id)

    def _answer(self, number: int | None, answer: Answer) -> None:
        if (connection := self._server.connections.get(-1 if number is None else number)) is not None:
            connection.send(answer)

    def make_room(self, dataflow: Dataflow, context: RunContext | None = None) -> Plan:
        """Return the plan of a dataflow to come, with room for it; raises ``OSError``."""
        return prepared(dataflow, context or self.context, self._plan, self._keeper.board)

    def _rewire(self, dataflow: Dataflow, asker: int | None) -> None:
        self.dataflow, self._plan = dataflow, self.make_room(dataflow)
        self._guests.change(dataflow, self._plan)
        self._text.change(dataflow, self._plan.links)
        self._log_options.update((node.id, node.log) for node in dataflow.nodes)
        self._health.watch(dataflow)
        if self._hot_reload is not None:
            self._hot_reload.follow(dataflow)
            self.supervisor.watch(self._hot_reload.nodes)
        self._rewiring.lay(
            self._plan, lambda fault: self._answer(asker, Rejected(fault) if fault else Ok())
        )
        if self.on_changed is not None:
            self.on_changed(dataflow)

    # ----------------------------------------------------------------------- processes

    def _start_watchdog(self) -> None:
        from dora.daemon.watchdog import Watchdog

        if self.supervisor.state.done:
            return
        self._watchdog = Watchdog(self.loop, self._run, lambda text: self.note("warn", None, text))
        for child in (*self._children.values(), *self._successors):
            self._watchdog.register(child.pid)

    def spawn(self, command: do.Spawn) -> None:
        """Start the process of a node; feed `Spawned` or `SpawnFailed`."""
        node_id = command.node_id
        if command.restart_count:
            self._forget_last_process(node_id, command.restart_count)
        try:
            child = self._start_process(
                node_id,
                command.incarnation,
                on_line=lambda stream, text: self._text.line(node_id, stream, text),
                on_end=lambda code, number: self._on_end(node_id, code, number),
            )
        except CannotSpawn as error:
            self.feed(on.SpawnFailed(node_id, f"could not be started: {error}"))
            return
        self._children[node_id] = child
        self.feed(on.Spawned(node_id, child.pid))

    def _forget_last_process(self, node_id: str, restart_count: int) -> None:
        self._log_files.mark_restart(node_id, restart_count, time.time_ns())
        self._text.forget_lines(node_id)
        self._remains.make_room(node_id)

    def _start_process(
        self,
        node_id: str,
        incarnation: int,
        *,
        on_line: Callable[[Stream, str], None],
        on_end: Callable[[int | None, int | None], None],
        dataflow: Dataflow | None = None,
    ) -> Child:
        """Start a process of a node; raises `CannotSpawn`."""
        child = start_process(
            self.loop,
            self._run,
            self.options,
            dataflow or self.dataflow,
            node_id,
            incarnation,
            on_line=on_line,
            on_end=on_end,
        )
        if self._watchdog is not None:
            self._watchdog.register(child.pid)
        return child

    # ----------------------------------------------------------------------- new code

    def _watch_code(self) -> HotReload:
        from dora.daemon.reload.watch import HotReload

        return HotReload(self.dataflow, self.loop, on_change=self.feed, note=self.note)

    def _spawn_successor(self, command: do.SpawnReplacement) -> None:
        node_id, incarnation = command.node_id, command.incarnation
        errors: deque[str] = deque(maxlen=LINES_KEPT)

        def on_line(stream: Stream, text: str) -> None:
            if stream == "stderr":
                errors.append(text)
            self._text.line(node_id, stream, text)

        def on_end(exit_code: int | None, number: int | None) -> None:
            if self._children.get(node_id) is child:
                self._on_end(node_id, exit_code, number)
            elif self._successors.ended(node_id, child):
                self.feed(on.ReplacementEnded(node_id, incarnation, exit_code, number, tuple(errors)))

        try:
            child = self._start_process(
                node_id, incarnation, on_line=on_line, on_end=on_end, dataflow=command.dataflow
            )
        except CannotSpawn as error:
            self.feed(on.ReplacementEnded(node_id, incarnation, reason=str(error)))
            return
        self._successors.add(node_id, child)

    def _take_over(self, node_id: str) -> None:
        child = self._children[node_id] = self._successors.take(node_id)
        self.feed(on.Spawned(node_id, child.pid))
        if (waits := self._waiting.pop(node_id, None)) is not None:
            self._seat(node_id, waits.connection)
            if waits.ready:
                self.feed(on.PortsReady(node_id))

    # ----------------------------------------------------------------------- what processes do

    def _on_end(self, node_id: str, exit_code: int | None, number: int | None) -> None:
        del self._children[node_id]
        if (connection := self._members.get(node_id)) is not None:
            connection.read_rest()
            self._drop_member(node_id)
        self._text.end_traceback(node_id)
        self._remember(node_id)
        self.feed(on.ProcessEnded(node_id, exit_code, number, self._text.last_lines(node_id)))

    # ----------------------------------------------------------------------- connections

    def _on_message(self, connection: Connection, message: ToDaemon | Request) -> None:
        node_id = connection.node_id
        if isinstance(message, Register):
            self._on_register(connection, message)
        elif isinstance(message, Request):
            self._on_request(connection, message)
        elif not node_id:
            self._refuse(connection, "the first frame has to be a registration")
        elif (waits := self._waiting.get(node_id)) is not None and waits.connection is connection:
            if isinstance(message, Ready):
                waits.ready = True
                self.feed(on.ReplacementReady(node_id, waits.incarnation))
        else:
            match message:
                case PublishResult():
                    self._guests.sent(node_id, message)
                case InputAttached():
                    self._rewiring.attached(node_id, message)
                case InputDetached():
                    self._rewiring.detached(message)
                case _:
                    if (event := event_of_message(node_id, message)) is not None:
                        self.feed(event)

    def _on_register(self, connection: Connection, message: Register) -> None:
        if fault := registration_fault(connection, message, self._guests.description()):
            self._refuse(connection, fault)
        else:
            connection.pid = message.pid
            connection.incarnation = message.incarnation
            self.feed(
                on.Registering(connection.number, message.node_id, message.incarnation, message.dynamic)
            )

    def _on_request(self, connection: Connection, request: Request) -> None:
        if not isinstance(request, Decided):
            self._guests.handle(connection, request)
        elif (event := event_of(self, connection, request)) is not None:
            self.feed(event)

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._server.connections.pop(connection.number, None)
        connection.send(RegistrationRefused(reason))
        connection.close()
        if connection.node_id:
            self._on_closed(connection)

    def admit(self, command: do.Admit) -> None:
        """Answer a registration; the connection is the node's from now on."""
        node_id = command.node_id
        connection = self._server.connections.get(command.connection)
        if connection is None:  # it was lost while its registration was considered
            self.feed(on.Disconnected(node_id))
            return
        self._seat(node_id, connection)
        connection.send(Registered(self._config(self._plan, command)))

    def _admit_successor(self, command: do.AdmitReplacement) -> None:
        connection = self._server.connections.get(command.connection)
        if connection is None:
            return  # its process ends, which is told then
        connection.node_id = command.node_id
        self._waiting[command.node_id] = WaitingReplacement(connection, connection.incarnation)
        wanted = self._plan if command.dataflow is None else self.make_room(command.dataflow)
        connection.send(Registered(msgspec.structs.replace(self._config(wanted, command), standby=True)))

    def _config(self, wanted: Plan, command: do.Admit | do.AdmitReplacement) -> NodeConfig:
        return msgspec.structs.replace(
            wanted.configs[command.node_id],
            restart_count=command.restart_count,
            parameters=command.parameters,
            event_logs=self._guests.orders.of(command.node_id),
        )

    def _seat(self, node_id: str, connection: Connection) -> None:
        """Let a connection be the node's from now on."""
        connection.node_id = node_id
        connection.on_written = lambda: self._keeper.call(node_id)
        self._members[node_id] = connection
        self._keeper.reopen_receivers(node_id)

    def _on_closed(self, connection: Connection) -> None:
        node_id = connection.node_id
        if node_id and self._members.get(node_id) is connection:
            del self._members[node_id]
            if (node := self.supervisor.state.nodes.get(node_id)) is not None and node.spec.is_dynamic:
                self._remember(node_id)
            self._rewiring.node_gone(node_id)
            self.feed(on.Disconnected(node_id))
            self._guests.node_gone(node_id)
        elif not node_id:
            self._guests.gone(connection)
            self.feed(on.ClientDisconnected(connection.number))

    def _drop_member(self, node_id: str) -> None:
        connection = self._members.pop(node_id, None)
        if connection is not None:
            self._server.connections.pop(connection.number, None)
            connection.close()
            self._rewiring.node_gone(node_id)
            self._guests.node_gone(node_id)

    def _remember(self, node_id: str) -> None:
        if self.context.engine == "iceoryx2":
            self._remains.add(node_id)

    # ----------------------------------------------------------------------- text and logs

    @cached_property
    def _log_files(self) -> LogFiles:
        from dora.daemon.logs.writer import LogFiles

        return LogFiles(
            self.options.log_directory or f"{self.dataflow.working_dir}/out/{self._run.dataflow_id}",
            self._log_options,
            on_trouble=lambda text: self.note("warn", None, text),
        )

    @cached_property
    def _text(self) -> TextRouter:
        from dora.daemon.logs.router import TextRouter

        return TextRouter(
            self.dataflow,
            self._plan.links,
            self._run.dataflow_id,
            self._deliver,
            self._keep,
            lambda seconds, call: self.loop.call_at(time.monotonic() + seconds, call),
        )

    def _deliver(self, node_id: str, frame: TextInput) -> bool | None:
        node = self.supervisor.state.nodes[node_id]
        if node.present and (connection := self._members.get(node_id)) is not None:
            return connection.send_text(frame)
        if node.spec.is_dynamic or node.phase in ("running", "ended", "backoff") or node.restarts:
            return False
        return None

    def _keep(self, entry: LogEntry) -> None:
        self._log_files.write(entry)
        if self._on_log is None:
            return
        try:
            self._on_log(entry)
        except BaseException as error:  # noqa: BLE001 - raised again once everything is cleaned up
            self._on_log = None
            self.trouble = error
            self.feed(on.StopRequested("its log could not be shown any more"))
