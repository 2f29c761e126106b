"""A running dataflow on one or several machines, as commands see it.

Nodes of this machine are reached directly, others through a coordinator. The dataflow's
daemon names it, or the environment.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dora.cli.coordinator import choose_dataflow, coordinator_client
from dora.cli.select import NoRunningDataflow, connected_runs, distinct, find_run, only, view_of
from dora.cluster.client import RequestRefused, Unreachable
from dora.daemon.client import DaemonClient, name_of
from dora.daemon.progress import merged
from dora.errors import ConnectError, DoraError
from dora.observe.tap_session import inspect
from dora.transport.tokens import TokenError
from dora.wire.black_box import SavedBlackBox
from dora.wire.daemon_protocol import (
    SAVE_TIMEOUT,
    GetProgress,
    Inspection,
    Interrupt,
    NodeRequest,
    ReadSavedFile,
    RunProgress,
    SaveBlackBox,
)
from dora.wire.daemon_protocol import Inspect as AskInspection
from dora.wire.operations import OperationResult, RestartOperation, StopOperation

if TYPE_CHECKING:
    from dora.cluster.client import Client
    from dora.cluster.http_api import DataflowView
    from dora.cluster.remote_observer import ObserverConnection
    from dora.observe.observer import Observation
    from dora.observe.queries import TopicQuery
    from dora.observe.topics import Topic


class RunningDataflow:
    """One dataflow; ``with`` closes it. ``run`` is its daemon on this machine (None: no nodes here)."""

    def __init__(
        self, run: DaemonClient | None, view: DataflowView | None = None, client: Client | None = None
    ) -> None:
        """``view`` describes a dataflow without nodes on this machine.

        ``client`` None: of the coordinator that the dataflow was started on, or the environment's.
        """
        self.run = run
        self._sessions: dict[str, ObserverConnection] = {}
        self._client = client
        if run is not None:
            self.dataflow_id, self.name = run.description.dataflow_id, name_of(run.description)
            self.log_directory = run.description.log_directory
            self.inspection: Inspection = inspect(run)
            self._machine = self.inspection.machine
        else:
            assert view is not None
            self.dataflow_id, self.name, self.log_directory = view.uuid, view.name, view.log_directory
            self._machine = view.machines[0] if view.machines else ""
            self.inspection = self._coordinator().ask(view.uuid, AskInspection(), self._machine)

    def machine_of(self, node_id: str) -> str:
        """Return the machine of a node; of an unknown node, a machine that can refuse it."""
        found = (node.machine for node in self.inspection.nodes if node.id == node_id)
        return next(found, "") or self._machine

    def machines(self) -> list[str]:
        """Return all machines with nodes of the dataflow."""
        return sorted({self.machine_of(node.id) for node in self.inspection.nodes})

    def other_machines(self) -> list[str]:
        """Return the machines with nodes of the dataflow, without this one."""
        return [machine for machine in self.machines() if self.run is None or machine != self._machine]

    def are_local(self, node_ids: Iterable[str]) -> bool:
        """Return whether all these nodes are on this machine."""
        away = set(self.other_machines())
        return not any(self.machine_of(node_id) in away for node_id in node_ids)

    def ask(self, request: NodeRequest) -> Any:
        """Return the answer to a request, once it is carried out on the machine of its node.

        This machine is asked directly, which needs no coordinator. Raises `DoraError`.
        """
        if self.run is None or not self.are_local([request.node]):
            return self._coordinator().ask(self.dataflow_id, request)
        return self.run.ask(request)

    def restart_node(self, node_id: str, grace: float | None = None) -> None:
        """Restart the process of a node; raises `DoraError`."""
        self.ask(RestartOperation(node_id, grace))

    def stop_node(self, node_id: str, grace: float | None = None) -> bool:
        """Stop a node and wait until it has ended; return False if it had ended already."""
        stopped: OperationResult = self.ask(StopOperation(node_id, grace))
        return stopped.was_running

    def stop(self) -> None:
        """Begin to stop the dataflow, and return at once; raises `DoraError`."""
        if self.run is not None and not self.inspection.coordinator:
            self.run.ask(Interrupt())
            return
        self._coordinator().stop(self.dataflow_id, None, False)

    def observe(
        self,
        topics: Sequence[Topic],
        make_query: Callable[[list[str]], TopicQuery],
        duration: float | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Observation:
        """Run a query on topics, in this process or on their machines; ``make_query`` gets their names."""
        if self.run is not None and self.are_local(topic.node_id for topic in topics):
            from dora.observe.observer import Observer

            query = make_query([topic.name for topic in topics])
            return Observer(self.run, query, duration=duration, enough=enough)
        from dora.cluster.remote_observer import RemoteObserver

        names: dict[str, list[str]] = {}
        for topic in topics:
            names.setdefault(self.machine_of(topic.node_id), []).append(topic.name)
        sessions = self.sessions(topic.node_id for topic in topics)
        return RemoteObserver(sessions, lambda machine: make_query(names[machine]), duration, enough)

    def progress(self) -> RunProgress:
        """Return how far the dataflow is, on all machines; raises `DoraError`."""
        here: list[Any] = [] if self.run is None else [self.run.ask(GetProgress())]
        there = [
            self._coordinator().ask(self.dataflow_id, GetProgress(), machine)
            for machine in self.other_machines()
        ]
        return merged([*here, *there])

    def save(self, path: str = "", note: str = "") -> dict[str, SavedBlackBox]:
        """Save the black box of each machine; return the files by machine, "" for a dataflow on one.

        ``path``: absolute, of the file; "": a name of the time. Files of several machines are joined to
        ``path``, which is then the only one. Raises `DoraError`.
        """
        others = self.other_machines()
        if path and (others or self.run is None):
            return {"": self._save_joined(path, note)}
        found: dict[str, SavedBlackBox] = {}
        if self.run is not None:
            self.run.set_patience(SAVE_TIMEOUT)
            saved = self.run.ask(SaveBlackBox(path, note))
            assert isinstance(saved, SavedBlackBox)
            found[self._machine if others else ""] = saved
        for machine in others:
            found[machine] = self._coordinator().ask(self.dataflow_id, SaveBlackBox(note=note), machine)
        return found

    def _save_joined(self, path: str, note: str) -> SavedBlackBox:
        """Save the black boxes of all machines, fetch the files, and make one of them."""
        from dora.recording.join import join

        saved = self.save(note=note)
        if problem := next((file.problem for file in saved.values() if file.problem), ""):
            return SavedBlackBox(problem=problem)
        with tempfile.TemporaryDirectory(prefix="dora-save-") as folder:
            parts = {}
            for number, (machine, file) in enumerate(saved.items()):
                if self.run is not None and machine in ("", self._machine):
                    parts[machine] = file.path
                else:
                    parts[machine] = f"{folder}/{number}.mcap"
                    self._fetch(machine, file.path, parts[machine])
            end, damage = join(parts, path)
        messages = sum(topic.messages for topic in end.topics.values())
        return SavedBlackBox(path, messages, end.lost, os.path.getsize(path), damage)

    def _fetch(self, machine: str, path: str, target: str) -> None:
        """Copy a saved file of a machine to this one."""
        with open(target, "wb") as file:
            while (
                data := self._coordinator()
                .ask(self.dataflow_id, ReadSavedFile(path, file.tell()), machine)
                .data
            ):
                file.write(data)

    def _coordinator(self) -> Client:
        if self._client is None:
            self._client = coordinator_client(self.inspection.coordinator if self.run is not None else "")
        return self._client

    def refresh(self) -> None:
        """Ask for the nodes again; raises `ConnectError` once the dataflow has ended, `DoraError`."""
        if self.run is not None:
            self.inspection = inspect(self.run)
            return

        try:
            self.inspection = self._coordinator().ask(self.dataflow_id, AskInspection(), self._machine)
        except RequestRefused as refusal:
            if refusal.status not in (404, 409):
                raise
            raise ConnectError("the dataflow has ended") from None

    def connect(self, machine: str) -> ObserverConnection:
        """Return a new connection to the observer on a machine; raises `DoraError`."""
        from dora.cluster.remote_observer import ObserverConnection

        return ObserverConnection(self._coordinator(), self.dataflow_id, machine)

    def session(self, machine: str) -> ObserverConnection:
        """Return the connection to the observer on a machine that `close` closes; raises `DoraError`."""
        if machine not in self._sessions:
            self._sessions[machine] = self.connect(machine)
        return self._sessions[machine]

    def sessions(self, node_ids: Iterable[str]) -> dict[str, ObserverConnection]:
        """Return the connections for the machines of these nodes."""
        return {
            machine: self.session(machine)
            for machine in dict.fromkeys(self.machine_of(node_id) for node_id in node_ids)
        }

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        if self.run is not None:
            self.run.close()

    def __enter__(self) -> RunningDataflow:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_running(wanted: str | None, node_id: str = "") -> RunningDataflow:
    """Return the running dataflow that is meant: on this machine, or known to the coordinator.

    ``node_id``: the node that a command names, which tells several dataflows apart. If that leaves several,
    asks on a terminal and raises `DoraError` otherwise; raises it if none is running.
    """
    try:
        run = find_run(wanted, node_id)
    except NoRunningDataflow as error:
        view = find_on_coordinator(wanted)
        if view is None:
            raise error from None
        return RunningDataflow(None, view)
    try:
        return RunningDataflow(run)
    except BaseException:
        run.close()
        raise


def find_all_running(wanted: str | None) -> list[RunningDataflow]:
    """Return all running dataflows, or the one that is meant; raises `DoraError` if that does not run."""
    if wanted is not None:
        return [find_running(wanted)]
    found = []
    runs = connected_runs()
    chosen = distinct(runs)
    only(runs, chosen.__contains__)
    for run in chosen:
        try:
            found.append(RunningDataflow(run))
        except DoraError:
            run.close()  # it is just ending
    here = {running.dataflow_id for running in found}
    for view in _active_on_coordinator():
        if view.uuid not in here and view.status == "Running":
            try:
                found.append(RunningDataflow(None, view))
            except DoraError:
                continue  # it is just ending, or its machine is disconnected
    return found


def find_on_coordinator(wanted: str | None) -> DataflowView | None:
    """Return the dataflow that is meant, if the coordinator of the environment runs it."""
    from dora.cluster.coordinator.policy import find, find_by_file_or_node
    from dora.cluster.refusal import Refusal

    views = _active_on_coordinator()
    if wanted is None:
        return choose_dataflow(views, "with -d")
    try:
        return find(views, wanted)
    except Refusal as refusal:
        if refusal.status == 404:
            return find_by_file_or_node(views, os.path.abspath(wanted), wanted)
        raise


def _active_on_coordinator() -> list[DataflowView]:
    try:
        return coordinator_client().active()
    except (Unreachable, RequestRefused, TokenError):
        return []


def running_views(wanted: str | None) -> list[DataflowView]:
    """Return what is known of the running dataflows that are meant; None: all. Asks nothing."""
    views = {view.uuid: view for view in _active_on_coordinator()}
    for run in connected_runs():
        with run:
            views.setdefault(run.description.dataflow_id, view_of(run.description))
    return [view for view in views.values() if wanted is None or _fits(view, wanted)]


def _fits(view: DataflowView, wanted: str) -> bool:
    named = wanted in (view.name, *view.nodes) or view.uuid.startswith(wanted.lower())
    return named or view.file == os.path.abspath(wanted)
