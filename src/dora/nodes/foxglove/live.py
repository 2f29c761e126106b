"""Show a running dataflow: its messages, logs and parameters, and what clients want of it.

A topic is tapped until its first message has shown its type, and then while somebody looks at it. The nodes
know nothing of it, and nobody waits for a client: a slow one misses messages.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable
from typing import Any, Final

from foxglove.messages import Log

from dora.daemon.client import DaemonClient
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.nodes.foxglove.channels import ChannelMap
from dora.nodes.foxglove.drawing import log_record
from dora.nodes.foxglove.published import array_of
from dora.nodes.foxglove.server import FoxgloveServer, Published, SetParameters
from dora.observe.snapshot import RunSource
from dora.observe.tap_session import PERIOD
from dora.observe.topics import Topic, find_tappable
from dora.wire.daemon_protocol import GetParameters, Parameters, Publish, SetParameter
from dora.wire.encode import encode
from dora.wire.message import pack_head

LOGS: Final = "/logs"
_TURN: Final = 0.1  # seconds between two looks at the requests of clients
_EVERY: Final = 1.0  # seconds between two looks at nodes, parameters and logs
_LOG_BYTES: Final = 64 << 10  # of each log file, of the time before somebody looks

log: Final = logging.getLogger("dora.nodes.foxglove")


class LiveView:
    """Shows one dataflow of this machine, in the thread that calls `run`."""

    def __init__(
        self, run: DaemonClient, address: str, log_directory: str, *, control: bool = False
    ) -> None:
        """Listen; raises `ConnectError` if the dataflow has just ended, `DoraError`. Owns ``run``.

        ``log_directory`` has the logs of the dataflow. ``control``: clients may publish and set parameters.
        """
        self._woken = False
        self._source = RunSource(run)
        try:
            self.server = FoxgloveServer(self._source.name, address, control=control, wake=self._wake)
        except BaseException:
            self._source.close()
            raise
        self._channels = ChannelMap(self.server.context)
        self._wanted: set[str] = set()
        self._channels.open(LOGS, Log)
        self._log_directory = log_directory
        self._logs: LogReader | None = None  # while somebody looks at them
        self._trouble = ""
        self._show_parameters()  # a client may ask once, at its start

    def run(self, over: Callable[[], bool] = lambda: False) -> None:
        """Show the dataflow until it ends, or ``over`` returns True."""
        due = 0.0
        try:
            while not over():
                if (now := time.monotonic()) >= due:
                    due = now + _EVERY
                    self._source.ask()
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
        self._channels.close()
        self.server.close()
        self._source.close()
        if self._logs is not None:
            self._logs.close()

    def _wake(self) -> None:
        self._woken = True

    def _needs(self, topic: Topic) -> bool:
        return topic.name not in self._channels or topic.name in self._wanted

    def _choose_taps(self) -> None:
        """Tap the topics that somebody looks at, and those whose type is unknown."""
        self._wanted = self.server.looked_at
        tapped = {topic.name for topic in self._source.tapped_topics}
        if tapped == self._tappable():
            return
        try:
            self._source.tap(self._needs, latency=False)
        except ConnectError:
            raise
        except DoraError as error:
            self._warn(str(error))

    def _tappable(self) -> set[str]:
        return {topic.name for topic in self._source.topics_here() if self._needs(topic)}

    def _poll(self) -> None:
        deadline = time.monotonic() + _TURN
        self._woken = False
        if not self._source.tapped_topics:
            run = self._source.run.fileno()
            if run in select.select([run], (), (), _TURN)[0]:
                raise ConnectError("the dataflow has ended")
            return
        self._source.poll(lambda: self._woken or time.monotonic() >= deadline, PERIOD, self._channels.show)

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
        values: dict[str, Any] = {}
        for node in self._source.inspection.nodes:
            if node.pid is None:
                continue
            try:
                answer = self._source.run.ask(GetParameters(node.id))
            except ConnectError:
                raise
            except DoraError:
                continue  # it is on another machine
            assert isinstance(answer, Parameters)
            values.update({f"{node.id}/{key}": value for key, value in answer.values.items()})
        self.server.set_parameters(values)

    def _handle(self, request: Published | SetParameters) -> None:
        try:
            match request:
                case Published():
                    self._publish(request)
                case SetParameters(values):
                    for name, value in values.items():
                        node, _, key = name.partition("/")
                        self._source.run.ask(SetParameter(node, key, value))
                    self._show_parameters()
        except ConnectError:
            raise
        except DoraError as error:
            self._warn(str(error))

    def _publish(self, request: Published) -> None:
        """Make a node send a message that a client publishes, as `dora topic pub` does."""
        (found,) = find_tappable(self._source.inspection, [request.topic.removeprefix("/")])
        payload = encode(array_of(request))
        head = pack_head(payload.encoding, payload.schema, b"", payload.size, 0, 0)
        self._source.run.ask(Publish(found.node_id, found.output.id, head + payload.to_bytes()))

    def _warn(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            log.warning(text)
            self.server.warn(text)
