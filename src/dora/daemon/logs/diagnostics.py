"""Details of dora's own work, for who asks for them with ``RUST_LOG`` (`dora.daemon.logs.directives`).

Everything that may tell something imports this module, so it imports next to nothing.
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
_SECRET = frozenset({"secret", "ticket", "token"})  # fields whose values let somebody in


def debug_log(name: str) -> logging.Logger | None:
    """Return the logger of a part if somebody wants to know its details, None otherwise.

    Nobody does in a process that has not even loaded `logging`, and loading it takes over a millisecond.
    """
    if "logging" not in sys.modules:
        return None
    import logging

    log = logging.getLogger(name)
    return log if log.isEnabledFor(LEVELS["debug"]) else None


def shown(record: msgspec.Struct) -> str:
    """Return an event, a command or a message on one line, with what tells it from the usual.

    Of values with a structure only the kind is shown, or how many there are.
    """
    told = []
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        if value != field.default and not (isinstance(value, (tuple, list, dict)) and not value):
            told.append(f"{field.name}={'…' if field.name in _SECRET else _value(value)}")
    return f"{type(record).__name__}({', '.join(told)})"


def _value(value: Any) -> str:
    if isinstance(value, (str, int, float)) or value is None:
        text = str(value) if str(value).isprintable() else repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if isinstance(value, (tuple, list, dict)):
        return f"{len(value)} item{'' if len(value) == 1 else 's'}"
    return type(value).__name__
