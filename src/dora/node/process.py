"""The process of a node: garbage collection, tracebacks, and log lines on stdout.

With NumPy and pyarrow loaded, a full garbage collection takes 8 ms, in the middle of the messages, and an
interpreter makes several at its end. So what a node has imported at its start is exempt (`freeze_gc`). That
is done when `dora` is imported, before the program has objects of its own: those are collected as usual.

The daemon reads a node's log from its stdout, one JSON object per line. The bridge writes records of the
standard ``logging`` module as such lines, with their level, logger, file and line.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from dora.errors import DoraError
from dora.wire.node_config import decode_address


def freeze_gc() -> None:
    """Import what this node is going to need, and exempt all that is loaded from garbage collection.

    Does nothing in a process that no dataflow started: it may live on after the node.
    """
    text = os.environ.get("DORA_NODE_CONFIG")
    if not text:
        return
    try:
        address = decode_address(text)
    except ValueError:
        return  # `Node()` reports the error
    if address.data_inputs:
        import pyarrow as pa  # noqa: F401 - messages are decoded with it
    gc.freeze()


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def show_without_traceback(error: Exception) -> None:
    """Print the message of ``error``, without a traceback, if the program does not catch it.

    The program still exits with status 1.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if value is error:
            print(f"error: {value}", file=sys.stderr)
        else:
            previous(kind, value, trace)

    sys.excepthook = hook


def end_tracebacks_at_the_program() -> None:
    """End tracebacks of dora's errors and of Ctrl-C at the program's own line that led to them.

    That concerns uncaught exceptions in the main thread. Other excepthooks (of a debugger, a notebook)
    still run. ``DORA_DEBUG=1`` leaves tracebacks whole.
    """
    previous = sys.excepthook
    if getattr(previous, "ends_at_the_program", False) or os.environ.get("DORA_DEBUG"):
        return

    def hook(kind: type[BaseException], value: BaseException, _: TracebackType | None) -> None:
        _end_at_the_program(value)
        previous(kind, value, value.__traceback__)

    hook.ends_at_the_program = True  # type: ignore[attr-defined]  # functions take attributes
    sys.excepthook = hook


def print_traceback_of_operator(error: BaseException) -> bool:
    """Print the traceback of an exception, without the frames of the runtime that called the operator.

    Returns False, and prints nothing, for an error of dora that no line of an operator led to.
    """
    first = error.__traceback__
    while first is not None and _is_ours(first):
        first = first.tb_next
    if first is None and isinstance(error, DoraError):
        return False
    if not os.environ.get("DORA_DEBUG"):
        error.__traceback__ = first
        _end_at_the_program(error)
    traceback.print_exception(error)
    return True


def _end_at_the_program(error: BaseException) -> None:
    """Remove the frames after the program's last one from an error of dora, or an interrupt."""
    if not isinstance(error, (DoraError, KeyboardInterrupt)):
        return
    last, frame = None, error.__traceback__
    while frame is not None:
        if not _is_ours(frame):
            last = frame
        frame = frame.tb_next
    if last is not None and last.tb_next is not None:
        last.tb_next = None
        error.__cause__ = None  # it lies in the frames that were removed


def _is_ours(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return file.startswith((_OURS, "<frozen importlib"))


_LEVELS: Final = {
    "error": "error",
    "warn": "warn",
    "warning": "warn",
    "info": "info",
    "debug": "debug",
    "trace": "trace",
}
_wall = time.time  # logs keep real time in a replay
MAX_FIELDS: Final = 60 * 1024  # bytes of JSON


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


def write_line(line: str) -> None:
    """Write one line to stdout in one piece, so that threads do not mix."""
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
            write_line(
                log_line(
                    self._node_id,
                    _level_name(record.levelno),
                    message,
                    record.name,
                    place={
                        "module_path": record.module,
                        "file": record.pathname,
                        "line": record.lineno,
                    },
                )
            )
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


def install_bridge(node_id: str) -> None:
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
