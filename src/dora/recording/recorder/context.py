"""The context of recorded messages: log entries, the order of events, and nodes that fail.

A separate thread reads it, because it may have to wait for the daemon or for a disk.
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
from dora.recording.mcap.channels import ChannelItem, timestamp
from dora.recording.mcap.event_order import ORDER_ENCODING, ORDER_TOPIC, OrderTail
from dora.recording.mcap.format import LOG_SCHEMA, LOG_TOPIC
from dora.recording.mcap.schemas import message_class
from dora.recording.recorder.chunk_filler import ContextMessage
from dora.wire.counters import RESTARTS
from dora.wire.daemon_protocol import Inspection, StartEventLogs

_LEVELS: Final = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "info": "INFO",
    "stdout": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
}


def pack_log(entry: LogEntry) -> bytes:
    """Return a log entry as ``foxglove.Log``."""
    log = message_class(LOG_SCHEMA)(
        timestamp=timestamp(entry.timestamp_ns),
        level=_LEVELS.get(entry.level, "UNKNOWN"),
        message=entry.message,
        name=entry.node_id or DAEMON_NAME,
        file=entry.file,
        line=min(max(entry.line or 0, 0), 0xFFFF_FFFF),
    )
    data: bytes = log.SerializeToString()
    return data


_LOG_CHANNEL: Final = ChannelItem(LOG_TOPIC, LOG_SCHEMA, {})
_EVERY: Final = 0.25  # seconds
_MAX_WAITING: Final = 10_000  # entries


class RecordingContext:
    """Reads the context in a thread until `close`; all methods are for the recorder's thread."""

    def __init__(
        self, inspection: Inspection, log_directory: str, since_ns: int, *, order: bool, ring_buffers: str
    ) -> None:
        """Begin; raises `ConnectError`.

        ``since_ns``: the time of the first log entry to record. ``order``: nodes write the order of their
        events. ``ring_buffers``: the folder of the ring buffers for their small messages, "" if there are
        none.
        """
        self.inspection = inspection  # the newest
        self.failed: set[str] = set()  # nodes, since the start
        self._run = DaemonClient(f"{inspection.run_dir}/{SOCKET_NAME}")
        self._logs = LogReader(log_directory)
        self._since_ns = since_ns
        self._order = OrderTail(inspection.run_dir) if order else None
        self._failures = _failures(inspection)
        self._items: deque[ContextMessage] = deque()
        self._closing = threading.Event()
        directory = self._order.directory if self._order is not None else ""
        if directory or ring_buffers:
            self._run.ask(StartEventLogs(directory, ring_buffers))
        self._thread = threading.Thread(target=self._work, name="dora-recording-context", daemon=True)
        self._thread.start()

    def take(self) -> Iterator[ContextMessage]:
        """Yield the messages of the context since the last call."""
        items = self._items
        while items:
            yield items.popleft()

    def close(self) -> None:
        """Read for the last time; `take` yields the rest."""
        self._closing.set()
        self._thread.join()
        self._run.close()
        self._read()
        self._logs.close()
        if self._order is not None:
            self._order.close()

    def _work(self) -> None:
        while not self._closing.wait(_EVERY):
            if len(self._items) <= _MAX_WAITING:  # else the rest is read later
                self._read()
            try:
                self._update(inspect(self._run))
            except DoraError:
                return  # the dataflow has ended

    def _update(self, inspection: Inspection) -> None:
        failures = _failures(inspection)
        self.failed |= {
            node_id for node_id, count in failures.items() if count > self._failures.get(node_id, 0)
        }
        self._failures = failures
        self.inspection = inspection

    def _read(self) -> None:
        for entry in self._logs.entries():
            if entry.timestamp_ns >= self._since_ns:
                self._items.append((_LOG_CHANNEL, entry.timestamp_ns, pack_log(entry)))
        if self._order is not None:
            for node_id, data in self._order.read():
                channel = ChannelItem(ORDER_TOPIC + node_id, "", {}, ORDER_ENCODING)
                self._items.append((channel, time.time_ns(), data))


def _failures(inspection: Inspection) -> dict[str, int]:
    """Return how often each node has failed."""
    return {
        node.id: node.counts.get(RESTARTS.name, 0) + (node.status == "Failed") for node in inspection.nodes
    }
