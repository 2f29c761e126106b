"""Changes of a running dataflow that the coordinator asks for, in the process that runs it.

It asks its own daemon, as `dora node add` would from outside: so there is one way to change a dataflow.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from dora.coordinator.protocol import Amend, Amended
from dora.daemon.daemon import Daemon
from dora.daemon.runs import Run
from dora.errors import DoraError
from dora.logs.entry import LogEntry
from dora.machine.change import carry_out
from dora.machine.reports import Reports


class Amender:
    """``on_log`` gets what builds print."""

    def __init__(self, reports: Reports, on_log: Callable[[LogEntry], None]) -> None:
        self._reports = reports
        self._on_log = on_log
        self._daemon: Daemon | None = None

    def set_daemon(self, daemon: Daemon) -> None:
        self._daemon = daemon
        daemon.on_changed = self._reports.redefine

    def take(self, message: Amend) -> None:
        """Begin with a change; it is reported when it is done."""
        threading.Thread(target=self._carry_out, args=(message,), name="dora-change", daemon=True).start()

    def _carry_out(self, message: Amend) -> None:
        if self._daemon is None:
            self._reports.amended(Amended(message.ticket, error="the dataflow is still starting"))
            return
        try:
            with Run(self._daemon.socket) as run:
                outcome = carry_out(run, message.wish, os.environ, self._on_log)
        except DoraError as error:
            self._reports.amended(Amended(message.ticket, error=str(error)))
        except Exception as error:  # noqa: BLE001 - somebody waits for the answer
            trouble = f"internal error: {type(error).__name__}: {error}"
            self._reports.amended(Amended(message.ticket, error=trouble))
        else:
            self._reports.amended(Amended(message.ticket, outcome))
