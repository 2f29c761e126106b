"""Changes of a running dataflow that the coordinator asks for, in the process that runs it.

It asks its own daemon, as `dora node add` would from outside: so there is one way to change a dataflow.
What concerns several machines is in `dora.machine.becoming`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from dora.coordinator.protocol import Amend, Amended, Become, Prepare
from dora.daemon.daemon import Daemon
from dora.daemon.runs import Run
from dora.errors import DoraError
from dora.logs.entry import LogEntry
from dora.machine.becoming import Becoming
from dora.machine.change import carry_out
from dora.machine.part import Part
from dora.machine.reports import Reports

_LAST_ANSWERS: Final = 1.0  # seconds that they may take once the dataflow has ended here


class Amender:
    """``on_log`` gets what builds print."""

    def __init__(self, reports: Reports, on_log: Callable[[LogEntry], None], part: Part | None) -> None:
        self._reports = reports
        self._on_log = on_log
        self._becoming = Becoming(part, reports, on_log) if part is not None else None
        self._daemon: Daemon | None = None
        self._threads: list[threading.Thread] = []

    def set_daemon(self, daemon: Daemon) -> None:
        self._daemon = daemon
        if self._becoming is None:
            daemon.on_changed = self._reports.redefine

    def take(self, message: Amend | Prepare | Become) -> None:
        """Begin with a change; it is reported when it is done."""
        thread = threading.Thread(target=self._carry_out, args=(message,), name="dora-change", daemon=True)
        thread.start()
        self._threads = [thread, *(other for other in self._threads if other.is_alive())]

    def finish(self) -> None:
        """Let the changes that were begun be answered, when the dataflow has ended here."""
        deadline = time.monotonic() + _LAST_ANSWERS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _carry_out(self, message: Amend | Prepare | Become) -> None:
        if self._daemon is None:
            self._reports.amended(Amended(message.ticket, error="the dataflow is still starting"))
            return
        try:
            with Run(self._daemon.socket) as run:
                answer = self._act(run, message)
        except DoraError as error:
            self._reports.amended(Amended(message.ticket, error=str(error)))
        except Exception as error:  # noqa: BLE001 - somebody waits for the answer
            trouble = f"internal error: {type(error).__name__}: {error}"
            self._reports.amended(Amended(message.ticket, error=trouble))
        else:
            self._reports.amended(answer)

    def _act(self, run: Run, message: Amend | Prepare | Become) -> Amended:
        """Raises `DoraError`."""
        becoming = self._becoming
        if isinstance(message, Amend):
            ordered = becoming is not None
            outcome = carry_out(run, message.wish, os.environ, self._on_log, ordered=ordered, placed=True)
            return Amended(message.ticket, outcome)
        if becoming is None:
            raise DoraError("this dataflow runs on one machine")
        if isinstance(message, Prepare):
            return Amended(message.ticket, sent=becoming.prepare(run, message.amendment))
        return Amended(message.ticket, becoming.become(run, message))
