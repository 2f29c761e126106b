"""Log entries, as in the console, the log files and ``dora/logs`` inputs."""

from __future__ import annotations

from typing import Literal

import msgspec

from dora.dataflow.model import LogLevel

Stream = Literal["stdout", "stderr", "daemon"]


class LogEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """``level`` is ``"stdout"`` for a raw line (from stdout or stderr) without a level of its own."""

    timestamp_ns: int  # since the Unix epoch, UTC
    level: LogLevel
    node_id: str | None  # None: the daemon itself
    message: str
    stream: Stream = "stdout"
    target: str | None = None
    module_path: str | None = None
    file: str | None = None
    line: int | None = None
    fields: dict[str, str] = {}
