"""The coordinator: it keeps the records of dataflows, and starts and stops them on the daemons.

All that has to survive is in the store; connections are in memory only. So a killed coordinator loses
nothing: daemons connect again by themselves and report what they run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dora._version import __version__
from dora.cluster.coordinator.changes import Changes
from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.coordinator.fleet import Fleet
from dora.cluster.coordinator.log_store import LogStore, log_store_directory
from dora.cluster.coordinator.metrics import (
    USAGE_FRESH,
    Collector,
    RequestCounter,
    page,
    usage_totals,
)
from dora.cluster.coordinator.placement import check_files, place
from dora.cluster.coordinator.policy import (
    check_name,
    dataflow_of,
    file_of,
    find,
    first_view,
    free_name,
    listed,
)
from dora.cluster.coordinator.requests import Requests
from dora.cluster.coordinator.store import Store
from dora.cluster.http.relay import Relay, RelayedSession
from dora.cluster.http_api import DataflowView, DownView, SystemStatus
from dora.cluster.protocol import (
    ACTIVE,
    DEFAULT_MACHINE,
    AckLogs,
    Answered,
    Collected,
    Heartbeat,
    Hello,
    Limits,
    LogBatch,
    ObserverRefused,
    OpenObserver,
    ParametersSet,
    RunDescription,
    RunReport,
    RunSpec,
    Shutdown,
    TemplateView,
    ToCoordinator,
)
from dora.cluster.refusal import Refusal, check_request
from dora.daemon.logs.entry import LogEntry
from dora.dataflow.model import LogOptions
from dora.dataflow.problems import did_you_mean
from dora.wire.correlation import uuid7
from dora.wire.daemon_protocol import DataflowRequest, LookRequest, NodeRequest
from dora.wire.metrics import DataflowMetrics
from dora.wire.operations import TopologyOperation

# Seconds for daemons to end. By default nodes get 10 s until SIGTERM, and 5 s more until SIGKILL. A later
# daemon is named in the answer, and ends by itself.
SHUTDOWN_TIMEOUT = 16.0

log = logging.getLogger("dora.coordinator")


class Coordinator:
    """Serves daemons and commands, in one event loop. ``exit`` is called once, to end the coordinator.

    ``interface`` is the address that it listens on.
    """

    def __init__(
        self, store: Store, exit: Callable[[], None], limits: Limits | None = None, interface: str = ""
    ) -> None:
        self._store = store
        self._exit = exit
        self._interface = interface
        self.fleet = Fleet(store, self._on_change, limits)
        self._log_store = LogStore(self._log_options)
        self._last_batches: dict[str, tuple[str, int]] = {}  # machine → daemon and number of the batch
        store.on_remove = self._on_remove
        # Not an event: several requests wait for it at once, each with a condition of its own.
        self._changed = asyncio.Condition()
        self._collector = Collector()
        self._measured_at = -USAGE_FRESH
        self._measuring: asyncio.Task[dict[str, Collected]] | None = None
        self.counter = RequestCounter()
        self.requests = Requests(store, self.fleet)
        self.relay = Relay()
        self._tasks: set[asyncio.Task[None]] = set()
        self._restarts: dict[str, object] = {}  # dataflow → the restart that waits for its end
        self._is_ending = False
        self.changes = Changes(store, self.fleet, self.requests, self._on_commit, self._changed)

    # ----------------------------------------------------------------------- daemons

    def handle(self, connection: DaemonConnection, message: ToCoordinator) -> None:
        """Process a message of a daemon."""
        match message:
            case RunReport():
                self.fleet.record(connection, message)
            case RunDescription(run=report, spec=spec):
                try:
                    self._adopt(connection, report, spec)
                except Refusal as refusal:
                    log.error("no record of dataflow %s: %s", report.dataflow_id, refusal)
                self.fleet.record(connection, report)
            case Collected():
                self._collector.record(connection.machine, message)
            case LogBatch():
                self._receive_logs(connection, message)
            case ParametersSet():
                try:
                    self.fleet.acknowledge(self._store.set_parameters(message))
                except Refusal as refusal:
                    log.error("dataflow %s, node `%s`: %s", message.dataflow_id, message.node, refusal)
            case Answered():
                self.requests.on_answer(message)
            case ObserverRefused(ticket=ticket, reason=reason):
                self.relay.refuse(ticket, reason)
            case Heartbeat():
                self.fleet.answer(connection, message)
            case Hello():
                log.warning("the daemon introduced itself twice")

    def _receive_logs(self, connection: DaemonConnection, batch: LogBatch) -> None:
        """Write log entries, except those that came over an earlier connection already."""
        daemon_id, number = self._last_batches.get(connection.machine, ("", 0))
        if daemon_id != connection.daemon_id or not batch.number or batch.number > number:
            self._last_batches[connection.machine] = connection.daemon_id, batch.number
            self._store_logs(batch.dataflow_id, batch.entries)
        if batch.number:
            connection.send(AckLogs(batch.number))

    def disconnect(self, connection: DaemonConnection, silent: bool) -> None:
        """Process the end of a daemon's connection, or its silence."""
        self.fleet.disconnect(connection, silent)
        if connection.machine not in self.fleet.connections:
            how = "does not answer" if silent else "has lost its daemon, or the connection to it"
            self.relay.lose(connection.machine, f"machine `{connection.machine}` {how}")

    def _store_logs(self, dataflow_id: str, entries: list[LogEntry]) -> None:
        view = self._store.find(dataflow_id)
        if view is None:
            return
        try:
            self._log_store.write(dataflow_id, view.log_directory, entries)
        except Refusal as refusal:
            log.error("dataflow %s: log entries are lost: %s", dataflow_id, refusal)
        if view.status not in ACTIVE:
            self._log_store.close(dataflow_id)

    def _on_commit(self, dataflow_id: str) -> None:
        """Follow a changed record: the log options may have changed too."""
        self._log_store.close(dataflow_id)
        self._notify()

    def _adopt(self, connection: DaemonConnection, report: RunReport, spec: RunSpec) -> None:
        """Make a record of a dataflow that runs already, or bring it up to date; raises `Refusal`."""
        if self._store.find(report.dataflow_id) is not None:
            self.changes.adopt(report.dataflow_id, spec)
            return
        machines = sorted({connection.machine, *spec.machines.values()})
        self._add(report.dataflow_id, spec, dict.fromkeys(machines, ""))

    def _log_options(self, dataflow_id: str) -> dict[str, LogOptions]:
        return {node.id: node.log for node in dataflow_of(self._store.spec(dataflow_id)).nodes}

    def _on_change(self) -> None:
        self._log_store.close_all_but(self._store.active())
        self._notify()

    def _on_remove(self, view: DataflowView) -> None:
        self._log_store.remove(view)
        self.fleet.drop(view)

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:  # in a task: callers do not wait, and only a holder may notify
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------------- requests

    def status(self) -> SystemStatus:
        daemons = [connection.daemon_id for connection in self.fleet.connections.values()]
        return SystemStatus(
            __version__,
            os.getpid(),
            daemons,
            len(self._store.active()),
            self.fleet.views(),
            self._interface,
        )

    async def dataflows(self) -> list[DataflowView]:
        """Return all dataflows, the oldest first, with processor and memory use of the running ones."""
        views = self._store.views()
        busy = {machine for daemons in self._store.active().values() for machine in daemons}
        connections = {
            machine: found for machine, found in self.fleet.connections.items() if machine in busy
        }
        await self._measure(connections)
        newest = self._collector.newest
        totals = usage_totals(
            run
            for machine in connections
            if (answer := newest.get(("usage", machine))) is not None
            for run in answer.usage
        )
        return [
            msgspec.structs.replace(view, cpu=totals[view.uuid][0], memory=totals[view.uuid][1])
            if view.status in ACTIVE and view.uuid in totals
            else view
            for view in views
        ]

    async def _measure(self, connections: Mapping[str, DaemonConnection]) -> None:
        """Ask these machines for their usage, unless the last numbers are fresh or about to come."""
        if (now := time.monotonic()) - self._measured_at >= USAGE_FRESH:
            self._measured_at = now
            self._measuring = asyncio.create_task(self._collector.collect("usage", connections))
        if self._measuring is not None:
            await asyncio.shield(self._measuring)  # several commands share it, and one of them may leave

    async def collect_metrics(self) -> dict[str, list[DataflowMetrics]]:
        """Return the metrics of all running dataflows, by machine, of those daemons that answer."""
        found = await self._collector.collect("metrics", self.fleet.connections)
        return {machine: answer.metrics for machine, answer in found.items()}

    async def templates(self) -> list[TemplateView]:
        """Return the template processes of the machines that answer, in the order of the machines."""
        found = await self._collector.collect("templates", self.fleet.connections)
        return [
            msgspec.structs.replace(template, machine=machine)
            for machine, answer in sorted(found.items())
            for template in answer.templates
        ]

    async def metrics(self) -> bytes:
        """Return the page for Prometheus."""
        machines = [connection.machine for connection in self.fleet.connections.values()]
        found = await self.collect_metrics()
        return page(
            self._store.views(),
            {machine: machine in found for machine in machines},
            [metrics for found_there in found.values() for metrics in found_there],
            self.counter,
        )

    def dataflow(self, wanted: str) -> DataflowView:
        """Return one dataflow with its result; raises `Refusal`."""
        return self._store.view(find(self._store.views(), wanted).uuid)

    def spec(self, wanted: str) -> RunSpec:
        """Return the spec of a dataflow; raises `Refusal`."""
        return self._store.spec(self.dataflow(wanted).uuid)

    def start(self, spec: RunSpec) -> DataflowView:
        """Record a dataflow and start it; raises `Refusal`. Without a name it gets its file's."""
        spec, daemons = self._plan(spec, self._store.views())
        view = self._add(uuid7(), spec, daemons)
        self.fleet.start(view.uuid, spec)
        log.info("dataflow %s: %s is to start on %s", view.uuid, view.name, ", ".join(daemons))
        log.debug("dataflow %s: node -> machine: %s", view.uuid, spec.machines)
        return view

    def _plan(self, spec: RunSpec, views: list[DataflowView]) -> tuple[RunSpec, dict[str, str]]:
        """Return a spec with name and machines for a start now, and the daemon of each machine.

        ``views`` are the other dataflows. Raises `Refusal` if it cannot be started.
        """
        if self._is_ending:
            raise Refusal(503, "the coordinator is ending")
        self._check_daemons()
        if spec.name:
            check_name(views, spec.name)
        stem = os.path.splitext(os.path.basename(file_of(spec) or "dataflow"))[0]
        dataflow = dataflow_of(spec)
        placed = place(dataflow, self.fleet.views())
        check_files(dataflow.nodes)
        name = spec.name or free_name(views, stem)
        spec = msgspec.structs.replace(spec, name=name, machines=placed, revision=0, generations={})
        machines = sorted(set(placed.values())) or [next(iter(sorted(self.fleet.connections)))]
        connections = self.fleet.connections
        if len({connections[machine].tls for machine in machines}) > 1:
            bare = [machine for machine in machines if not connections[machine].tls]
            if bare:
                raise Refusal(409, f"some machines use TLS, and others do not: {', '.join(bare)}")
            raise Refusal(409, f"{', '.join(machines)} have certificates of different authorities")
        return spec, {machine: connections[machine].daemon_id for machine in machines}

    def _add(self, dataflow_id: str, spec: RunSpec, daemons: dict[str, str]) -> DataflowView:
        """Make the record of a dataflow; raises `Refusal`."""
        view = first_view(dataflow_id, spec, time.time())
        directory = view.log_directory
        if self.fleet.collects_logs(daemons):
            directory = log_store_directory(dataflow_id)
        view = msgspec.structs.replace(view, machines=sorted(daemons), log_directory=directory)
        self._store.add(dataflow_id, spec, view, daemons)
        self.fleet.add(dataflow_id, daemons, spec)
        return view

    def stop(self, wanted: str, grace: float | None, force: bool) -> DataflowView:
        """Stop a running dataflow; returns at once. Raises `Refusal`, also if no machine is connected.

        A disconnected machine stops its partition when it is back; ``force`` does not wait for that. A
        restart that waits for the end of the dataflow does not start it any more.
        """
        if not force:
            self._check_daemons()
        view = find(self._store.views(), wanted)
        self._restarts.pop(view.uuid, None)
        if view.status in ACTIVE and (missing := self.fleet.stop(view.uuid, grace, force)):
            names = ", ".join(f"`{machine}`" for machine in missing)
            raise Refusal(
                503,
                f"`{view.name}` runs on machine {names}, which is not connected now; "
                "to give it up, use `dora stop --force`",
            )
        return view

    async def ask(self, wanted: str, request: DataflowRequest, machine: str = "") -> Any:
        """Return the answer to a request to a running dataflow, once it is carried out. Raises `Refusal`.

        It goes to the machine of its node; without one to ``machine``, or to the first.
        """
        check_request(request)
        looks = isinstance(request, LookRequest)
        if not looks:
            self._check_daemons()
        view, machine = self._active_on(wanted, machine, started=looks)
        if isinstance(request, TopologyOperation):
            return await self.changes.apply(view.uuid, request)
        if isinstance(request, NodeRequest):
            machine = self._store.spec(view.uuid).machines.get(request.node, machine)
        return await self.requests.ask(view.uuid, machine, request)

    def observe(self, wanted: str, machine: str) -> RelayedSession:
        """Open a session with an observer on a machine ("": the first) of a dataflow; raises `Refusal`."""
        view, machine = self._active_on(wanted, machine, started=True)
        connection = self.requests.connection(machine, changes=False)
        return self.relay.open(machine, lambda ticket: connection.send(OpenObserver(view.uuid, ticket)))

    def _active_on(self, wanted: str, machine: str, *, started: bool) -> tuple[DataflowView, str]:
        """Return a running dataflow, and one of its machines ("": the first); raises `Refusal`.

        ``started``: it has to have started.
        """
        view = find(self._store.views(), wanted, only_active=True)
        if started and view.status == "Starting":
            raise Refusal(425, f"`{view.name}` is still starting")
        machine = machine or next(iter(view.machines), DEFAULT_MACHINE)
        if view.machines and machine not in view.machines:
            hint = did_you_mean(machine, view.machines) or f"it runs on {', '.join(view.machines)}"
            raise Refusal(404, f"`{view.name}` has no machine `{machine[:60]}`; {hint}")
        return view, machine

    async def wait(self, wanted: str, *, started: bool, timeout: float) -> DataflowView:
        """Wait until a dataflow has started or ended (``started``), or ended; at most ``timeout`` seconds.

        Raises `Refusal`, also when its record is removed meanwhile.
        """
        dataflow_id = find(self._store.views(), wanted).uuid
        done = ("Running", "Finished", "Failed") if started else ("Finished", "Failed")

        def is_done() -> bool:
            try:
                return self._store.view(dataflow_id).status in done
            except KeyError:
                return True

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(is_done), timeout)
            except TimeoutError:
                pass  # the answer is the present state
        try:
            return self._store.view(dataflow_id)
        except KeyError:
            raise Refusal(404, f"the record of {dataflow_id} was removed") from None

    async def restart(self, wanted: str, grace: float | None, force: bool) -> tuple[str, DataflowView]:
        """Stop a dataflow if it runs, wait for its end, start it again; return the old id and the new.

        Raises `Refusal`. Nothing is stopped if the dataflow could not be started now.
        """
        views = self._store.views()
        view = find(views, wanted)
        dataflow_id = view.uuid
        others = [other for other in views if other.uuid != dataflow_id]
        try:
            self._plan(self._store.spec(dataflow_id), others)
        except Refusal as refusal:
            if view.status not in ACTIVE:
                raise
            raise Refusal(refusal.status, f"{refusal}\n`{view.name}` was not stopped") from None
        view = self.stop(dataflow_id, grace, force)
        ticket = self._restarts[dataflow_id] = object()
        try:
            while view.status in ACTIVE:
                view = await self.wait(dataflow_id, started=False, timeout=60.0)
            if self._restarts.get(dataflow_id) is not ticket:
                raise Refusal(409, f"another command has stopped or restarted `{view.name}` meanwhile")
            try:
                return dataflow_id, self.start(self._store.spec(dataflow_id))
            except Refusal as refusal:  # machines have changed meanwhile
                raise Refusal(refusal.status, f"{refusal}\n`{view.name}` has ended") from None
        finally:
            if self._restarts.get(dataflow_id) is ticket:
                del self._restarts[dataflow_id]

    def clean(self) -> list[DataflowView]:
        """Remove the records of ended dataflows, and return them.

        Collected logs, and copies of folders on the machines, are removed with them.
        """
        removed = self._store.remove_ended()
        self._notify()
        return removed

    async def down(self, force: bool) -> DownView:
        """End the daemons, then the coordinator. Raises `Refusal` if dataflows run, unless ``force``.

        Returns the machines whose daemon may still run.
        """
        running = [view for view in self._store.views() if view.status in ACTIVE]
        if running and not force:
            raise Refusal(409, f"{len(running)} dataflow(s) still running\n{listed(running)}")
        self._is_ending = True  # first: no dataflow starts on a daemon that is about to end
        away = self._out_of_reach()
        if self.fleet.connections:
            for connection in self.fleet.connections.values():
                connection.send(Shutdown())
            async with self._changed:
                try:
                    await asyncio.wait_for(
                        self._changed.wait_for(lambda: not self.fleet.connections), SHUTDOWN_TIMEOUT
                    )
                except TimeoutError:
                    left = ", ".join(f"`{machine}`" for machine in self.fleet.connections)
                    log.warning("the daemon of %s has not ended within %g s", left, SHUTDOWN_TIMEOUT)
        self._exit()
        away |= self._out_of_reach()  # some may have been cut off meanwhile
        late = self.fleet.connections.keys()
        return DownView(sorted(away - late), sorted(late))

    def _out_of_reach(self) -> set[str]:
        """Return the machines that are not connected, but may run nodes."""
        runs = filter(None, map(self.fleet.run, self._store.active()))
        active = {machine for run in runs for machine in run.daemons if run.is_active_on(machine)}
        return active - self.fleet.connections.keys()

    def close(self) -> None:
        """Close the store; the coordinator is not usable afterwards."""
        self.fleet.close()
        self._log_store.close_all_but()
        self._store.close()

    def _check_daemons(self) -> None:
        if not self.fleet.connections:
            raise Refusal(503, "no daemon is connected to the coordinator; start one with `dora up`")
