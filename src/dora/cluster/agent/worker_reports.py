"""Reports from a worker to the daemon of its machine: the state of the run, and its log entries."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any, Final

import msgspec

from dora.cluster.protocol import (
    Answered,
    LogBatch,
    ParametersSet,
    RunReport,
    ToCoordinator,
    encode,
)
from dora.daemon.logs.entry import LogEntry
from dora.wire.daemon_protocol import Answer

_EVERY: Final = 0.05  # seconds between two batches of log entries, so that many lines are one message
_BATCH: Final = 500  # entries
# A message has to be below `MAX_MESSAGE`, so a batch that has this size gets no further entry, and an entry
# has a limit of its own. Any single line of a node fits.
_BATCH_SIZE: Final = 1 << 20  # bytes
_MAX_ENTRY: Final = 8 << 20  # bytes
_KEPT: Final = 1 << 16  # characters of a larger entry
# Entries that may wait. Further ones are only counted: nodes that print faster than the pipe takes would
# fill the memory. Their own machine has all of them in files.
_MAX_WAITING: Final = 20_000


def _size_of(entry: LogEntry) -> int:
    """Return the size of an entry in a message, in bytes."""
    return len(encode(entry))


def _fitted(entry: LogEntry) -> tuple[LogEntry, int]:
    """Return an entry that fits into a message, and its size. Of a larger one, the end is cut off."""
    if (size := _size_of(entry)) <= _MAX_ENTRY:
        return entry, size
    note = f"… this entry has {size:,} bytes, which are too many to forward: the rest is on its own machine"
    message = f"{entry.message[:_KEPT]}{note}"
    entry = LogEntry(entry.timestamp_ns, entry.level, entry.node_id, message, entry.stream)
    return entry, _size_of(entry)


class Reports:
    """Writes messages as lines to a pipe. Thread-safe."""

    def __init__(self, pipe: int, dataflow_id: str, *, revision: int = 0, secret: str = "") -> None:
        """``revision`` and ``secret`` as in `RunReport`."""
        self._pipe = pipe
        self._report = RunReport(dataflow_id, "Starting", revision=revision, secret=secret)
        # The lock keeps messages of several threads apart: a large one takes several writes. Also the
        # report that is written last is the newest.
        self._lock = threading.Lock()

    def update(self, **changes: Any) -> None:
        """Report the run again, with these fields of `RunReport` changed."""
        with self._lock:
            self._report = msgspec.structs.replace(self._report, **changes)
            self._write(self._report)

    def send_logs(self, entries: list[LogEntry]) -> None:
        """Send log entries."""
        with self._lock:
            self._write(LogBatch(self._report.dataflow_id, entries))

    def parameters_set(self, node_id: str, parameters: dict[str, Any]) -> None:
        """Report the changed parameters of a node."""
        with self._lock:
            self._write(ParametersSet(self._report.dataflow_id, node_id, parameters))

    def answered(self, ticket: int, answer: Answer) -> None:
        """Answer a message of the coordinator."""
        with self._lock:
            self._write(Answered(ticket, answer))

    def _write(self, message: ToCoordinator) -> None:
        data = encode(message) + b"\n"
        while data:
            try:
                data = data[os.write(self._pipe, data) :]
            except BrokenPipeError:
                return  # the daemon is dead; the end of the commands says so too


class LogForwarder:
    """Sends log entries from a thread of its own, so that no caller waits; drops entries beyond a limit."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        # No lock, so that `put` never waits: the methods of a deque are atomic. `_left_out` may be a few
        # short.
        self._entries: deque[LogEntry] = deque()
        self._left_out = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dora-logs", daemon=True)
        self._thread.start()

    def put(self, entry: LogEntry) -> None:
        if len(self._entries) < _MAX_WAITING:
            self._entries.append(entry)
        else:
            self._left_out += 1

    def _work(self) -> None:
        while not self._over.wait(_EVERY):
            self._flush()

    def _flush(self) -> None:
        if self._left_out:
            text = f"{self._left_out} log entries were not forwarded: there were too many at once"
            self._left_out = 0
            self._entries.append(LogEntry(time.time_ns(), "warn", None, text, "daemon"))
        while self._entries:
            batch: list[LogEntry] = []
            size = 0
            while self._entries and len(batch) < _BATCH and size < _BATCH_SIZE:
                entry, size_of_entry = _fitted(self._entries.popleft())
                batch.append(entry)
                size += size_of_entry
            self._reports.send_logs(batch)

    def close(self) -> None:
        """Send the remaining entries, and end the thread."""
        self._over.set()
        self._thread.join()
        self._flush()


# The outbox of the daemon. A message on a connection may be lost without notice, so each batch has a number
# and stays here until the coordinator acknowledges it. A new connection begins with the batches that are
# not acknowledged; the coordinator recognizes repeated ones by their numbers.

MAX_ENTRIES: Final = 50_000
MAX_SIZE: Final = 16 << 20  # bytes
# Batches sent and not acknowledged. More of them would stand in front of reports in the queue of the
# connection.
IN_FLIGHT: Final = 64


class LogOutbox:
    """Batches in the order of their numbers; beyond a limit, the oldest are dropped. Pure.

    >>> outbox = LogOutbox()
    >>> outbox.add(LogBatch("a", [])); outbox.add(LogBatch("b", []))
    >>> outbox.next().dataflow_id, outbox.next().dataflow_id, outbox.next()
    ('a', 'b', None)
    >>> outbox.confirm(1); outbox.send_again(); outbox.next().dataflow_id
    'b'
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_size: int = MAX_SIZE) -> None:
        self._max_entries = max_entries
        self._max_size = max_size
        self._batches: deque[LogBatch] = deque()
        self._sizes: deque[int] = deque()  # of the batches, in bytes
        self._sent = 0  # of the batches, from the left, on the present connection
        self._number = 0
        self._entries = 0
        self._size = 0
        self._left_out: dict[str, int] = {}  # dataflow → entries

    @property
    def is_empty(self) -> bool:
        return not self._batches

    def add(self, batch: LogBatch) -> None:
        """Add a batch; drop the oldest ones if there is no room."""
        if left_out := self._left_out.pop(batch.dataflow_id, 0):
            text = f"{left_out} log entries are on their own machine only: they came while it was cut off"
            about = LogEntry(time.time_ns(), "warn", None, text, "daemon")
            batch = msgspec.structs.replace(batch, entries=[about, *batch.entries])
        self._number += 1
        self._batches.append(msgspec.structs.replace(batch, number=self._number))
        self._entries += len(batch.entries)
        self._sizes.append(sum(map(_size_of, batch.entries)))
        self._size += self._sizes[-1]
        while len(self._batches) > 1 and (self._entries > self._max_entries or self._size > self._max_size):
            gone = self._take_oldest()
            self._left_out[gone.dataflow_id] = self._left_out.get(gone.dataflow_id, 0) + len(gone.entries)

    def next(self) -> LogBatch | None:
        """Return the next batch to send, None if there is none or enough are in flight."""
        if self._sent >= min(len(self._batches), IN_FLIGHT):
            return None
        self._sent += 1
        return self._batches[self._sent - 1]

    def confirm(self, number: int) -> None:
        """Remove the batches up to this number: the coordinator has them."""
        while self._batches and self._batches[0].number <= number:
            self._take_oldest()

    def send_again(self) -> None:
        """Begin again, on a new connection, with the batches that are not confirmed."""
        self._sent = 0

    def _take_oldest(self) -> LogBatch:
        gone = self._batches.popleft()
        self._sent = max(self._sent - 1, 0)
        self._entries -= len(gone.entries)
        self._size -= self._sizes.popleft()
        return gone
