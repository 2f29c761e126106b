"""What is logged while a dataflow is recorded, as messages that viewers know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dora.logs.entry import LogEntry
from dora.logs.formats import DAEMON_NAME
from dora.logs.reader import LogReader
from dora.recording.channels import ChannelItem
from dora.recording.format import LOG_SCHEMA, LOG_TOPIC
from dora.recording.protobuf import fixed32, integer, text, timestamp

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
