"""Formats of log entries on a console: ``pretty``, ``compact`` or ``json``.

Renderers are functions from a `LogEntry` to one text without a final newline. They are pure: whether
colours are wanted is decided once, by `wants_colour`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args
from zlib import crc32

import msgspec

from dora.daemon.logs.entry import LogEntry

LogFormat = Literal["pretty", "json", "compact"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)

Renderer = Callable[[LogEntry], str]

DAEMON_NAME = "dora"
"""The name shown for entries of the daemon itself; no node may have it."""

MAX_ALIGNED = 24
"""Node names longer than this many characters do not widen the column of all others."""

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_LEVEL_COLOURS = {
    "error": "\x1b[1;31m",
    "warn": "\x1b[33m",
    "info": "\x1b[32m",
    "debug": "\x1b[34m",
    "trace": "\x1b[35m",
    "stdout": _DIM,
}
_NAME_COLOURS = tuple(f"\x1b[{code}m" for code in (36, 32, 35, 34, 33, 96, 92, 95, 94, 93))


def wants_colour(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Return whether to use colours: on a terminal only, and not with ``NO_COLOR`` or ``TERM=dumb``."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def renderer(
    name: LogFormat,
    *,
    colour: bool = False,
    nodes: Iterable[str] = (),
    dataflow_id: str | None = None,
    build_id: str | None = None,
) -> Renderer:
    """Return the renderer for a format.

    ``nodes`` are the ids whose names are aligned (and, with ``colour``, told apart) in the pretty
    format; ``dataflow_id`` and ``build_id`` are put into every JSON object.
    """
    if name == "json":
        return lambda entry: _json(entry, dataflow_id, build_id)
    if name == "compact":
        return lambda entry: _compact(entry, colour)
    names = [DAEMON_NAME, *nodes]
    width = max((len(node) for node in names if len(node) <= MAX_ALIGNED), default=0) + 1
    colours = _name_colours(names) if colour else {}
    return lambda entry: _pretty(entry, width, colour, colours)


def _name_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each name the colour of its hash, or the next free one: stable, and distinct while they last."""
    chosen: dict[str, str] = {}
    for name in sorted(set(names)):
        start = crc32(name.encode())
        count = len(_NAME_COLOURS)
        candidates = [_NAME_COLOURS[(start + step) % count] for step in range(count)]
        used = set(chosen.values())
        chosen[name] = next((colour for colour in candidates if colour not in used), candidates[0])
    return chosen


def _clock(timestamp_ns: int) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(timestamp_ns // 1_000_000_000))
    except (OverflowError, ValueError, OSError):
        return "??:??:??"  # a node may print any time


def _level_word(entry: LogEntry) -> str:
    return "stdout" if entry.level == "stdout" else entry.level.upper()


def _fields(entry: LogEntry) -> str:
    if entry.stream == "daemon":
        return ""  # its sentences say it too
    return "".join(f" {key}={value}" for key, value in entry.fields.items())


def _pretty(entry: LogEntry, width: int, colour: bool, colours: Mapping[str, str]) -> str:
    name = entry.node_id or DAEMON_NAME
    target = f"[{entry.target}] " if entry.target else ""
    head = _clock(entry.timestamp_ns)
    level = f"{_level_word(entry):<6}"
    label = f"{name + ':':<{width}}"
    fields = _fields(entry)
    if colour:
        head = f"{_DIM}{head}{_RESET}"
        level = f"{_LEVEL_COLOURS[entry.level]}{level}{_RESET}"
        label = f"{colours.get(name, '')}{label}{_RESET}"
        target = f"{_DIM}{target}{_RESET}" if target else ""
        fields = f"{_DIM}{fields}{_RESET}" if fields else ""
    first, *rest = entry.message.split("\n")
    # Continuation lines keep the label, so that a multi-line message cannot pass for another node's.
    prefix = f"{head} {level} {label} "
    return "\n".join([f"{prefix}{target}{first}", *(prefix + line for line in rest)]) + fields


def _compact(entry: LogEntry, colour: bool) -> str:
    level = _level_word(entry)
    if colour:
        level = f"{_LEVEL_COLOURS[entry.level]}{level}{_RESET}"
    return f"{_clock(entry.timestamp_ns)} {level} {entry.node_id or DAEMON_NAME}: {entry.message}"


_encode = msgspec.json.Encoder().encode


def _json(entry: LogEntry, dataflow_id: str | None, build_id: str | None) -> str:
    return _encode(
        {
            "build_id": build_id,
            "dataflow_id": dataflow_id,
            "node_id": entry.node_id,
            "daemon_id": None,
            "level": _level_word(entry),
            "target": entry.target,
            "module_path": entry.module_path,
            "file": entry.file,
            "line": entry.line,
            "message": entry.message,
            "timestamp": rfc3339(entry.timestamp_ns, digits=9),
            "fields": entry.fields or None,
        }
    ).decode()


def rfc3339(timestamp_ns: int, *, digits: int = 3) -> str:
    """Format nanoseconds since the Unix epoch as UTC, with this many (1 to 9) fractional digits.

    >>> rfc3339(1_700_000_000_123_456_789)
    '2023-11-14T22:13:20.123Z'
    """
    seconds, rest = divmod(timestamp_ns, 1_000_000_000)
    fraction = f"{rest:09d}"[:digits]
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction}Z"
