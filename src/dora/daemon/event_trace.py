"""Debug log of a run: every event, and the commands with which the supervisor answered."""

from __future__ import annotations

from collections.abc import Callable

from dora.daemon.logs.diagnostics import LEVELS, debug_log, shown
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on

Handle = Callable[[on.Event, float], list[do.Command]]


def traced(handle: Handle) -> Handle:
    """Return a ``handle`` that logs every event, if the logger ``dora.daemon.run`` is enabled."""
    log = debug_log("dora.daemon.run")
    if log is None:
        return handle

    def handle_and_trace(event: on.Event, now: float) -> list[do.Command]:
        commands = handle(event, now)
        is_routine = isinstance(event, (on.Progress, on.TimePassed)) and not commands
        level = LEVELS["trace" if is_routine else "debug"]
        subject = event.request if isinstance(event, (on.RequestReceived, on.ChangeRequested)) else event
        log.log(level, "%s -> %s", shown(subject), ", ".join(map(shown, commands)) or "nothing")
        return commands

    return handle_and_trace
