"""The log of a node: lines on stdout, which the daemon reads, one JSON object per line.

The bridge writes records of the standard ``logging`` module as such lines, with their level, logger, file
and line.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

_LEVELS: Final = {
    "error": "error",
    "warn": "warn",
    "warning": "warn",
    "info": "info",
    "debug": "debug",
    "trace": "trace",
}
_wall = time.time  # logs keep real time in a replay
MAX_FIELDS: Final = 60 * 1024  # bytes of JSON, the limit of dora-rs; a mark takes the place of more


def log_line(
    node_id: str,
    level: str,
    message: str,
    target: str | None = None,
    fields: Mapping[str, str] | None = None,
    place: Mapping[str, Any] | None = None,
) -> str:
    """Return the line; an unknown level counts as info, fields beyond 60 KiB are dropped.

    Raises ``TypeError`` if ``message`` is not a string.
    """
    import json  # 1 ms, for the nodes that log

    if not isinstance(message, str):
        raise TypeError(f"a log message is a string, not {type(message).__name__}")
    entry: dict[str, Any] = {
        "timestamp": datetime.fromtimestamp(_wall(), UTC).isoformat().replace("+00:00", "Z"),
        "level": _LEVELS.get(level.lower(), "info"),
        "node_id": node_id,
        "message": message,
    }
    if target is not None:
        entry["target"] = target
    if place:
        entry.update(place)
    if fields:
        text = {str(key): str(value) for key, value in fields.items()}
        if len(json.dumps(text).encode()) > MAX_FIELDS:
            text = {"fields_dropped": "true"}
        entry["fields"] = text
    return json.dumps(entry, ensure_ascii=False)


def write_log(
    node_id: str,
    level: str,
    message: str,
    target: str | None = None,
    fields: Mapping[str, str] | None = None,
    place: Mapping[str, Any] | None = None,
) -> None:
    """Write the line that `log_line` returns to stdout, in one piece, so that threads do not mix."""
    line = log_line(node_id, level, message, target, fields, place)
    stdout = sys.stdout
    if stdout is not None:
        stdout.write(line + "\n")
        stdout.flush()


class LogBridge(logging.Handler):
    """A handler that writes records as log lines of a node."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[0] is not None:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
            place = {"module_path": record.module, "file": record.pathname, "line": record.lineno}
            write_log(self._node_id, _level_name(record.levelno), message, record.name, place=place)
        except Exception:  # noqa: BLE001 - logging must not raise; this is its own convention
            self.handleError(record)


def _level_name(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    if number >= logging.INFO:
        return "info"
    return "debug" if number >= logging.DEBUG else "trace"


def install_log_bridge(node_id: str) -> None:
    """Send the records of all loggers through the bridge.

    Nothing happens if the program has configured the root logger before. ``logging.basicConfig``
    works as usual afterwards: its ``level`` is taken over, and with a file, stream, handlers or
    ``force`` it replaces the bridge. The level starts at INFO.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    bridge = LogBridge(node_id)
    root.addHandler(bridge)
    if root.level == logging.WARNING:  # the default
        root.setLevel(logging.INFO)
    original = logging.basicConfig

    def basic_config(**options: Any) -> None:
        if bridge not in root.handlers:
            original(**options)
        elif any(options.get(name) for name in ("filename", "stream", "handlers", "force")):
            root.removeHandler(bridge)
            original(**options)
        elif options.get("level") is not None:
            root.setLevel(options["level"])

    logging.basicConfig = basic_config
