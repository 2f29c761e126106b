"""From a captured line to a log entry.

Three kinds of structured lines are understood, all of them one JSON object per line:

- what `Node.log` prints: ``{"timestamp", "level", "node_id", "message", "target"?, "fields"?}``;
- the same with ``module_path``, ``file`` and ``line``, from the bridge of the standard ``logging``;
- JSON of Rust's ``tracing``: ``{"timestamp", "level", "target", "fields": {"message", ...}}``.

Every other line is raw: level ``stdout``, whichever stream it came from.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from dora.dataflow.model import LogLevel
from dora.logs.entry import LogEntry, Stream
from dora.wire.decoders import DecodeError, json_decoder

_LEVELS: dict[str, LogLevel] = {
    "error": "error",
    "critical": "error",
    "fatal": "error",
    "warn": "warn",
    "warning": "warn",
    "info": "info",
    "notice": "info",
    "debug": "debug",
    "trace": "trace",
    "stdout": "stdout",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_decode = json_decoder()
_encode = msgspec.json.Encoder(order="deterministic").encode


def parse_line(node_id: str | None, stream: Stream, text: str, now_ns: int) -> LogEntry:
    """Make the log entry for one captured line; never fails.

    ``node_id`` is the node whose process wrote the line; a ``node_id`` inside the line is not
    believed. ``now_ns`` (nanoseconds since the Unix epoch) stamps lines without a usable timestamp
    of their own. A line whose level is not known stays raw.

    >>> parse_line("cam", "stdout", '{"level": "WARNING", "message": "dark"}', 5).level
    'warn'
    >>> parse_line("cam", "stderr", "hello\\n", 5).message
    'hello'
    """
    text = text.rstrip("\r\n")
    if text.startswith("{") and text.endswith("}"):
        entry = _structured(node_id, stream, text, now_ns)
        if entry is not None:
            return entry
    return LogEntry(timestamp_ns=now_ns, level="stdout", node_id=node_id, message=text, stream=stream)


def _structured(node_id: str | None, stream: Stream, text: str, now_ns: int) -> LogEntry | None:
    try:
        record: Any = _decode(text)
    except (DecodeError, UnicodeError):
        return None
    if not isinstance(record, dict):
        return None
    name = record.get("level")
    level = _LEVELS.get(name.lower()) if isinstance(name, str) else None
    if level is None:
        return None
    fields = record.get("fields")
    fields = dict(fields) if isinstance(fields, dict) else {}
    message = record.get("message")
    if message is None:
        message = fields.pop("message", None)
    if not isinstance(message, str):
        return None
    return LogEntry(
        timestamp_ns=nanoseconds(record.get("timestamp"), now_ns),
        level=level,
        node_id=node_id,
        message=message,
        stream=stream,
        target=_text(record.get("target")),
        module_path=_text(record.get("module_path")),
        file=_text(record.get("file", record.get("filename"))),
        line=_line_number(record.get("line", record.get("line_number"))),
        fields={key: _field(value) for key, value in fields.items()},
    )


def _field(value: object) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _line_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def nanoseconds(value: object, now_ns: int) -> int:
    """Read an RFC 3339 time, ``now_ns`` if it is none; one without an offset is taken as UTC."""
    if not isinstance(value, str):
        return now_ns
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return now_ns
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND * 1000
