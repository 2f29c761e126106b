"""The coordinator: it keeps the records, and tells the daemon what shall run.

What has to survive is in the store; in memory is only who is connected. So a coordinator that is killed
loses nothing: the daemon comes back by itself, with a report of what runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

import msgspec

from dora._version import __version__
from dora.coordinator.protocol import (
    ACTIVE,
    Changed,
    DataflowView,
    Explain,
    Explained,
    Hello,
    Leave,
    Measure,
    Recorded,
    Rejected,
    RunReport,
    RunSpec,
    RunUsage,
    Start,
    Stop,
    SystemStatus,
    ToCoordinator,
    ToDaemon,
    Usage,
    Welcome,
    version_fault,
)
from dora.coordinator.rules import Refusal, check_name, file_of, find, first_view, free_name, listed, lost
from dora.coordinator.store import Store
from dora.wire.ids import uuid7

LOST_AFTER = 5.0  # seconds that a daemon may take to come back before its dataflows count as lost
FIRST_REPORT = 10.0  # the same, after the start of the coordinator
MEASURE_PATIENCE = 0.15
LEAVE_PATIENCE = 16.0

log = logging.getLogger("dora.coordinator")


class DaemonLink:
    """The connection of a daemon; ``send`` never waits."""

    def __init__(self, daemon_id: str, send: Callable[[ToDaemon], None]) -> None:
        self.daemon_id = daemon_id
        self.send = send


class Coordinator:
    """Everything happens in one event loop; ``exit`` is called once, when the coordinator shall end."""

    def __init__(self, store: Store, exit: Callable[[], None]) -> None:
        self._store = store
        self._exit = exit
        self._daemon: DaemonLink | None = None
        self._changed = asyncio.Condition()
        self._usage: dict[str, RunUsage] = {}
        self._measured = asyncio.Event()
        self._verdict = asyncio.get_running_loop().call_later(FIRST_REPORT, self._give_up)
        self._tasks: set[asyncio.Task[None]] = set()

    # ----------------------------------------------------------------------- the daemon

    def join(self, hello: Hello, send: Callable[[ToDaemon], None]) -> DaemonLink | None:
        """Take in a daemon and its report; None (and an answer to it) if it cannot take part."""
        fault = version_fault("daemon", hello.version, __version__)
        if not fault and self._daemon is not None and self._daemon.daemon_id != hello.daemon_id:
            fault = "another daemon is connected to this coordinator already"
        if fault:
            log.warning("refused the daemon with process id %d: %s", hello.pid, fault)
            send(Rejected(fault))
            return None
        self._verdict.cancel()
        self._daemon = DaemonLink(hello.daemon_id, send)
        log.info("the daemon with process id %d is connected", hello.pid)
        send(Welcome(__version__))
        known = {view.uuid for view in self._store.views()}
        for report in hello.runs:
            if report.status in ACTIVE and report.dataflow_id not in known:
                send(Explain(report.dataflow_id))  # the store is a new one
            else:
                self._record(report)
        reported = {report.dataflow_id for report in hello.runs}
        for dataflow_id, was_with in self._store.active().items():
            if dataflow_id not in reported:
                self._record(lost(dataflow_id, was_with, hello.daemon_id))
        self._notify()
        return self._daemon

    def leave(self, link: DaemonLink) -> None:
        """The connection of a daemon ended; it has some seconds to come back."""
        if self._daemon is not link:
            return
        log.warning("the daemon is gone")
        self._daemon = None
        self._verdict = asyncio.get_running_loop().call_later(LOST_AFTER, self._give_up)
        self._notify()

    def take(self, message: ToCoordinator) -> None:
        """Take a message of the daemon."""
        match message:
            case Changed(run=report):
                self._record(report)
                self._notify()
            case Explained(run=report, spec=spec):
                self._add(report.dataflow_id, spec)
                self._record(report)
                self._notify()
            case Usage(runs=runs):
                self._usage = {run.dataflow_id: run for run in runs}
                self._measured.set()
            case Hello():
                log.warning("the daemon introduced itself twice")

    def _record(self, report: RunReport) -> None:
        # The daemon's word counts, also about a run that was given up before the daemon came back.
        daemon_id = self._daemon.daemon_id if self._daemon is not None else ""
        self._store.update(report, daemon_id)
        log.info("dataflow %s: %s %s", report.dataflow_id, report.status, report.reason)
        if report.status not in ACTIVE and self._daemon is not None:
            self._daemon.send(Recorded(report.dataflow_id))

    def _give_up(self) -> None:
        if self._daemon is None:
            for dataflow_id in self._store.active():
                self._record(
                    RunReport(dataflow_id, "failed", reason="its daemon is gone, and all nodes with it")
                )
            self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------------- requests

    def status(self) -> SystemStatus:
        daemons = [self._daemon.daemon_id] if self._daemon is not None else []
        return SystemStatus(__version__, os.getpid(), daemons, len(self._store.active()))

    async def dataflows(self) -> list[DataflowView]:
        """Return all dataflows, with what the running ones use; the oldest first."""
        views = self._store.views()
        if self._daemon is not None and any(view.status in ACTIVE for view in views):
            self._measured.clear()
            self._daemon.send(Measure())
            try:
                await asyncio.wait_for(self._measured.wait(), MEASURE_PATIENCE)
            except TimeoutError:
                pass  # the numbers of the last time
        return [self._with_usage(view) for view in views]

    def _with_usage(self, view: DataflowView) -> DataflowView:
        usage = self._usage.get(view.uuid)
        if usage is None or view.status not in ACTIVE:
            return view
        return msgspec.structs.replace(view, cpu=usage.cpu, memory=usage.memory)

    def dataflow(self, wanted: str) -> DataflowView:
        """Return one dataflow with its result; raises `Refusal`."""
        return self._store.view(find(self._store.views(), wanted).uuid)

    def start(self, spec: RunSpec) -> DataflowView:
        """Record a dataflow and let it start; raises `Refusal`. Without a name it gets that of its file."""
        daemon = self._some_daemon()
        views = self._store.views()
        if spec.name:
            check_name(views, spec.name)
        stem = os.path.splitext(os.path.basename(file_of(spec) or "dataflow"))[0]
        spec = msgspec.structs.replace(spec, name=spec.name or free_name(views, stem))
        view = self._add(uuid7(), spec)
        daemon.send(Start(view.uuid, spec))
        log.info("dataflow %s: %s is to start", view.uuid, view.name)
        return view

    def _add(self, dataflow_id: str, spec: RunSpec) -> DataflowView:
        """Make the record of a dataflow; raises `Refusal`."""
        view = first_view(dataflow_id, spec, time.time())
        self._store.add(dataflow_id, spec, view, self._some_daemon().daemon_id)
        return view

    def stop(self, wanted: str, grace: float | None, force: bool) -> DataflowView:
        """Let a running dataflow stop; returns at once. Raises `Refusal`."""
        daemon = self._some_daemon()
        view = find(self._store.views(), wanted)
        if view.status in ACTIVE:
            daemon.send(Stop(view.uuid, grace, force))
        return view

    async def wait(self, wanted: str, *, started: bool, timeout: float) -> DataflowView:
        """Wait until a dataflow has started or ended (``started``), or ended; at most ``timeout`` seconds.

        Raises `Refusal`, also when its record is removed meanwhile.
        """
        dataflow_id = find(self._store.views(), wanted).uuid
        done = ("running", "finished", "failed") if started else ("finished", "failed")

        def is_done() -> bool:
            try:
                return self._store.view(dataflow_id).status in done
            except KeyError:
                return True

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(is_done), timeout)
            except TimeoutError:
                pass
        try:
            return self._store.view(dataflow_id)
        except KeyError:
            raise Refusal(404, f"the record of {dataflow_id} was removed") from None

    async def restart(self, wanted: str, grace: float | None, force: bool) -> tuple[str, DataflowView]:
        """Stop a dataflow if it runs, wait for its end, start it again; return the old id and the new."""
        view = self.stop(wanted, grace, force)
        while view.status in ACTIVE:
            view = await self.wait(view.uuid, started=False, timeout=60.0)
        return view.uuid, self.start(self._store.spec(view.uuid))

    def clean(self) -> list[DataflowView]:
        """Remove the records of ended dataflows and return them."""
        removed = self._store.remove_ended()
        self._notify()
        return removed

    async def down(self, force: bool) -> None:
        """End the daemon, and then the coordinator. Raises `Refusal` if dataflows run, unless ``force``."""
        running = [view for view in self._store.views() if view.status in ACTIVE]
        if running and not force:
            raise Refusal(409, f"{len(running)} dataflow(s) still running\n{listed(running)}")
        if self._daemon is not None:
            self._daemon.send(Leave())
            async with self._changed:
                try:
                    await asyncio.wait_for(
                        self._changed.wait_for(lambda: self._daemon is None), LEAVE_PATIENCE
                    )
                except TimeoutError:
                    log.warning("the daemon has not ended within %g s", LEAVE_PATIENCE)
        self._exit()

    def close(self) -> None:
        """Close the store; nothing may be asked afterwards."""
        self._verdict.cancel()
        self._store.close()

    def _some_daemon(self) -> DaemonLink:
        if self._daemon is None:
            raise Refusal(503, "no daemon is connected to the coordinator; start one with `dora up`")
        return self._daemon
