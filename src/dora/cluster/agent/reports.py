"""What the process of a dataflow tells the daemon of its machine: how it goes, and its log entries."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any, Final

import msgspec

from dora.cluster.protocol import (
    ChangeResult,
    DataflowChanged,
    LogBatch,
    ParametersSet,
    ProposedChange,
    RunChanged,
    RunReport,
    ToCoordinator,
    encode,
)
from dora.daemon.logs.entry import LogEntry
from dora.dataflow.model import Dataflow

_EVERY: Final = 0.05  # seconds between two batches of log entries
_BATCH: Final = 500  # entries
_BATCH_LENGTH: Final = 1 << 18  # characters, before the last entry: a message has to be below `MAX_MESSAGE`
_MAX_WAITING: Final = 20_000  # entries that may wait


class Reports:
    """Writes lines to a pipe. Safe to use from several threads."""

    def __init__(self, pipe: int, dataflow_id: str, *, revision: int = 0, secret: str = "") -> None:
        """``revision`` and ``secret`` as in `RunReport`."""
        self._pipe = pipe
        self._report = RunReport(dataflow_id, "starting", revision=revision, secret=secret)
        self._lock = threading.Lock()

    def update(self, **changes: Any) -> None:
        """Report what is different now from the last report, by the fields of `RunReport`."""
        with self._lock:
            self._report = msgspec.structs.replace(self._report, **changes)
            self._write(RunChanged(self._report))

    def send_logs(self, entries: list[LogEntry]) -> None:
        """Hand on log entries."""
        with self._lock:
            self._write(LogBatch(self._report.dataflow_id, entries))

    def dataflow_changed(self, dataflow: Dataflow) -> None:
        """Report that the dataflow has become another one."""
        with self._lock:
            self._write(DataflowChanged(self._report.dataflow_id, dataflow))

    def parameters_set(self, node_id: str, parameters: dict[str, Any]) -> None:
        """Report that a node has other parameters."""
        with self._lock:
            self._write(ParametersSet(self._report.dataflow_id, node_id, parameters))

    def change_applied(self, proposal: ProposedChange) -> None:
        """Report that this part of a dataflow on several machines has taken over a change."""
        redefined = DataflowChanged(
            self._report.dataflow_id,
            proposal.dataflow,
            proposal.machines,
            proposal.revision,
            proposal.generations,
        )
        with self._lock:
            if proposal.revision > self._report.revision:
                self._report = msgspec.structs.replace(self._report, revision=proposal.revision)
                self._write(redefined)
                self._write(RunChanged(self._report))

    def change_result(self, answer: ChangeResult) -> None:
        """Report what has become of a change."""
        with self._lock:
            self._write(answer)

    def _write(self, message: ToCoordinator) -> None:
        data = encode(message) + b"\n"
        while data:
            try:
                data = data[os.write(self._pipe, data) :]
            except BrokenPipeError:
                return  # the daemon is dead, which the commands say too


class LogForwarder:
    """Hands on log entries in a thread of its own, so that nobody waits for it; too many are left out."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
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
            text = f"{self._left_out} log entries were not handed on: there were too many at once"
            self._left_out = 0
            self._entries.append(LogEntry(time.time_ns(), "warn", None, text, "daemon"))
        while self._entries:
            batch: list[LogEntry] = []
            length = 0
            while self._entries and len(batch) < _BATCH and length < _BATCH_LENGTH:
                batch.append(self._entries.popleft())
                length += len(batch[-1].message)
            self._reports.send_logs(batch)

    def close(self) -> None:
        """Hand on what is left."""
        self._over.set()
        self._thread.join()
        self._flush()


# Log entries on their way to the coordinator, which confirms them: a cut takes none away. Pure.
#
# What is written to a connection may never arrive, and nobody says so. So each batch has a number and is
# kept until it is confirmed; with a new connection all that are not confirmed are sent again. What the
# coordinator has had already, it knows by the number.

MOST_ENTRIES: Final = 50_000
MOST_CHARACTERS: Final = 16 << 20
ON_THE_WAY: Final = 64  # batches that are not confirmed


class LogOutbox:
    """Batches in the order of their numbers; when there are too many entries, the oldest go.

    >>> outbox = LogOutbox()
    >>> outbox.add(LogBatch("a", [])); outbox.add(LogBatch("b", []))
    >>> outbox.next().dataflow_id, outbox.next().dataflow_id, outbox.next()
    ('a', 'b', None)
    >>> outbox.confirm(1); outbox.send_again(); outbox.next().dataflow_id
    'b'
    """

    def __init__(self, most_entries: int = MOST_ENTRIES, most_characters: int = MOST_CHARACTERS) -> None:
        self._most_entries = most_entries
        self._most_characters = most_characters
        self._batches: deque[LogBatch] = deque()
        self._sent = 0  # of these, from the left, on the present connection
        self._number = 0
        self._entries = 0
        self._characters = 0
        self._left_out: dict[str, int] = {}  # dataflow → entries

    @property
    def is_empty(self) -> bool:
        return not self._batches

    def add(self, batch: LogBatch) -> None:
        """Take a batch; if there is no room, the oldest ones make it."""
        if left_out := self._left_out.pop(batch.dataflow_id, 0):
            text = f"{left_out} log entries are on their own machine only: they came while it was cut off"
            about = LogEntry(time.time_ns(), "warn", None, text, "daemon")
            batch = msgspec.structs.replace(batch, entries=[about, *batch.entries])
        self._number += 1
        self._batches.append(msgspec.structs.replace(batch, number=self._number))
        self._entries += len(batch.entries)
        self._characters += _characters(batch)
        while len(self._batches) > 1 and (
            self._entries > self._most_entries or self._characters > self._most_characters
        ):
            gone = self._take_oldest()
            self._left_out[gone.dataflow_id] = self._left_out.get(gone.dataflow_id, 0) + len(gone.entries)

    def next(self) -> LogBatch | None:
        """Return the next batch to send, None if there is none or enough are on the way."""
        if self._sent >= min(len(self._batches), ON_THE_WAY):
            return None
        self._sent += 1
        return self._batches[self._sent - 1]

    def confirm(self, number: int) -> None:
        """Forget the batches up to this number."""
        while self._batches and self._batches[0].number <= number:
            self._take_oldest()

    def send_again(self) -> None:
        """Begin again, on a new connection, with what is not confirmed."""
        self._sent = 0

    def _take_oldest(self) -> LogBatch:
        gone = self._batches.popleft()
        self._sent = max(self._sent - 1, 0)
        self._entries -= len(gone.entries)
        self._characters -= _characters(gone)
        return gone


def _characters(batch: LogBatch) -> int:
    return sum(len(entry.message) for entry in batch.entries)
