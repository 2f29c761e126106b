"""Log entries, as in the console, the log files and ``dora/logs`` inputs, and filters of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from dora.dataflow.model import LOG_LEVELS, LogLevel

Stream = Literal["stdout", "stderr", "daemon"]

WriteLog = Callable[[LogLevel, "str | None", str], None]
"""Writes a line to the log: its level, the node that it is about (None: the daemon), its text."""


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


_RANK: dict[str, int] = {level: rank for rank, level in enumerate(LOG_LEVELS)}


def passes(level: LogLevel, threshold: LogLevel) -> bool:
    """Return whether an entry of this level passes a threshold.

    Raw lines (level ``stdout``) pass only the threshold ``stdout``, which every entry passes.

    >>> passes("warn", "info"), passes("debug", "info"), passes("stdout", "trace")
    (True, False, False)
    """
    return _RANK[level] <= _RANK[threshold]


def parse_level(text: str) -> LogLevel:
    """Return the level with this name, in any case; raises ``ValueError`` with the names allowed.

    >>> parse_level("WARN")
    'warn'
    """
    wanted = text.strip().lower()
    for level in LOG_LEVELS:
        if wanted == level or (wanted == "warning" and level == "warn"):
            return level
    raise ValueError(f"unknown log level `{text}`: use one of {', '.join(LOG_LEVELS)}")


def parse_filter(text: str) -> dict[str, LogLevel]:
    """Parse thresholds per node, as in ``camera=debug,plot=warn``.

    Blanks and empty items are ignored, the last entry for a node wins. Raises ``ValueError``.

    >>> parse_filter("camera=debug, plot=warn")
    {'camera': 'debug', 'plot': 'warn'}
    """
    levels: dict[str, LogLevel] = {}
    for item in text.split(","):
        if not item.strip():
            continue
        node, separator, level = item.partition("=")
        if not separator or not node.strip():
            raise ValueError(f"`{item.strip()}` is not node=level, as in camera=debug")
        levels[node.strip()] = parse_level(level)
    return levels


class LogFilter(msgspec.Struct, frozen=True):
    """Filter of a console: a threshold for all nodes, and others for single nodes."""

    level: LogLevel = "stdout"
    nodes: Mapping[str, LogLevel] = {}

    def shows(self, entry: LogEntry) -> bool:
        """Return whether this entry is shown."""
        threshold = self.level if entry.node_id is None else self.nodes.get(entry.node_id, self.level)
        return passes(entry.level, threshold)


def nodes_are_quiet() -> bool:
    """Return whether entries of nodes go to the log files only: ``DORA_QUIET``, with any value."""
    return bool(os.environ.get("DORA_QUIET"))


def is_of_node(entry: LogEntry) -> bool:
    """Return whether an entry comes from a node, and not from dora about it.

    >>> is_of_node(LogEntry(0, "info", "camera", "opened")), is_of_node(LogEntry(0, "info", None, "done"))
    (True, False)
    """
    return entry.node_id is not None and entry.stream != "daemon"
