"""Executes the commands of a `Supervisor`; its back end is the real daemon, or a virtual one in tests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dora.daemon.accounting import Accounting
from dora.daemon.logs.diagnostics import LEVELS, debug_log, shown
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.supervisor import Supervisor
from dora.wire.journal import MarkKind
from dora.wire.node_protocol import Started, ToNode

Handle = Callable[[on.Event, float], list[do.Command]]


class Backend(Protocol):
    """Processes and connections of a daemon."""

    def spawn(self, command: do.Spawn) -> None:
        """Start the process of a node; feed `Spawned` or `SpawnFailed`."""

    def admit(self, command: do.Admit) -> None:
        """Answer a registration; the connection is the node's from now on."""

    def refuse(self, connection: int, reason: str) -> None:
        """Answer a registration with a reason and close the connection."""

    def send(self, node_id: str, message: ToNode) -> bool:
        """Send a frame to a node; return False if it is not connected."""

    def signal(self, node_id: str, number: int) -> None:
        """Send a signal to the process of a node, if it has one."""

    def release_text(self, node_id: str) -> None:
        """Send a node that has started the text that was kept for it."""

    def log(self, entry: LogEntry) -> None:
        """Write an entry of the daemon to the log."""

    def perform(self, command: do.LiveCommand) -> None:
        """Perform a command that only occurs outside tests."""

    def idle(self) -> None:
        """Called once all events that were fed are handled."""

    def finish(self) -> None:
        """Called when the dataflow has ended."""


class Executor:
    """Feed events to a supervisor, one at a time, and perform its commands in order."""

    def __init__(
        self,
        supervisor: Supervisor,
        backend: Backend,
        accounting: Accounting,
        clock: Callable[[], float],
        handle: Handle | None = None,
        mark: Callable[[MarkKind, str, str], None] = lambda *_: None,
    ) -> None:
        """``clock`` returns seconds. ``handle`` is called instead of `Supervisor.handle`, to trace it.

        ``mark`` notes in the journal of the run what has happened to a node.
        """
        self._supervisor = supervisor
        self._backend = backend
        self._accounting = accounting
        self._clock = clock
        self._mark = mark
        self._handle = handle or supervisor.handle
        self._events: deque[on.Event] = deque()
        self._handling = False

    def feed(self, event: on.Event) -> None:
        """Handle an event; one that comes while a command is performed waits for its turn."""
        self._events.append(event)
        if self._handling:  # to handle it now would change the state between two commands of one event
            return
        self._handling = True
        try:
            while self._events:
                for command in self._handle(self._events.popleft(), self._clock()):
                    self._perform(command)
            self._backend.idle()
        finally:
            self._handling = False

    def _perform(self, command: do.Command) -> None:
        match command:
            case do.Spawn():
                self._backend.spawn(command)
            case do.Admit():
                self._backend.admit(command)
            case do.Refuse(connection=connection, reason=reason):
                self._backend.refuse(connection, reason)
            case do.Send(node_id=node_id, message=message):
                self._send(node_id, message)
            case do.Signal(node_id=node_id, signal=number):
                self._backend.signal(node_id, number)
            case do.CloseReceivers(node_id=node_id):
                self._accounting.close_receivers(node_id)
            case do.OpenReceivers(node_id=node_id):
                self._accounting.open_receivers(node_id)
            case do.Count(node_id=node_id, counter=counter, times=times):
                self._accounting.count(node_id, counter, times)
            case do.AddMark(kind=kind, node_id=node_id, text=text):
                self._mark(kind, node_id, text)
            case do.Log(level=level, node_id=node_id, text=text, fields=fields):
                self._backend.log(LogEntry(time.time_ns(), level, node_id, text, "daemon", fields=fields))
            case do.Finish():
                self._backend.finish()
            case _:
                self._backend.perform(command)

    def _send(self, node_id: str, message: ToNode) -> None:
        if self._backend.send(node_id, message):
            self._accounting.release_sends(node_id, message, self._supervisor.state.send_patience)
            if isinstance(message, Started):
                self._backend.release_text(node_id)


def traced(handle: Handle) -> Handle:
    """Return a ``handle`` that logs every event, if the logger ``dora.daemon.run`` is enabled."""
    log = debug_log("dora.daemon.run")
    if log is None:
        return handle

    def handle_and_trace(event: on.Event, now: float) -> list[do.Command]:
        commands = handle(event, now)
        is_routine = isinstance(event, (on.Progress, on.TimePassed)) and not commands
        level = LEVELS["trace" if is_routine else "debug"]
        match event:
            case on.RequestReceived() | on.ChangeRequested():
                subject = shown(event.request)
            case on.MessageReceived():
                subject = f"{event.node_id}: {shown(event.message)}"
            case _:
                subject = shown(event)
        log.log(level, "%s -> %s", subject, ", ".join(map(shown, commands)) or "nothing")
        return commands

    return handle_and_trace
