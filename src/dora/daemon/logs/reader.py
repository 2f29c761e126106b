"""Reads the log files of a dataflow: all nodes in the order of time, and further while they grow.

A file is followed by its inode, not by its name: a rotated file is read to its end before the next one.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Iterator
from typing import BinaryIO

from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import DAEMON_NAME
from dora.daemon.logs.parse import nanoseconds
from dora.daemon.logs.writer import FileRecord
from dora.dataflow.names import rotated_from
from dora.wire.decoders import DecodeError, json_decoder

_decode = json_decoder(FileRecord)


def read_record(line: bytes) -> LogEntry | None:
    """Return the entry of one line of a log file, None if it is none.

    >>> line = b'{"ts":"1970-01-01T00:00:01Z","level":"info","node":"a","stream":"stdout","msg":"x"}'
    >>> entry = read_record(line)
    >>> entry.timestamp_ns, entry.level, entry.node_id, entry.message
    (1000000000, 'info', 'a', 'x')
    """
    try:
        record = _decode(line)
    except DecodeError:
        return None
    return LogEntry(
        timestamp_ns=nanoseconds(record.ts, 0),
        level=record.level,
        node_id=None if record.node == DAEMON_NAME else record.node,
        message=record.msg,
        stream=record.stream,
        target=record.target,
        file=record.file,
        line=record.line,
        fields=record.fields,
    )


def dataflow_name(directory: str) -> str:
    """Return the name of the dataflow that has its log files in a directory, "" if they do not tell it."""
    for node in nodes_with_files(directory, "log_"):
        try:
            with open(f"{directory}/log_{node}.jsonl", "rb") as file:
                record: FileRecord = _decode(file.readline())
        except (OSError, DecodeError):
            continue  # it has just been rotated, or its first line is being written
        if record.dataflow:
            return record.dataflow
    return ""


class LogReader:
    """The log files in one directory, which need not exist yet. ``node`` None: of all nodes."""

    def __init__(self, directory: str, node: str | None = None) -> None:
        self._directory = directory
        self._node = node
        self._files: dict[str, RotatedFile] = {}

    def nodes(self) -> list[str]:
        """Return the nodes that have files."""
        return nodes_with_files(self._directory, "log_")

    def begin_near_end(self, size: int) -> None:
        """Leave out of each file what comes before its last so many bytes, for who wants the end only."""
        for node in self.nodes() if self._node is None else [self._node]:
            self._files[node] = RotatedFile(f"{self._directory}/log_{node}")
            self._files[node].begin_near_end(size)

    def entries(self) -> Iterator[LogEntry]:
        """Yield what has been written since the last call, in the order of time."""
        for node in self.nodes() if self._node is None else [self._node]:
            # During a rotation, `log_a.1.jsonl` may be there without `log_a.jsonl`.
            if node not in self._files and rotated_from(node) not in self._files:
                self._files[node] = RotatedFile(f"{self._directory}/log_{node}")
        return heapq.merge(
            *(_entries(file) for file in self._files.values()), key=lambda entry: entry.timestamp_ns
        )

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _entries(file: RotatedFile) -> Iterator[LogEntry]:
    for line in file.read():
        entry = read_record(line)
        if entry is not None:
            yield entry


def nodes_with_files(directory: str, prefix: str) -> list[str]:
    """Return the nodes that have files ``<prefix><node>.jsonl`` in a directory, which need not exist."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    ids = {
        name.removeprefix(prefix).removesuffix(".jsonl")
        for name in names
        if name.startswith(prefix) and name.endswith(".jsonl")
    }
    # `log_a.1.jsonl` is a rotated file of `a`: no dataflow has both `a` and `a.1`.
    return sorted(node for node in ids if rotated_from(node) not in ids)


class RotatedFile:
    """The lines of ``<base>.jsonl`` and of the files that it was before, ``<base>.1.jsonl`` and so on."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._file: BinaryIO | None = None  # while it is open, no other file can get its inode

    def read(self) -> Iterator[bytes]:
        """Yield the whole lines that were written since the last call, the oldest first."""
        if self._file is not None:
            yield from _rest(self._file)
        for path, inode in self._later():
            try:
                file = open(path, "rb")  # noqa: SIM115 - stays open
            except OSError:
                return  # rotated or removed just now; the next call finds what there is
            if os.fstat(file.fileno()).st_ino != inode:  # rotated just now; it is found next time
                file.close()
                return
            if self._file is not None:
                yield from _rest(self._file)  # written until it was rotated away
            self.close()
            self._file = file
            yield from _rest(file)

    def begin_near_end(self, size: int) -> None:
        """Leave out what was written earlier than the last ``size`` bytes of the present file."""
        try:
            self._file = open(f"{self._base}.jsonl", "rb")  # noqa: SIM115 - stays open
        except OSError:
            return
        behind = os.fstat(self._file.fileno()).st_size - size
        if behind > 0:
            self._file.seek(behind - 1)
            self._file.readline()  # the rest of a line

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _later(self) -> Collection[tuple[str, int]]:
        """Return the files behind the one that is open, the oldest first."""
        found: list[tuple[str, int]] = []
        number = 0
        while True:
            path = f"{self._base}.{number}.jsonl" if number else f"{self._base}.jsonl"
            try:
                found.insert(0, (path, os.stat(path).st_ino))
            except OSError:  # during a rotation, the present file alone may be missing
                if number:
                    break
            number += 1
        if self._file is not None:
            ours = os.fstat(self._file.fileno()).st_ino
            for index, (_, inode) in enumerate(found):
                if inode == ours:
                    return found[index + 1 :]
        return found


def _rest(file: BinaryIO) -> Iterator[bytes]:
    while True:
        begin = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(begin)  # it is still being written
            return
        yield line
