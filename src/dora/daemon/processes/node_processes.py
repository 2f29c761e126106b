"""Processes of the nodes of one run: one per node, and replacements that are not in charge yet."""

from __future__ import annotations

import shlex
import signal
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dora.daemon.event_loop import Loop
from dora.daemon.logs.diagnostics import debug_log
from dora.daemon.logs.entry import Stream
from dora.daemon.options import LocalRunOptions, shell_nodes_allowed
from dora.daemon.processes.child import Child
from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
from dora.daemon.run_directory import RunDirectory
from dora.daemon.supervisor import events as on
from dora.dataflow.model import Dataflow, TimerSource
from dora.wire.excerpt import LINES_KEPT
from dora.wire.node_config import Address

if TYPE_CHECKING:
    from dora.daemon.watchdog import Watchdog

OnLine = Callable[[Stream, str], None]
OnEnd = Callable[[int | None, int | None], None]


class NodeProcesses:
    """Starts and signals the processes of nodes; each start and each end becomes an event.

    ``on_line(node, stream, text)`` gets every line that a node prints. ``on_end(node, exit code, signal)``
    is called when the process of a node ends. The end of a replacement is fed as an event.
    """

    def __init__(
        self,
        loop: Loop,
        run: RunDirectory,
        options: LocalRunOptions,
        *,
        feed: Callable[[on.Event], None],
        on_line: Callable[[str, Stream, str], None],
        on_end: Callable[[str, int | None, int | None], None],
    ) -> None:
        self._loop = loop
        self._run = run
        self._options = options
        self._feed = feed
        self._on_line = on_line
        self._on_end = on_end
        self._children: dict[str, Child] = {}
        self._replacements: dict[str, Child] = {}
        self._dropped: list[Child] = []  # replacements that were killed, but have not ended yet
        self._watchdog: Watchdog | None = None

    def __iter__(self) -> Iterator[Child]:
        return iter([*self._children.values(), *self._replacements.values(), *self._dropped])

    def spawn(self, dataflow: Dataflow, node_id: str, incarnation: int) -> None:
        """Start the process of a node; feed `Spawned` or `SpawnFailed`."""
        try:
            child = self._start(
                dataflow,
                node_id,
                incarnation,
                on_line=lambda stream, text: self._on_line(node_id, stream, text),
                on_end=lambda code, number: self._ended(node_id, code, number),
            )
        except CannotSpawn as error:
            self._feed(on.SpawnFailed(node_id, f"could not be started: {error}"))
            return
        self._children[node_id] = child
        self._feed(on.Spawned(node_id, child.pid))

    def spawn_replacement(self, dataflow: Dataflow, node_id: str, incarnation: int) -> None:
        """Start a second process of a node; feed `ReplacementEnded` if it cannot be started or ends."""
        errors: deque[str] = deque(maxlen=LINES_KEPT)

        def on_line(stream: Stream, text: str) -> None:
            if stream == "stderr":
                errors.append(text)
            self._on_line(node_id, stream, text)

        def on_end(exit_code: int | None, number: int | None) -> None:
            if self._children.get(node_id) is child:  # it was promoted
                self._ended(node_id, exit_code, number)
            elif self._replacements.get(node_id) is child:
                del self._replacements[node_id]
                self._feed(on.ReplacementEnded(node_id, incarnation, exit_code, number, tuple(errors)))
            else:
                self._dropped.remove(child)

        try:
            child = self._start(dataflow, node_id, incarnation, on_line=on_line, on_end=on_end)
        except CannotSpawn as error:
            self._feed(on.ReplacementEnded(node_id, incarnation, reason=str(error)))
            return
        self._replacements[node_id] = child

    def promote_replacement(self, node_id: str) -> None:
        """Make the replacement the process of its node; feed `Spawned`."""
        child = self._children[node_id] = self._replacements.pop(node_id)
        self._feed(on.Spawned(node_id, child.pid))

    def drop_replacement(self, node_id: str) -> None:
        """Kill the replacement of a node, if it has not ended already."""
        if (child := self._replacements.pop(node_id, None)) is not None:
            self._dropped.append(child)
            child.signal(signal.SIGKILL)

    def signal(self, node_id: str, number: int) -> None:
        """Send a signal to the process of a node, if it has one."""
        if (child := self._children.get(node_id)) is not None:
            child.signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to every process."""
        for child in self:
            child.signal(number)

    def kill_all(self) -> None:
        """Kill and reap every process, without any event."""
        for child in self:
            child.kill_now()
        self._children.clear()

    def watch(self, watchdog: Watchdog) -> None:
        """Register every process with the guardian, those that start later too."""
        self._watchdog = watchdog
        for child in self:
            watchdog.register(child.pid)

    def _ended(self, node_id: str, exit_code: int | None, number: int | None) -> None:
        del self._children[node_id]
        self._on_end(node_id, exit_code, number)

    def _start(
        self, dataflow: Dataflow, node_id: str, incarnation: int, *, on_line: OnLine, on_end: OnEnd
    ) -> Child:
        """Start a process of a node; raises `CannotSpawn`."""
        node = dataflow.node(node_id)
        allow_shell = shell_nodes_allowed(self._options)
        spec = launch_spec(dataflow, node, uv=self._options.uv)
        address = Address(
            self._run.dataflow_id,
            node_id,
            self._run.socket,
            incarnation,
            data_inputs=any(not isinstance(item.source, TimerSource) for item in node.inputs),
        )
        command = spec.command(allow_shell=allow_shell)
        if (log := debug_log("dora.daemon.spawn")) is not None:
            log.debug("node `%s`: %s in %s", node_id, shlex.join(command), spec.directory)
        child = Child(
            self._loop,
            command,
            env=spec.process_environment(
                address,
                run_id=self._run.run_id,
                strict_outputs=self._options.strict_outputs,
                allow_shell=allow_shell,
            ),
            cwd=spec.directory,
            cpu_affinity=node.cpu_affinity,
            on_line=on_line,
            on_end=on_end,
        )
        if self._watchdog is not None:
            self._watchdog.register(child.pid)
        return child
