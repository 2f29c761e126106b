"""The log files of a dataflow: JSON Lines, one file per node, rotated by size.

``<directory>/log_<node>.jsonl`` grows until the node's ``max_log_size``; then it becomes
``log_<node>.1.jsonl`` (``.1`` becomes ``.2`` and so on; the oldest of
``max_rotated_files`` is removed). Keys: ``ts`` (UTC, milliseconds), ``level``, ``node``, ``stream``,
``msg``, and where they are known ``target``, ``fields``, ``file`` and ``line``. The first line of a file
has the name of the dataflow as well, ``dataflow``. Entries of the daemon itself are in ``log_dora.jsonl``.

A disk that fails or is full must not end the dataflow: each kind of error is reported once, entries
are dropped and counted, and writing is tried again every few seconds.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping

import msgspec

from dora._shared_folders import open_file, rotate_file
from dora.daemon.logs.entry import LogEntry, Stream
from dora.daemon.logs.formats import DAEMON_NAME, rfc3339
from dora.dataflow.model import LogLevel, LogOptions

RETRY_AFTER = 5.0  # seconds between attempts after a failed write

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND

_encode = msgspec.json.Encoder().encode


class FileRecord(msgspec.Struct, omit_defaults=True):
    """A line of a log file."""

    ts: str
    level: LogLevel
    node: str
    stream: Stream
    msg: str
    target: str | None = None
    fields: dict[str, str] = {}
    file: str | None = None
    line: int | None = None
    dataflow: str = ""


def file_record(entry: LogEntry, dataflow: str = "") -> bytes:
    """Return the line of a log file for an entry, with its newline; ``dataflow``: its name, or ""."""
    record = FileRecord(
        ts=rfc3339(entry.timestamp_ns),
        level=entry.level,
        node=entry.node_id or DAEMON_NAME,
        stream=entry.stream,
        msg=entry.message,
        target=entry.target,
        fields=entry.fields,
        file=entry.file,
        line=entry.line,
        dataflow=dataflow,
    )
    return _encode(record) + b"\n"


class LogFiles:
    """Write the entries of a dataflow into the files of one directory.

    The directory and the files appear with the first entry. Existing files are appended to.
    ``directory`` is in a folder of dora's (``out``, ``logs``) in a folder of the user's choice.
    ``on_warning`` gets one message when files cannot be written. ``dataflow`` is the name of the dataflow,
    by which its ended runs are found.
    Not thread-safe: use it from one thread.
    """

    def __init__(
        self,
        directory: str,
        options: Mapping[str, LogOptions] | None = None,
        on_warning: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        dataflow: str = "",
    ) -> None:
        self.directory = directory
        self._options = options or {}
        self._on_warning = on_warning
        self._clock = clock
        self._dataflow = dataflow
        self._reported: set[str] = set()
        self._files: dict[str, _LogFile] = {}

    def write(self, entry: LogEntry) -> None:
        """Append one entry to the file of its node; never raises for trouble with the disk."""
        self._file(entry.node_id or DAEMON_NAME).append(entry)

    def mark_restart(self, node_id: str, restart_count: int, timestamp_ns: int) -> None:
        """Append the line that separates a restarted node's lines from its former process's."""
        self.write(
            LogEntry(
                timestamp_ns=timestamp_ns,
                level="info",
                node_id=node_id,
                message=f"--- restart {restart_count} ---",
                stream="daemon",
                fields={"restart_count": str(restart_count)},
            )
        )

    def path(self, node_id: str) -> str:
        """Return the path of a node's current file, whether it exists yet or not."""
        return f"{self.directory}/log_{node_id}.jsonl"

    def statistics(self) -> dict[str, int]:
        """Return per node how many entries could not be written."""
        return {node: file.lost for node, file in self._files.items() if file.lost}

    def close(self) -> None:
        """Close all files; entries written afterwards open them again."""
        for file in self._files.values():
            file.close()

    def _file(self, node_id: str) -> _LogFile:
        file = self._files.get(node_id)
        if file is None:
            options = self._options.get(node_id, LogOptions())
            file = _LogFile(self.path(node_id), options, self._report, self._clock, self._dataflow)
            self._files[node_id] = file
        return file

    def _report(self, reason: str) -> None:
        if reason in self._reported:
            return
        self._reported.add(reason)
        if self._on_warning is not None:
            self._on_warning(
                f"cannot write log files in {self.directory}: {reason}; the dataflow goes on, and its log "
                "files lack lines"
            )


class _LogFile:
    def __init__(
        self,
        path: str,
        options: LogOptions,
        on_warning: Callable[[str], None],
        clock: Callable[[], float],
        dataflow: str,
    ) -> None:
        self.lost = 0
        self._path = path
        self._base = os.path.dirname(os.path.dirname(os.path.dirname(path)))
        self._limit = options.max_log_size
        self._keep = options.max_rotated_files
        self._on_warning = on_warning
        self._clock = clock
        self._dataflow = dataflow
        self._descriptor = -1
        self._size = 0
        self._retry_at: float | None = None

    def append(self, entry: LogEntry) -> None:
        if self._retry_at is not None:
            if self._clock() < self._retry_at:
                self.lost += 1
                return
            self._retry_at = None
        try:
            self._write(entry)
        except OSError as error:
            self.lost += 1
            self.close()
            self._retry_at = self._clock() + RETRY_AFTER
            self._on_warning(error.strerror or str(error))

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                pass  # the descriptor is closed all the same

    def _write(self, entry: LogEntry) -> None:
        if self._descriptor < 0:
            self._open()
        line = self._line(entry)
        if self._limit is not None and self._size and self._size + len(line) > self._limit:
            self.close()
            rotate_file(self._path, self._keep, below=self._base)
            self._open()
            line = self._line(entry)
        written = os.write(self._descriptor, line)
        if written < len(line):
            # A disk that fills up takes a part of the line: cut it off, so that every line stays whole.
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _line(self, entry: LogEntry) -> bytes:
        return file_record(entry, "" if self._size else self._dataflow)

    def _open(self) -> None:
        self._descriptor = open_file(self._path, _APPEND, below=self._base, mode=0o644)
        self._size = os.fstat(self._descriptor).st_size
