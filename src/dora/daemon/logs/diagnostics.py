"""Debug logs of dora itself, enabled by ``RUST_LOG`` (`dora.daemon.logs.directives`).

Many modules import this one, so it imports next to nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import logging

TRACE: Final = 5
LEVELS: Final = {"off": 100, "error": 40, "warn": 30, "info": 20, "debug": 10, "trace": TRACE}
"""Name → level of `logging`."""

_LONGEST = 80  # characters of a value that is shown
_SECRET = frozenset({"secret", "ticket", "token"})  # fields whose values give access


def debug_log(name: str) -> logging.Logger | None:
    """Return the logger of a part if it is enabled for debug messages, None otherwise.

    None is enabled in a process that has not loaded `logging`, which takes over a millisecond.
    """
    if "logging" not in sys.modules:
        return None
    import logging

    log = logging.getLogger(name)
    return log if log.isEnabledFor(LEVELS["debug"]) else None


def shown(record: msgspec.Struct) -> str:
    """Return an event, a command or a message on one line, with the fields that differ from their defaults.

    Of a structured value, only its type or its length is shown.
    """
    fields = []
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        if value != field.default and not (isinstance(value, (tuple, list, dict)) and not value):
            fields.append(f"{field.name}={'…' if field.name in _SECRET else _value(value)}")
    return f"{type(record).__name__}({', '.join(fields)})"


def _value(value: Any) -> str:
    if isinstance(value, (str, int, float)) or value is None:
        text = str(value) if str(value).isprintable() else repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if isinstance(value, (tuple, list, dict)):
        return f"{len(value)} item{'' if len(value) == 1 else 's'}"
    return type(value).__name__
