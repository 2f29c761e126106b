"""Reports from a worker to the daemon of its machine: the state of the run, and its log entries."""

from __future__ import annotations

import os
import sys
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
# Entries that may wait, and how much memory their texts may take. Further ones are only counted: nodes that
# print faster than the pipe takes would fill the memory. Their own machine has all of them in files.
_MAX_WAITING: Final = 20_000
_MAX_WAITING_SIZE: Final = 64 << 20  # bytes; an entry that comes below it is taken, however long it is


def _size_of(entry: LogEntry) -> int:
    """Return the size of an entry in a message, in bytes."""
    return len(encode(entry))


def _memory_of(entry: LogEntry) -> int:
    """Return how much memory the texts of an entry take, in bytes; much faster than to encode it."""
    texts = (
        entry.message,
        entry.target,
        entry.module_path,
        entry.file,
        *entry.fields,
        *entry.fields.values(),
    )
    return sum(map(sys.getsizeof, texts))


def _fitted(entry: LogEntry) -> tuple[LogEntry, int]:
    """Return an entry that fits into a message, and its size. Of a larger one, the end is cut off."""
    if (size := _size_of(entry)) <= _MAX_ENTRY:
        return entry, size
    note = f"… this entry has {size:,} bytes, which are too many to forward: the rest is on its own machine"
    message = f"{entry.message[:_KEPT]}{note}"
    entry = LogEntry(entry.timestamp_ns, entry.level, entry.node_id, message, entry.stream)
    return entry, _size_of(entry)


class Reports:
    """Writes messages as lines to a pipe, from a thread of its own. Thread-safe.

    If the daemon hangs, the pipe is full. The run goes on then, so no caller waits except `send_logs`. A
    newer report replaces one that is not written yet, and so it is with the parameters of a node. Thus only
    so many messages wait: a daemon that hangs asks nothing that has to be answered.
    """

    def __init__(self, pipe: int, dataflow_id: str, *, revision: int = 0, secret: str = "") -> None:
        """``revision`` and ``secret`` as in `RunReport`."""
        self._pipe = pipe
        self._report = RunReport(dataflow_id, "Starting", revision=revision, secret=secret)
        # Lines by their subjects. A newer line keeps the place of the older one, because later ones rely on
        # it: the answer to a change comes behind the report of its port.
        self._waiting: dict[object, bytes] = {}
        self._is_writing = False
        # The writer sleeps until a line waits. Those who flush, until all are written.
        self._changed = threading.Condition()
        threading.Thread(target=self._write_all, name="dora-reports", daemon=True).start()

    def update(self, **changes: Any) -> None:
        """Report the run again, with these fields of `RunReport` changed."""
        with self._changed:
            self._report = msgspec.structs.replace(self._report, **changes)
            self._put(RunReport, self._report)

    def send_logs(self, entries: list[LogEntry]) -> None:
        """Send log entries, and wait until they are written: so only one batch is in memory."""
        with self._changed:
            self._put(object(), LogBatch(self._report.dataflow_id, entries))
        self.flush()

    def parameters_set(self, node_id: str, parameters: dict[str, Any]) -> None:
        """Report the changed parameters of a node."""
        with self._changed:
            self._put(node_id, ParametersSet(self._report.dataflow_id, node_id, parameters))

    def answered(self, ticket: int, answer: Answer) -> None:
        """Answer a message of the coordinator."""
        with self._changed:
            self._put(object(), Answered(ticket, answer))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything is written, at most ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing, timeout)

    def _put(self, key: object, message: ToCoordinator) -> None:
        self._waiting[key] = encode(message) + b"\n"
        self._changed.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.pop(next(iter(self._waiting)))
                self._is_writing = True
            self._write(data)  # without the lock, which callers need

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._pipe, data) :]
            except BrokenPipeError:
                return  # the daemon is dead; the end of the commands says so too


class LogForwarder:
    """Sends log entries from a thread of its own, so that no caller waits; drops entries beyond a limit."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        # Held for some additions only, never while a batch is encoded or written: `put` does not wait.
        self._lock = threading.Lock()
        self._entries: deque[LogEntry] = deque()
        self._size = 0  # of these entries in memory, in bytes
        self._left_out = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dora-logs", daemon=True)
        self._thread.start()

    def put(self, entry: LogEntry) -> None:
        size = _memory_of(entry)
        with self._lock:
            if len(self._entries) < _MAX_WAITING and self._size < _MAX_WAITING_SIZE:
                self._entries.append(entry)
                self._size += size
            else:
                self._left_out += 1

    def _take(self) -> LogEntry:
        with self._lock:
            entry = self._entries.popleft()
            self._size -= _memory_of(entry)
        return entry

    def _work(self) -> None:
        while not self._over.wait(_EVERY):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            if self._left_out:
                text = f"{self._left_out} log entries were not forwarded: there were too many at once"
                self._left_out = 0
                note = LogEntry(time.time_ns(), "warn", None, text, "daemon")
                self._entries.append(note)
                self._size += _memory_of(note)
        while self._entries:
            batch: list[LogEntry] = []
            size = 0
            while self._entries and len(batch) < _BATCH and size < _BATCH_SIZE:
                entry, size_of_entry = _fitted(self._take())
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


class _Waiting:
    """A batch of the outbox."""

    def __init__(self, batch: LogBatch) -> None:
        self.batch = batch
        self.size = sum(map(_size_of, batch.entries))  # bytes
        # Entries dropped before it, of which it informs; None until it is sent first. When it is sent again
        # it says the same: the coordinator may have it, and ignores it then.
        self.left_out: int | None = None

    def message(self) -> LogBatch:
        if not self.left_out:
            return self.batch
        text = f"{self.left_out} log entries are on their own machine only: they came while it was cut off"
        note = LogEntry(time.time_ns(), "warn", None, text, "daemon")
        return msgspec.structs.replace(self.batch, entries=[note, *self.batch.entries])


class LogOutbox:
    """Batches in the order of their numbers; beyond a limit, the oldest are dropped, and counted. Pure.

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
        self._waiting: deque[_Waiting] = deque()
        self._sent = 0  # of the batches, from the left, on the present connection
        self._number = 0
        self._entries = 0
        self._size = 0
        self._left_out: dict[str, int] = {}  # dataflow → dropped entries of which no batch informs

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._left_out

    def add(self, batch: LogBatch) -> None:
        """Add a batch; drop the oldest ones if there is no room."""
        self._append(batch)
        while len(self._waiting) > 1 and (self._entries > self._max_entries or self._size > self._max_size):
            gone = self._take_oldest()
            count = len(gone.batch.entries) + (gone.left_out or 0)
            self._left_out[gone.batch.dataflow_id] = self._left_out.get(gone.batch.dataflow_id, 0) + count

    def next(self) -> LogBatch | None:
        """Return the next batch to send, None if there is none or enough are in flight.

        After the last one come batches without entries, about dataflows that log nothing any more.
        """
        if self._sent >= IN_FLIGHT:
            return None
        if self._sent == len(self._waiting):
            if not self._left_out:
                return None
            self._append(LogBatch(next(iter(self._left_out)), []))
        waiting = self._waiting[self._sent]
        self._sent += 1
        if waiting.left_out is None:
            waiting.left_out = self._left_out.pop(waiting.batch.dataflow_id, 0)
        return waiting.message()

    def confirm(self, number: int) -> None:
        """Remove the batches up to this number: the coordinator has them."""
        while self._waiting and self._waiting[0].batch.number <= number:
            self._take_oldest()

    def send_again(self) -> None:
        """Begin again, on a new connection, with the batches that are not confirmed."""
        self._sent = 0

    def _append(self, batch: LogBatch) -> None:
        self._number += 1
        waiting = _Waiting(msgspec.structs.replace(batch, number=self._number))
        self._waiting.append(waiting)
        self._entries += len(batch.entries)
        self._size += waiting.size

    def _take_oldest(self) -> _Waiting:
        gone = self._waiting.popleft()
        self._sent = max(self._sent - 1, 0)
        self._entries -= len(gone.batch.entries)
        self._size -= gone.size
        return gone
