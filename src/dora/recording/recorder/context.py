"""The context of recorded messages: logs, the journal, states of nodes, the order of events, the code.

A separate thread reads it, because it may have to wait for the daemon or for a disk.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dora._paths import SOCKET_NAME
from dora.daemon.client import DaemonClient
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import DAEMON_NAME
from dora.daemon.logs.reader import LogReader
from dora.daemon.reload.imports import CodeFiles, Sources, code_of, is_of_a_project
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.observe.load import LoadMeter
from dora.observe.snapshot import RunSource
from dora.observe.snapshot_json import as_json
from dora.recording.mcap.channels import (
    LOG_CHANNEL,
    MARK_CHANNEL,
    PARAMETERS_CHANNEL,
    STATE_CHANNEL,
    ContextMessage,
    order_channel,
    timestamp,
)
from dora.recording.mcap.event_order import OrderTail
from dora.recording.mcap.format import LOG_SCHEMA
from dora.recording.mcap.schemas import message_class
from dora.wire.daemon_protocol import GetJournal, Inspection, JournalEntries, StartEventLogs
from dora.wire.journal import JournalEntry, Mark

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


def entry_message(entry: JournalEntry) -> ContextMessage:
    """Return the message of an entry of the journal."""
    content = entry.content
    channel = MARK_CHANNEL if isinstance(content, Mark) else PARAMETERS_CHANNEL
    return channel, entry.time_ns, msgspec.json.encode(msgspec.structs.asdict(content))


def failed_nodes(entries: Iterable[JournalEntry]) -> list[str]:
    """Return the nodes that have failed according to the journal, one for each failure."""
    marks = (entry.content for entry in entries if isinstance(entry.content, Mark))
    return [mark.node for mark in marks if mark.kind == "failed" and mark.node is not None]


_EVERY: Final = 0.25  # seconds; the recorder learns that late of a failure and of an added output
_STATE_EVERY: Final = 1.0  # seconds between two states
# Entries. Beyond, the log and the order of events stay in their files until the recorder has taken these:
# a recorder that waits for its disk must not fill the memory.
_MAX_WAITING: Final = 10_000


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
        self.failures = 0  # of nodes, since the start; one may fail again and again
        self._source = RunSource(DaemonClient(f"{inspection.run_dir}/{SOCKET_NAME}"))
        self._run = self._source.run
        self._loads = LoadMeter()
        self._state_due = 0.0
        self._journal_number = 0
        self._logs = LogReader(log_directory)
        self._since_ns = since_ns
        self._order = OrderTail(inspection.run_dir) if order else None
        # No lock: one thread appends, the recorder's takes from the other end, each in one step.
        self._items: deque[ContextMessage] = deque()
        self._closing = threading.Event()
        directory = self._order.directory if self._order is not None else ""
        if directory or ring_buffers:
            self._run.ask(StartEventLogs(directory, ring_buffers))
        self._ask()
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
        self._thread.join()  # first: the files and the client are for one thread at a time
        self._state_due = 0.0
        try:
            self._ask()
        except DoraError:
            pass  # the dataflow has ended
        self._source.close()
        self._read()
        self._logs.close()
        if self._order is not None:
            self._order.close()

    def _work(self) -> None:
        while not self._closing.wait(_EVERY):
            if len(self._items) <= _MAX_WAITING:  # else the rest is read later
                self._read()
            try:
                self._ask()
            except DoraError:
                return  # the dataflow has ended

    def _ask(self) -> None:
        """Ask the daemon; raises `ConnectError` at the end of the dataflow."""
        source = self._source
        source.ask()
        self.inspection = source.inspection
        journal = self._run.ask(GetJournal(self._journal_number))
        assert isinstance(journal, JournalEntries)
        self._journal_number = journal.number
        self._items.extend(map(entry_message, journal.entries))
        failed = failed_nodes(journal.entries)
        self.failed.update(failed)
        self.failures += len(failed)
        if (now := time.monotonic()) >= self._state_due:
            self._state_due = now + _STATE_EVERY
            state = as_json(source.refresh(self._loads.measure(source.pids())))
            self._items.append((STATE_CHANNEL, time.time_ns(), state))

    def _read(self) -> None:
        for entry in self._logs.entries():
            if entry.timestamp_ns >= self._since_ns:
                self._items.append((LOG_CHANNEL, entry.timestamp_ns, pack_log(entry)))
        if self._order is not None:
            for node_id, data in self._order.read():
                self._items.append((order_channel(node_id), time.time_ns(), data))


def fingerprints(dataflow: Dataflow, before_ns: int | None = None) -> dict[str, str]:
    """Return file → SHA-256, in hexadecimal digits, of the Python files that the nodes run.

    These are scripts, operators, and what they import from the project. A path below the folder of the
    dataflow is relative to it. ``before_ns``: leave out files that were saved after this time, in
    nanoseconds since the Unix epoch. Files that cannot be read are left out, too.
    """
    sources = Sources()
    files: set[str] = set()
    for node in dataflow.nodes:
        for _, main, roots in code_of(node, dataflow):
            program = CodeFiles(main, roots, sources)
            if is_of_a_project(os.path.dirname(main)) or len(program.files) > 1:
                files |= program.files
    found = {}
    for path in sorted(files):
        try:
            with open(path, "rb") as file:
                if before_ns is None or os.fstat(file.fileno()).st_mtime_ns <= before_ns:
                    name = os.path.relpath(path, dataflow.working_dir)
                    found[path if name.startswith("..") else name] = hashlib.sha256(file.read()).hexdigest()
        except OSError:
            continue
    return found
