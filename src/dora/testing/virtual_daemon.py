"""Daemon of a virtual dataflow, whose processes are threads.

Like `dora.daemon.daemon` it feeds events to the supervisor, and is the back end of the `Executor` that
performs the commands.
"""

from __future__ import annotations

import mmap
import os
import signal
import types
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec

from dora.daemon.accounting import Accounting
from dora.daemon.executor import Executor
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import renderer
from dora.daemon.logs.router import TextRouter
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.layout import Plan, RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.errors import ConnectError
from dora.node import attach
from dora.node.program import Body, forget_modules_of
from dora.node.saved_state import StateInMemory
from dora.testing.process_image import ProcessImage, body_of, streams_of_nodes
from dora.testing.record import Messages, sent_message
from dora.testing.scheduler import START_NS, Flag, Killed, Scheduler, Task, current
from dora.testing.virtual_host import VirtualChannel, VirtualDoorbell, VirtualHost, observed
from dora.testing.virtual_time import DoorbellsByFd, virtual_time
from dora.transport.board import LINE_BYTES, Board
from dora.transport.inprocess import LocalEngine
from dora.wire.message import Message
from dora.wire.node_config import NodeConfig, OutputConfig
from dora.wire.node_protocol import Closing, TextInput, ToDaemon, ToNode

DATAFLOW_ID = "00000000-0000-7000-8000-000000000000"
_SPARE_LINES = 1024  # of the board, for outputs that are made on demand


class VirtualDaemon:
    """One run of a dataflow in threads of this process."""

    def __init__(
        self,
        dataflow: Dataflow,
        bodies: Mapping[str, Body],
        *,
        namespaces: list[dict[str, Any]],
        any_output: frozenset[str],
        limit: float,
        patience: float,
        echo: Callable[[str], None] | None,
    ) -> None:
        """``bodies`` replace programs of the dataflow; nodes in ``any_output`` may send to any output.

        Raises `CannotRunInTest` for a node that needs a body and has none.
        """
        self.dataflow = dataflow
        self.bodies = dict(bodies)
        self._main = {node.id: types.ModuleType("__main__") for node in dataflow.nodes}
        self._folders: dict[str, str | None] = {}
        for node in dataflow.nodes:
            if node.id not in self.bodies and not node.is_dynamic:
                self.bodies[node.id], self._folders[node.id] = body_of(
                    node, dataflow.working_dir, self._main[node.id]
                )
        self.scheduler = Scheduler(limit=limit, patience=patience)
        self.supervisor = Supervisor(dataflow)
        self.errors: dict[str, BaseException] = {}  # of each node's last process
        self.logs: list[LogEntry] = []
        self.done = Flag()
        self.node_closed: dict[str, Flag] = {}
        self._any_output = any_output
        self._plan = plan(dataflow, RunContext(DATAFLOW_ID, "/nowhere", "", "", "iceoryx2"))
        lines = self._plan.lines + 1 + _SPARE_LINES
        self.board = Board("", mmap.mmap(-1, lines * LINE_BYTES))
        self._tap_slot = self._plan.lines
        self._free_slots = iter(range(self._plan.lines + 1, lines))
        self._engine = LocalEngine()
        self.messages = Messages()  # of all outputs
        self._doorbells_by_fd: DoorbellsByFd = {}
        self._doorbells = self._make_doorbells()
        self._accounting = _VirtualAccounting(self.board, self._plan, self._doorbells)
        self._accounting.clock = lambda: self.scheduler.now
        self._text = TextRouter(dataflow, self._plan.links, DATAFLOW_ID, self._deliver, self._keep)
        self._executor = Executor(
            self.supervisor, self, self._accounting, clock=lambda: self.scheduler.now * 1e-9
        )
        self._closing = False
        self._processes: dict[str, tuple[Task, ProcessImage]] = {}
        self._incarnations: dict[str, int] = {}
        self._hosts: dict[str, VirtualHost] = {}
        self._states: dict[str, StateInMemory] = {}
        self._channels: dict[str, VirtualChannel] = {}
        self._answers: dict[int, tuple[str, int] | str] = {}  # connection → (node, restarts), or a refusal
        self._connections = 0
        self._render = renderer("compact")
        self._echo = echo
        for config in self._plan.configs.values():
            for output in config.outputs:
                self._observe(config.node_id, output)
        self._replacements = ExitStack()
        self._namespaces = namespaces + [vars(module) for module in self._main.values()]

    def begin(self) -> None:
        """Replace clock and streams, and start all nodes."""
        folders = [folder for folder in self._folders.values() if folder]
        self._replacements.enter_context(forget_modules_of(folders))
        self._replacements.enter_context(virtual_time(self._doorbells_by_fd, self._namespaces))
        self._replacements.enter_context(streams_of_nodes())
        attach.in_process = self._attach
        self.scheduler.timer = self._next_deadline
        self.scheduler.on_time = lambda: self.feed(on.TimePassed())
        self.feed(on.Begin())

    def close(self) -> None:
        """Kill the nodes that are left, and restore clock and streams."""
        self._closing = True
        for task in self.scheduler.others():
            self.scheduler.kill(task, Killed(signal.SIGKILL))
        for _ in range(10):
            if not self.scheduler.others() or self.scheduler.running is not self.scheduler.driver:
                break
            self.scheduler.sleep(0)
        for task in self.scheduler.others():  # still running
            if task.image is not None:
                task.image.leave()
        attach.in_process = lambda _: None
        self._replacements.close()
        self.scheduler.close()
        for doorbell in self._doorbells.values():
            doorbell.close()

    def result(self) -> DataflowResult:
        """Return the result of the dataflow, which may still be running."""
        links = self._accounting.report(self._text.sent, self._text.dropped)
        return msgspec.structs.replace(
            self.supervisor.result(DATAFLOW_ID), links=links, node_counts=self._accounting.report_nodes()
        )

    def stop(self, reason: str) -> None:
        """Ask all nodes to stop, as Ctrl-C does."""
        self.feed(on.StopRequested(reason))

    def feed(self, event: on.Event) -> None:
        """Give an event to the supervisor and perform its commands, in order."""
        self._executor.feed(event)

    def _next_deadline(self) -> int | None:
        deadline = self.supervisor.next_deadline()
        if deadline is None or self.supervisor.state.done:
            return None
        nanoseconds = round(deadline * 1e9)
        return nanoseconds if nanoseconds * 1e-9 >= deadline else nanoseconds + 1

    def admit(self, command: do.Admit) -> None:
        """Answer a registration; the connection is the node's from now on."""
        self._answers[command.connection] = (command.node_id, command.restart_count)
        self._accounting.reopen_receivers(command.node_id)

    def refuse(self, connection: int, reason: str) -> None:
        """Answer a registration with a reason."""
        self._answers[connection] = reason

    def send(self, node_id: str, message: ToNode) -> bool:
        """Send a frame to a node; return False if it is not connected."""
        if (channel := self._channels.get(node_id)) is None:
            return False
        channel.frames.append(message)
        self._accounting.notify(node_id)
        return True

    def signal(self, node_id: str, number: int) -> None:
        """Kill the thread of a node, if it has one."""
        if (process := self._processes.get(node_id)) is not None:
            self.scheduler.kill(process[0], Killed(number))

    def release_text(self, node_id: str) -> None:
        """Send a node that has started the text that was kept for it."""
        self._text.release(node_id)

    def log(self, entry: LogEntry) -> None:
        """Log an entry of the daemon, except that nodes are killed at the end of a test."""
        if not self._closing:
            self._text.entry(entry)

    def perform(self, command: do.LiveCommand) -> None:
        """Fail: a virtual dataflow has no new code, no clients and no other machines."""
        raise AssertionError(f"a virtual dataflow cannot perform {command}")

    def idle(self) -> None:
        """Nothing is left to do after the events."""

    def finish(self) -> None:
        """Wake the test that waits for the end of the dataflow."""
        self.scheduler.raise_flag(self.done)

    # ------------------------------------------------------------------ processes

    def spawn(self, command: do.Spawn) -> None:
        """Start the thread of a node."""
        node_id = command.node_id
        self._incarnations[node_id] = command.incarnation
        spec = self.dataflow.node(node_id)
        self.errors.pop(node_id, None)
        if command.restart_count:
            self._text.forget_lines(node_id)
        path = os.path.join(self.dataflow.working_dir, spec.path or "")
        image = ProcessImage(
            [path, *spec.args],
            {**self.dataflow.env, **spec.env},
            self.dataflow.working_dir,
            self._main[node_id],
            self._folders.get(node_id),
            lambda stream, text: self._text.line(
                node_id, "stderr" if stream == "stderr" else "stdout", text
            ),
        )
        body = self.bodies[node_id]
        task = self.scheduler.start(node_id, node_id, image, lambda: self._run(node_id, body))
        self._processes[node_id] = (task, image)
        self.feed(on.Spawned(node_id, 0))

    def _run(self, node_id: str, body: Body) -> None:
        """Run the body of a process, and feed its end to the supervisor."""
        task, image = self._processes[node_id]
        exit_code: int | None = 0
        signal_number: int | None = None
        try:
            if task.pending_error is not None:
                raise task.pending_error
            body()
        except Killed as killed:
            exit_code, signal_number = None, killed.signal_number
        except SystemExit as error:
            exit_code = _status(error)
            if exit_code and isinstance(error.code, str):
                image.streams["stderr"].write(f"{error.code}\n")
        except BaseException as error:  # noqa: BLE001 - the test gets it
            exit_code = 1
            self.errors[node_id] = error
            error.add_note(f"in node `{node_id}` of the dataflow")
        image.flush()
        if self.scheduler.closed:
            return
        del self._processes[node_id]
        if (channel := self._channels.pop(node_id, None)) is not None:
            channel.lost = True
        if (host := self._hosts.pop(node_id, None)) is not None:
            host.leave()
        self._text.end_traceback(node_id)
        last = self._text.last_lines(node_id)
        if node_id in self.errors:
            last = (f"{type(self.errors[node_id]).__name__}: {self.errors[node_id]}",)
        self.feed(on.ProcessEnded(node_id, exit_code, signal_number, last))

    # ------------------------------------------------------------------ connections

    def _attach(self, node_id: str | None) -> VirtualHost | None:
        """Return the host of the node that the calling thread is; None if it is no task."""
        found = current()
        if found is None or found[0] is not self.scheduler:
            return None
        owner = found[1].owner
        if owner is None and node_id is None:
            raise ConnectError("the test itself is no node; give an id: Node(node_id=...)")
        name = owner if owner is not None else str(node_id)
        self._connections += 1
        number = self._connections
        incarnation = self._incarnations[name] if owner is not None else 0
        self.feed(on.Registering(number, name, incarnation, owner is None))
        answer = self._answers.pop(number)
        if isinstance(answer, str):
            raise ConnectError(answer)
        return self._make_host(*answer)

    def _make_host(self, node_id: str, restart_count: int) -> VirtualHost:
        planned = self._plan.configs[node_id]
        outputs = [observed(output, self._tap_slot) for output in planned.outputs]
        config = msgspec.structs.replace(planned, restart_count=restart_count, outputs=outputs)
        doorbell = self._doorbells[config.bell]
        channel = VirtualChannel(doorbell, lambda message: self._receive(node_id, message))
        doorbell.channel = channel
        self._channels[node_id] = channel
        self._hosts[node_id] = VirtualHost(
            channel,
            config,
            self.board,
            self._engine,
            self._doorbells,
            (lambda output_id: self._any(node_id, output_id)) if node_id in self._any_output else None,
            self._states.setdefault(node_id, StateInMemory()),
        )
        return self._hosts[node_id]

    def _any(self, node_id: str, output_id: str) -> OutputConfig:
        config = OutputConfig(output_id, f"{node_id}/{output_id}", next(self._free_slots))
        self._observe(node_id, config)
        return observed(config, self._tap_slot)

    def _observe(self, node_id: str, output: OutputConfig) -> None:
        """Keep the messages of an output from now on, without being a node."""

        def keep(message: Message) -> None:
            sent = sent_message(output.id, message, (self.scheduler.now - START_NS) / 1e9)
            self.messages.setdefault(f"{node_id}/{output.id}", []).append(sent)

        self._engine.listen(output.service, keep)

    def _receive(self, node_id: str, message: ToDaemon) -> None:
        """Take a message of a node's process; the channel of one that has ended carries none."""
        if self.scheduler.closed:
            return
        if isinstance(message, on.NodeMessage):
            self.feed(on.MessageReceived(node_id, message))
        if isinstance(message, Closing):
            if self.dataflow.node(node_id).is_dynamic:
                del self._channels[node_id]
                self.feed(on.Disconnected(node_id))
            if node_id in self.node_closed:
                self.scheduler.raise_flag(self.node_closed[node_id])

    def _make_doorbells(self) -> dict[str, VirtualDoorbell]:
        by_path: dict[str, VirtualDoorbell] = {}
        for config in self._plan.configs.values():
            by_path[config.bell] = VirtualDoorbell(
                self.scheduler, self._doorbells_by_fd, _wait_reason(config), of_node=True
            )
            for output in config.outputs:
                if output.credit_bell:
                    by_path[output.credit_bell] = VirtualDoorbell(
                        self.scheduler,
                        self._doorbells_by_fd,
                        f"room in a queue behind its output `{output.id}`",
                        of_node=False,
                    )
        return by_path

    # ------------------------------------------------------------------ text

    def _deliver(self, node_id: str, frame: TextInput) -> bool | None:
        node = self.supervisor.state.nodes[node_id]
        if node.present and self.send(node_id, frame):
            return True
        if node.spec.is_dynamic or node.phase in ("running", "ended", "backoff") or node.restarts:
            return False
        return None

    def _keep(self, entry: LogEntry) -> None:
        self.logs.append(entry)
        self._accounting.count_logged(entry)
        if self._echo is not None:
            self._echo(self._render(entry))


class _VirtualAccounting(Accounting):
    """The accounting of a virtual dataflow, whose doorbells are no pipes."""

    def __init__(self, board: Board, plan: Plan, doorbells: Mapping[str, VirtualDoorbell]) -> None:
        super().__init__(board, plan)
        self._doorbells = doorbells

    def _ring(self, path: str) -> None:
        self._doorbells[path].ring()


def _status(error: SystemExit) -> int:
    code = error.code
    return 0 if code is None else code & 0xFF if isinstance(code, int) else 1


def _wait_reason(config: NodeConfig) -> str:
    inputs = ", ".join(f"`{item.id}` ({item.source})" for item in config.inputs)
    return f"its inputs {inputs}" if inputs else "a stop, having no inputs"
