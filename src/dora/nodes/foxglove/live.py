"""Show a running dataflow: its messages, logs and parameters, and what clients want of it.

A topic is tapped until its first message has shown its type, and then while somebody looks at it. The nodes
know nothing of it, and nobody waits for a client: a slow one misses messages. Topics of other machines come
from the observers there.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from foxglove.messages import Log

from dora.cluster.remote_observer import ObserverConnection
from dora.daemon.client import DaemonClient
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.nodes.foxglove.channels import ChannelMap
from dora.nodes.foxglove.drawing import log_record
from dora.nodes.foxglove.elsewhere import RemoteMessages
from dora.nodes.foxglove.server import FoxgloveServer, Published, SetParameters, array_of
from dora.observe.snapshot import RunSource
from dora.observe.tap_session import PERIOD
from dora.observe.topics import Topic, find_tappable, topics_of
from dora.wire.daemon_protocol import (
    GetParameters,
    Inspection,
    NodeRequest,
    Parameters,
    Publish,
    SetParameter,
)
from dora.wire.encode import encode
from dora.wire.message import pack_head

LOGS: Final = "/logs"
_TURN: Final = 0.1  # seconds between two looks at the requests of clients
_PAUSE: Final = 0.02  # seconds between two looks at what has come from other machines: nothing wakes for it
_EVERY: Final = 1.0  # seconds between two looks at nodes, parameters and logs
_LOG_BYTES: Final = 64 << 10  # of each log file, of the time before somebody looks

log: Final = logging.getLogger("dora.nodes.foxglove")


class ShownDataflow(Protocol):
    """A running dataflow on one or several machines."""

    run: DaemonClient | None
    """Its daemon on this machine; None: it has no nodes here."""
    name: str
    inspection: Inspection
    """How the nodes of all machines are, as of the last time that somebody asked."""

    def refresh(self) -> None:
        """Ask for the nodes again; raises `ConnectError` once the dataflow has ended, `DoraError`."""

    def ask(self, request: NodeRequest) -> Any:
        """Return the answer to a request from the machine of its node; raises `DoraError`."""

    def machine_of(self, node_id: str) -> str:
        """Return the machine of a node."""

    def other_machines(self) -> list[str]:
        """Return the machines with nodes of the dataflow, without this one."""

    def connect(self, machine: str) -> ObserverConnection:
        """Return a new connection to the observer on a machine; raises `DoraError`."""

    def close(self) -> None: ...


class LiveView:
    """Shows one dataflow, in the thread that calls `run`."""

    def __init__(
        self, running: ShownDataflow, address: str, log_directory: str, *, control: bool = False
    ) -> None:
        """Listen; raises `ConnectError` if the dataflow has just ended, `DoraError`. Owns ``running``.

        ``log_directory`` has the logs of the dataflow. ``control``: clients may publish and set parameters.
        """
        self._woken = False  # no lock: threads of the SDK only set it
        self._running = running
        self._source = None if running.run is None else RunSource(running.run)
        try:
            self.server = FoxgloveServer(running.name, address, control=control, wake=self._wake)
        except BaseException:
            self._close_run()
            raise
        self._channels = ChannelMap(self.server.context)
        self._remote = RemoteMessages(running.connect, self._warn)
        self._remote_parameters: Mapping[str, Any] = {}  # no lock: the thread replaces it as a whole
        self._wanted: set[str] = set()
        self._channels.open(LOGS, Log)
        self._log_directory = log_directory
        self._logs: LogReader | None = None  # while somebody looks at them
        self._trouble = ""
        self._closed = threading.Event()
        try:
            self._show_parameters()  # a client may ask once, at its start
        except BaseException:
            self.close()
            raise
        if running.other_machines():
            threading.Thread(
                target=self._ask_other_machines, name="dora-foxglove-parameters", daemon=True
            ).start()

    def run(self, over: Callable[[], bool] = lambda: False) -> None:
        """Show the dataflow until it ends, or ``over`` returns True."""
        due = 0.0
        try:
            while not over():
                if (now := time.monotonic()) >= due:
                    due = now + _EVERY
                    self._ask()
                    self._show_parameters()
                    self._show_logs()
                for request in self.server.take_requests():
                    self._handle(request)
                self._choose_taps()
                self._poll()
        except ConnectError:
            self._show_logs()  # the last lines

    def close(self) -> None:
        """Close the server and all taps."""
        self._closed.set()
        self._channels.close()
        self.server.close()
        self._remote.close()
        self._close_run()
        if self._logs is not None:
            self._logs.close()

    def _close_run(self) -> None:
        if self._source is not None:
            self._source.close()
        self._running.close()

    def _wake(self) -> None:
        self._woken = True

    def _ask(self) -> None:
        """Ask which nodes there are; raises `ConnectError` once the dataflow has ended."""
        if self._source is not None:
            self._source.ask()
            self._running.inspection = self._source.inspection
            return
        if self._remote.ended_on(set(self._running.other_machines())):
            raise ConnectError("the dataflow has ended")
        try:
            self._running.refresh()
        except ConnectError:
            raise
        except DoraError as error:  # the coordinator may come back
            self._warn(str(error))

    def _needs(self, topic: Topic) -> bool:
        return topic.name not in self._channels or topic.name in self._wanted

    def _choose_taps(self) -> None:
        """Tap the topics that somebody looks at, and those whose type is unknown."""
        self._wanted = self.server.looked_at
        self._remote.choose(self._needed_elsewhere())
        if self._source is None:
            return
        tapped = {topic.name for topic in self._source.tapped_topics}
        if tapped == {topic.name for topic in self._source.topics_here() if self._needs(topic)}:
            return
        try:
            self._source.tap(self._needs, latency=False)
        except ConnectError:
            raise
        except DoraError as error:
            self._warn(str(error))

    def _needed_elsewhere(self) -> dict[str, set[str]]:
        """Return the needed topics of other machines, by machine."""
        needed: dict[str, set[str]] = {machine: set() for machine in self._running.other_machines()}
        if needed:
            for topic in topics_of(self._running.inspection):
                machine = self._running.machine_of(topic.node_id)
                if machine in needed and not topic.output.text and self._needs(topic):
                    needed[machine].add(topic.name)
        return needed

    def _poll(self) -> None:
        deadline = time.monotonic() + _TURN
        self._woken = False

        def until() -> bool:
            return self._woken or self._remote.waiting or time.monotonic() >= deadline

        if self._source is not None and self._source.tapped_topics:
            self._source.poll(until, PERIOD, self._channels.show)
        else:
            run = [] if self._source is None else [self._source.run.fileno()]
            pause = _PAUSE if self._running.other_machines() else _TURN
            if run and run[0] in select.select(run, (), (), pause)[0]:
                raise ConnectError("the dataflow has ended")
            if not run and not until():
                time.sleep(pause)
        self._remote.take(self._channels.show)

    def _show_logs(self) -> None:
        """Show what is new in the logs; to somebody who begins to look, also the last lines before."""
        if LOGS not in self.server.looked_at:
            if self._logs is not None:
                self._logs.close()
                self._logs = None
            return
        if self._logs is None:
            self._logs = LogReader(self._log_directory)
            self._logs.begin_near_end(_LOG_BYTES)
        for entry in self._logs.entries():
            record = log_record(
                entry.timestamp_ns,
                entry.level,
                entry.node_id or "dora",
                entry.message,
                entry.file or "",
                entry.line or 0,
            )
            self._channels.send(LOGS, record, entry.timestamp_ns)

    # ------------------------------------------------------------------- parameters and publishing

    def _show_parameters(self) -> None:
        away = set(self._running.other_machines())
        here = [
            node.id
            for node in self._running.inspection.nodes
            if node.pid is not None and self._running.machine_of(node.id) not in away
        ]
        self.server.set_parameters({**self._parameters(here), **self._remote_parameters})

    def _ask_other_machines(self) -> None:
        """Ask for the parameters of nodes elsewhere, in a thread: a machine may answer late."""
        while not self._closed.wait(_EVERY):
            away = set(self._running.other_machines())
            nodes = [node.id for node in self._running.inspection.nodes]
            self._remote_parameters = self._parameters(
                [node for node in nodes if self._running.machine_of(node) in away]
            )

    def _parameters(self, nodes: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for node in nodes:
            try:
                answer = self._running.ask(GetParameters(node))
            except ConnectError:
                raise
            except DoraError:
                continue  # it has none, or its machine does not answer
            assert isinstance(answer, Parameters)
            values.update({f"{node}/{key}": value for key, value in answer.values.items()})
        return values

    def _handle(self, request: Published | SetParameters) -> None:
        try:
            match request:
                case Published():
                    self._publish(request)
                case SetParameters(values):
                    for name, value in values.items():
                        node, _, key = name.partition("/")
                        self._running.ask(SetParameter(node, key, value))
                    self._show_parameters()
        except ConnectError:
            raise
        except DoraError as error:
            self._warn(str(error))

    def _publish(self, request: Published) -> None:
        """Make a node send a message that a client publishes, as `dora topic pub` does."""
        (found,) = find_tappable(self._running.inspection, [request.topic.removeprefix("/")])
        payload = encode(array_of(request))
        head = pack_head(payload.encoding, payload.schema, b"", payload.size, 0, 0)
        self._running.ask(Publish(found.node_id, found.output.id, head + payload.to_bytes()))

    def _warn(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            log.warning(text)
            self.server.warn(text)
