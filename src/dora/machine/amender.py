"""Changes of a running dataflow that the coordinator asks for, in the process that runs it.

It asks its own daemon, as `dora node add` would from outside: so there is one way to change a dataflow.
What concerns several machines is in `dora.machine.becoming`; a dataflow on this one becomes a part when the
coordinator says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from dora.coordinator.protocol import (
    Apply,
    ChangeRequest,
    ChangeResult,
    JoinCluster,
    Partition,
    Prepare,
    ProposedChange,
    StartRun,
)
from dora.daemon.daemon import Daemon
from dora.daemon.runs import DaemonClient
from dora.errors import DoraError
from dora.logs.entry import LogEntry
from dora.machine.becoming import PartitionChanges
from dora.machine.change import carry_out
from dora.machine.part import LocalPartition
from dora.machine.reports import Reports
from dora.supervise import events as on
from dora.wire.requests import GetModel, LeaderHandover, Model
from dora.wire.wishes import OperationResult

_LAST_ANSWERS: Final = 1.0  # seconds that they may take once the dataflow has ended here


class ChangeRunner:
    """``on_log`` gets what builds print; ``part`` None: the dataflow is on this machine alone."""

    def __init__(
        self,
        start: StartRun,
        reports: Reports,
        on_log: Callable[[LogEntry], None],
        part: LocalPartition | None,
    ) -> None:
        self._start = start
        self._reports = reports
        self._on_log = on_log
        self.part = part
        self._becoming = PartitionChanges(part, reports, on_log) if part is not None else None
        self._lock = threading.Lock()
        self._daemon: Daemon | None = None
        self._threads: list[threading.Thread] = []

    def set_daemon(self, daemon: Daemon) -> None:
        self._daemon = daemon
        if self._becoming is None:
            daemon.on_changed = self._reports.redefine

    def take(self, message: JoinCluster | ChangeRequest | Prepare | Apply) -> None:
        """Begin with a change; it is reported when it is done."""
        thread = threading.Thread(target=self._carry_out, args=(message,), name="dora-change", daemon=True)
        thread.start()
        self._threads = [thread, *(other for other in self._threads if other.is_alive())]

    def finish(self) -> None:
        """Let the changes that were begun be answered, when the dataflow has ended here."""
        deadline = time.monotonic() + _LAST_ANSWERS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _carry_out(self, message: JoinCluster | ChangeRequest | Prepare | Apply) -> None:
        if self._daemon is None:
            self._reports.amended(ChangeResult(message.ticket, error="the dataflow is still starting"))
            return
        try:
            with DaemonClient(self._daemon.socket) as run:
                answer = self._act(run, message)
        except DoraError as error:
            self._reports.amended(ChangeResult(message.ticket, error=str(error)))
        except Exception as error:  # noqa: BLE001 - somebody waits for the answer
            trouble = f"internal error: {type(error).__name__}: {error}"
            self._reports.amended(ChangeResult(message.ticket, error=trouble))
        else:
            self._reports.amended(answer)

    def _act(
        self, run: DaemonClient, message: JoinCluster | ChangeRequest | Prepare | Apply
    ) -> ChangeResult:
        """Raises `DoraError`."""
        if isinstance(message, JoinCluster):
            with self._lock:
                if self.part is None:
                    self.part = self._take_part(run, message.share)
            return ChangeResult(message.ticket, OperationResult(""))
        becoming = self._becoming
        if isinstance(message, ChangeRequest):
            ordered = becoming is not None
            outcome = carry_out(run, message.wish, os.environ, self._on_log, ordered=ordered, placed=True)
            return ChangeResult(message.ticket, outcome)
        if becoming is None:
            raise DoraError("this dataflow runs on one machine")
        if isinstance(message, Prepare):
            return ChangeResult(message.ticket, sent=becoming.prepare(run, message.amendment))
        return ChangeResult(message.ticket, becoming.become(run, message))

    def _take_part(self, run: DaemonClient, share: Partition) -> LocalPartition:
        """Let what runs here be a part of a dataflow on several machines; raises `DoraError`."""
        daemon = self._daemon
        assert daemon is not None
        run.ask(LeaderHandover(share.machine))
        daemon.on_changed = None
        model = run.ask(GetModel())
        assert isinstance(model, Model)
        machines = {node["id"]: share.machine for node in model.dataflow["nodes"]}
        spec = msgspec.structs.replace(
            self._start.spec, machines=machines, revision=model.revision, births={}
        )
        part = LocalPartition(
            msgspec.structs.replace(self._start, spec=spec, share=share), self._reports, lambda: False
        )
        part.write_passwords(daemon.place.run_dir)
        self._reports.say(secret=share.secret)
        part.choose_ports(())
        self._reports.became(
            ProposedChange(revision=model.revision, dataflow=model.dataflow, machines=machines, births={})
        )
        self._becoming = PartitionChanges(part, self._reports, self._on_log)
        part.set_daemon(daemon)
        daemon.loop.call_threadsafe(lambda: daemon.feed(on.TimePassed()))  # which tells how its nodes are
        return part
