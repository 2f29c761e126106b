"""What happens around the messages while they are recorded: logs, the order of events, nodes that fail.

A thread of its own looks at it, because it may have to wait: for the daemon's answer, or for a disk.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from dora.daemon.runs import DaemonClient
from dora.errors import DoraError
from dora.inspection.look import inspect
from dora.recording.channels import ChannelItem
from dora.recording.intake import OwnMessage
from dora.recording.logs import LogTail, log_channel
from dora.recording.order import ORDER_ENCODING, ORDER_TOPIC, OrderTail
from dora.transport.places import SOCKET_NAME
from dora.wire.inspection import Inspection
from dora.wire.requests import StartEventLogs

_EVERY: Final = 0.25  # seconds
_AT_ONCE: Final = 10_000  # entries that wait until they are taken


class RecordingContext:
    """Looks around until `close`; the rest is for the thread of the recorder."""

    def __init__(self, inspection: Inspection, logs: LogTail, *, order: bool, tapes: str) -> None:
        """``order``: let the nodes write the order of their events. ``tapes``: the folder of tapes for
        their small messages, "" if there are none. Raises `ConnectError`.
        """
        self.inspection = inspection  # the newest
        self.failed: set[str] = set()  # nodes, since the beginning
        self._run = DaemonClient(f"{inspection.run_dir}/{SOCKET_NAME}")
        self._logs = logs
        self._order = OrderTail() if order else None
        self._troubles = _troubles(inspection)
        self._items: deque[OwnMessage] = deque()
        self._ending = threading.Event()
        directory = self._order.directory if self._order is not None else ""
        if directory or tapes:
            self._run.ask(StartEventLogs(directory, tapes))
        self._thread = threading.Thread(target=self._work, name="dora-recording-around", daemon=True)
        self._thread.start()

    def take(self) -> Iterator[OwnMessage]:
        """Yield what there is to record."""
        items = self._items
        while items:
            yield items.popleft()

    def close(self) -> None:
        """Look for the last time; `take` yields what was found."""
        self._ending.set()
        self._thread.join()
        self._run.close()
        self._read()
        self._logs.close()
        if self._order is not None:
            self._order.close()

    def _work(self) -> None:
        while not self._ending.wait(_EVERY):
            if len(self._items) <= _AT_ONCE:  # else what comes now is read later
                self._read()
            try:
                self._note(inspect(self._run))
            except DoraError:
                return  # the dataflow has ended

    def _note(self, inspection: Inspection) -> None:
        troubles = _troubles(inspection)
        self.failed |= {
            node_id for node_id, count in troubles.items() if count > self._troubles.get(node_id, 0)
        }
        self._troubles = troubles
        self.inspection = inspection

    def _read(self) -> None:
        item = log_channel()
        for time_ns, data in self._logs.read():
            self._items.append((item, time_ns, data))
        if self._order is not None:
            for node_id, data in self._order.read():
                channel = ChannelItem(ORDER_TOPIC + node_id, "", {}, ORDER_ENCODING)
                self._items.append((channel, time.time_ns(), data))


def _troubles(inspection: Inspection) -> dict[str, int]:
    """Return how often each node has failed."""
    return {node.id: node.restarts + (node.status == "failed") for node in inspection.nodes}
