"""What happens around the messages while they are recorded: logs, the order of events, nodes that fail.

A thread of its own looks at it, because it may have to wait: for the daemon's answer, or for a disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from dora._paths import SOCKET_NAME
from dora.daemon.client import DaemonClient
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import DAEMON_NAME
from dora.daemon.logs.reader import LogReader
from dora.errors import DoraError
from dora.observe.tap_session import inspect
from dora.recording.mcap.channels import ChannelItem
from dora.recording.mcap.format import LOG_SCHEMA, LOG_TOPIC
from dora.recording.mcap.protobuf import fixed32, integer, text, timestamp
from dora.recording.recorder.chunk_filler import ContextMessage
from dora.recording.replay.event_order import ORDER_ENCODING, ORDER_TOPIC, OrderTail
from dora.wire.daemon_protocol import Inspection, StartEventLogs

# What is logged while a dataflow is recorded, as messages that viewers know.

_LEVELS: Final = {"trace": 1, "debug": 1, "info": 2, "stdout": 2, "warn": 3, "error": 4}


def log_channel() -> ChannelItem:
    return ChannelItem(LOG_TOPIC, LOG_SCHEMA, {})


class LogTail:
    """Follows the log files of a run from a time on."""

    def __init__(self, working_dir: str, dataflow_id: str, since_ns: int) -> None:
        self._since = since_ns
        self._reader = LogReader(f"{working_dir}/out/{dataflow_id}")

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield time and message of each entry that was written since the last time."""
        for entry in self._reader.entries():
            if entry.timestamp_ns >= self._since:
                yield entry.timestamp_ns, pack_log(entry)

    def close(self) -> None:
        self._reader.close()


def pack_log(entry: LogEntry) -> bytes:
    """Return a log entry as ``foxglove.Log``."""
    return (
        timestamp(1, entry.timestamp_ns)
        + integer(2, _LEVELS.get(entry.level, 0))
        + text(3, entry.message)
        + text(4, entry.node_id or DAEMON_NAME)
        + (text(5, entry.file) if entry.file else b"")
        + (fixed32(6, entry.line) if entry.line else b"")
    )


_EVERY: Final = 0.25  # seconds
_AT_ONCE: Final = 10_000  # entries that wait until they are taken


class RecordingContext:
    """Looks around until `close`; the rest is for the thread of the recorder."""

    def __init__(self, inspection: Inspection, logs: LogTail, *, order: bool, ring_buffers: str) -> None:
        """``order``: let the nodes write the order of their events. ``ring_buffers``: the folder of
        the ring buffers for their small messages, "" if there are none. Raises `ConnectError`.
        """
        self.inspection = inspection  # the newest
        self.failed: set[str] = set()  # nodes, since the beginning
        self._run = DaemonClient(f"{inspection.run_dir}/{SOCKET_NAME}")
        self._logs = logs
        self._order = OrderTail() if order else None
        self._failures = _failures(inspection)
        self._items: deque[ContextMessage] = deque()
        self._closing = threading.Event()
        directory = self._order.directory if self._order is not None else ""
        if directory or ring_buffers:
            self._run.ask(StartEventLogs(directory, ring_buffers))
        self._thread = threading.Thread(target=self._work, name="dora-recording-around", daemon=True)
        self._thread.start()

    def take(self) -> Iterator[ContextMessage]:
        """Yield what there is to record."""
        items = self._items
        while items:
            yield items.popleft()

    def close(self) -> None:
        """Look for the last time; `take` yields what was found."""
        self._closing.set()
        self._thread.join()
        self._run.close()
        self._read()
        self._logs.close()
        if self._order is not None:
            self._order.close()

    def _work(self) -> None:
        while not self._closing.wait(_EVERY):
            if len(self._items) <= _AT_ONCE:  # else what comes now is read later
                self._read()
            try:
                self._note(inspect(self._run))
            except DoraError:
                return  # the dataflow has ended

    def _note(self, inspection: Inspection) -> None:
        failures = _failures(inspection)
        self.failed |= {
            node_id for node_id, count in failures.items() if count > self._failures.get(node_id, 0)
        }
        self._failures = failures
        self.inspection = inspection

    def _read(self) -> None:
        item = log_channel()
        for time_ns, data in self._logs.read():
            self._items.append((item, time_ns, data))
        if self._order is not None:
            for node_id, data in self._order.read():
                channel = ChannelItem(ORDER_TOPIC + node_id, "", {}, ORDER_ENCODING)
                self._items.append((channel, time.time_ns(), data))


def _failures(inspection: Inspection) -> dict[str, int]:
    """Return how often each node has failed."""
    return {node.id: node.restarts + (node.status == "failed") for node in inspection.nodes}
