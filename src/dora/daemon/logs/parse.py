"""Parses captured lines into log entries, and joins the lines of tracebacks.

Three kinds of structured lines are known, each with one JSON object per line:

- the lines of `Node.log`: ``{"timestamp", "level", "node_id", "message", "target"?, "fields"?}``;
- the same with ``module_path``, ``file`` and ``line``, from the bridge of the standard ``logging``;
- JSON of Rust's ``tracing``: ``{"timestamp", "level", "target", "fields": {"message", ...}}``.

Every other line is raw: level ``stdout``, whichever stream it came from.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from dora.daemon.logs.entry import LogEntry, Stream
from dora.dataflow.model import LogLevel
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


# --------------------------------------------------------------------------- tracebacks

MAX_LINES: Final = 500  # a longer traceback comes in pieces: one without end must not fill the memory

_HEADER: Final = "Traceback (most recent call last):"
_GROUP_HEADER: Final = "+ Exception Group Traceback (most recent call last):"
_is_syntax_error = re.compile(r'  File ".+", line [0-9]+').fullmatch
_CHAINS: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


class Tracebacks:
    """Joins the lines of each traceback in a stream to one message.

    A traceback ends with the first line that is not indented, which names the exception, unless another
    traceback is chained to it. So it is held until a line shows that it is over, or until `flush`. The
    traceback of a syntax error has no header, and begins with the place of the error.

    >>> lines = Tracebacks()
    >>> for line in ("Traceback (most recent call last):", "  ...", "ValueError: no"):
    ...     assert lines.add(line) == []
    >>> for text, is_traceback in lines.add("something else"):
    ...     print(is_traceback, text.split("\\n"))
    True ['Traceback (most recent call last):', '  ...', 'ValueError: no']
    False ['something else']
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._group = False  # an exception group: all of its lines are indented
        self._named = False  # the line with the exception was there
        self._after: list[str] = []  # lines behind it that may lead to a chained traceback

    @property
    def holds(self) -> bool:
        """True while a traceback is not over."""
        return bool(self._lines)

    def add(self, line: str) -> list[tuple[str, bool]]:
        """Take a line; return what is complete, and of each whether it is a traceback."""
        if not self._lines:
            if not self._begin(line):
                return [(line, False)]
            return []
        if self._named:
            return self._add_behind(line)
        if line.startswith(" ") or not line:
            self._lines.append(line)
        elif self._group:
            return [*self.flush(), *self.add(line)]
        else:
            self._lines.append(line)
            self._named = True
        return self.flush() if len(self._lines) >= MAX_LINES else []

    def flush(self) -> list[tuple[str, bool]]:
        """Return what is held, as it is."""
        lines, self._lines = self._lines, []
        after, self._after = self._after, []
        self._named = self._group = False
        if not lines:
            return []
        return [("\n".join(lines), True), *((line, False) for line in after)]

    def _begin(self, line: str) -> bool:
        text = line.strip()
        if text not in (_HEADER, _GROUP_HEADER) and not _is_syntax_error(line):
            return False
        self._group = text == _GROUP_HEADER
        self._lines.append(line)
        return True

    def _add_behind(self, line: str) -> list[tuple[str, bool]]:
        if not line or line in _CHAINS:
            self._after.append(line)
            return []
        if any(text in _CHAINS for text in self._after) and line.strip() in (_HEADER, _GROUP_HEADER):
            self._lines += self._after
            self._after = []
            self._named = False
            self._group = line.strip() == _GROUP_HEADER
            self._lines.append(line)
            return []
        return [*self.flush(), *self.add(line)]
