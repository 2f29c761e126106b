"""Processes of the nodes of one run: one per node, and replacements that are not in charge yet."""

from __future__ import annotations

import shlex
import signal
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from dora.daemon.cleanup import WaitForRoom
from dora.daemon.event_loop import Loop
from dora.daemon.logs.diagnostics import debug_log
from dora.daemon.logs.entry import Stream
from dora.daemon.options import LocalRunOptions, shell_nodes_allowed
from dora.daemon.processes.child import Child
from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
from dora.daemon.processes.process import PlainProcess, Process
from dora.daemon.run_directory import RunDirectory
from dora.daemon.supervisor import events as on
from dora.daemon.template.client import PendingStart, TemplateClient, fork_request, why_plain
from dora.daemon.template.protocol import Refused
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
        template: TemplateClient | None,
        watchdog: Watchdog,
        on_warning: Callable[[str], None],
        is_encrypted: bool,
    ) -> None:
        """``is_encrypted``: links to other machines are."""
        self._on_warning = on_warning
        self._reported: set[str] = set()  # places of packages that cannot be imported
        self._template = template
        self._is_encrypted = is_encrypted
        self._watchdog = watchdog
        self._loop = loop
        self._run = run
        self._options = options
        self._feed = feed
        self._on_line = on_line
        self._on_end = on_end
        self._children: dict[str, Child] = {}
        self._replacements: dict[str, Child] = {}
        self._starts: dict[str, _Start] = {}  # the last one of each node
        self._replacement_starts: dict[str, _Start] = {}
        self._dropped: list[Child] = []  # killed, but not ended yet, and in charge of no node any more

    def __iter__(self) -> Iterator[Child]:
        return iter([*self._children.values(), *self._replacements.values(), *self._dropped])

    def loading_pid(self, node_id: str) -> int | None:
        """Return the process that imports packages for a node: its own, or a template."""
        if (child := self._children.get(node_id)) is not None:
            return child.pid
        start = self._starts.get(node_id)
        return start.pending.importing if start is not None and start.pending is not None else None

    def spawn(
        self,
        dataflow: Dataflow,
        node_id: str,
        incarnation: int,
        wait: Callable[[Callable[[], None]], WaitForRoom | None] | None = None,
    ) -> None:
        """Start the process of a node; feed `Spawned` or `SpawnFailed`, now or later.

        ``wait`` is called with the function that begins the start. It returns None to begin now, or the
        wait that will call it.
        """
        child: Child | None = None

        def on_started(started: Child) -> None:
            nonlocal child
            child = self._children[node_id] = started
            self._feed(on.Spawned(node_id, started.pid))

        self._drop(self._children.pop(node_id, None))  # it survived SIGKILL, or belonged to a removed node
        start = self._starts[node_id] = _Start(
            dataflow,
            node_id,
            incarnation,
            on_line=lambda stream, text: self._on_line(node_id, stream, text),
            on_started=on_started,
            on_failed=lambda reason: self._feed(on.SpawnFailed(node_id, f"could not be started: {reason}")),
            on_end=lambda code, number: self._ended(node_id, child, code, number),
        )
        start.pending = None if wait is None else wait(partial(self._begin, start))
        if start.pending is None:
            self._begin(start)

    def spawn_replacement(self, dataflow: Dataflow, node_id: str, incarnation: int) -> None:
        """Start a second process of a node; feed `ReplacementEnded` if it cannot be started or ends."""
        errors: deque[str] = deque(maxlen=LINES_KEPT)
        replacement: Child | None = None

        def on_line(stream: Stream, text: str) -> None:
            if stream == "stderr":
                errors.append(text)
            self._on_line(node_id, stream, text)

        def on_started(child: Child) -> None:
            nonlocal replacement
            replacement = self._replacements[node_id] = child

        def on_end(exit_code: int | None, number: int | None) -> None:
            if replacement is not None and self._replacements.get(node_id) is replacement:
                del self._replacements[node_id]
                self._feed(on.ReplacementEnded(node_id, incarnation, exit_code, number, tuple(errors)))
            else:  # it was promoted or dropped
                self._ended(node_id, replacement, exit_code, number)

        self._replacement_starts[node_id] = _Start(
            dataflow,
            node_id,
            incarnation,
            on_line=on_line,
            on_started=on_started,
            on_failed=lambda reason: self._feed(on.ReplacementEnded(node_id, incarnation, reason=reason)),
            on_end=on_end,
        )
        self._begin(self._replacement_starts[node_id])

    def promote_replacement(self, node_id: str) -> None:
        """Make the replacement the process of its node; feed `Spawned`."""
        self._read_answers(self._replacement_starts.get(node_id))
        self._drop(self._children.pop(node_id, None))
        child = self._children[node_id] = self._replacements.pop(node_id)
        self._feed(on.Spawned(node_id, child.pid))

    def drop_replacement(self, node_id: str) -> None:
        """Kill the replacement of a node, if it has not ended already."""
        self._give_up(self._replacement_starts.get(node_id))
        self._drop(self._replacements.pop(node_id, None))

    def signal(self, node_id: str, number: int) -> None:
        """Send a signal to the process of a node, if it has one.

        One that has not started yet does not start after SIGTERM or SIGKILL.
        """
        start = self._starts.get(node_id)
        self._read_answers(start)
        if start is not None and not start.over and number in (signal.SIGTERM, signal.SIGKILL):
            self._give_up(start)
            if node_id not in self._children:
                start.on_end(None, number)
                return
        if (child := self._children.get(node_id)) is not None:
            child.signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to every process."""
        for node_id in list(self._starts):
            self.signal(node_id, number)
        for child in self:
            child.signal(number)

    def kill_all(self) -> None:
        """Kill and reap every process, without any event."""
        for start in [*self._starts.values(), *self._replacement_starts.values()]:
            self._give_up(start)  # first: no start may become one more process
        for child in self:
            child.kill_now()
        self._children.clear()
        if self._template is not None:
            self._template.close()

    def _drop(self, child: Child | None) -> None:
        """Kill a process whose node has, or gets, another one; its end is no event."""
        if child is not None:
            self._dropped.append(child)
            child.signal(signal.SIGKILL)

    def _ended(self, node_id: str, child: Child | None, exit_code: int | None, number: int | None) -> None:
        if child in self._dropped:
            self._dropped.remove(child)
            return
        self._children.pop(node_id, None)
        self._on_end(node_id, exit_code, number)

    def _begin(self, start: _Start) -> None:
        """Have the template fork a process, or start it plainly."""
        start.pending = None
        node = start.dataflow.node(start.node_id)
        spec = launch_spec(start.dataflow, node, uv=self._options.uv)
        allow_shell = shell_nodes_allowed(self._options)
        address = Address(
            self._run.dataflow_id,
            start.node_id,
            self._run.socket,
            start.incarnation,
            data_inputs=any(not isinstance(item.source, TimerSource) for item in node.inputs),
        )
        try:
            command = spec.command(allow_shell=allow_shell)
        except CannotSpawn as error:
            start.fail(str(error))
            return
        environment = spec.process_environment(
            address,
            run_id=self._run.run_id,
            strict=self._options.strict,
            allow_shell=allow_shell,
        )

        def start_plainly(refused: Refused) -> None:
            if log is not None and refused.reason:
                log.debug("node `%s` starts plainly: %s", start.node_id, refused.reason)
            if refused.place and refused.place not in self._reported:
                self._reported.add(refused.place)
                text = f"{refused.place}: {refused.reason}; the nodes that need it start without `preload`"
                self._on_warning(f"{text}\n{refused.fault}".rstrip())
            try:
                process = PlainProcess(
                    command, env=environment, cwd=spec.directory, scheduling=node.scheduling
                )
            except CannotSpawn as error:
                start.fail(str(error))
            else:
                self._started(start, process)

        if (log := debug_log("dora.daemon.spawn")) is not None:
            log.debug("node `%s`: %s in %s", start.node_id, shlex.join(command), spec.directory)
        if self._template is None:
            start_plainly(Refused("`--no-preload` says so" if self._options.preload is False else ""))
        elif reason := why_plain(node, command):
            start_plainly(Refused(reason))
        else:
            start.pending = self._template.start(
                fork_request(node, command, environment, spec.directory, is_encrypted=self._is_encrypted),
                lambda process: self._started(start, process),
                start_plainly,
            )

    def _started(self, start: _Start, process: Process) -> None:
        start.pending = None
        start.over = True
        child = Child(self._loop, process, on_line=start.on_line, on_end=start.on_end)
        # From here on, the guardian finds also a process that overwrites its environment.
        self._watchdog.register(child.pid)
        start.on_started(child)

    def _read_answers(self, start: _Start | None) -> None:
        """Take what a template has answered by now: its process may already have done something."""
        if start is not None and start.pending is not None:
            start.pending.read()

    def _give_up(self, start: _Start | None) -> None:
        """Start no process any more; one that has started meanwhile is a child."""
        if start is not None and start.pending is not None:
            start.pending.cancel()
            start.over = True


class _Start(msgspec.Struct, eq=False):
    """The start of one process: what is to be called when it runs, fails or ends."""

    dataflow: Dataflow
    node_id: str
    incarnation: int
    on_line: OnLine
    on_started: Callable[[Child], None]
    on_failed: Callable[[str], None]
    on_end: OnEnd
    pending: PendingStart | WaitForRoom | None = None  # while a template has been asked, or it waits
    over: bool = False

    def fail(self, reason: str) -> None:
        self.over = True
        self.on_failed(reason)
