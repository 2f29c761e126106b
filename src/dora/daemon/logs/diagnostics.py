"""Debug logs of dora itself on standard error, enabled by ``RUST_LOG`` like in dora-rs.

The value is a list of directives, ``LEVEL`` for all of dora or ``TARGET=LEVEL`` for a part of it. Targets
are the loggers of Python's `logging`, ``dora.daemon`` and so on, also in the spelling of dora-rs:
``dora_daemon::spawn``. A target without a directive has the level ``info``. Libraries do not count as parts
of dora: they log warnings only, unless a directive names them.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import logging

TRACE: Final = 5
LEVELS: Final = {"off": 100, "error": 40, "warn": 30, "info": 20, "debug": 10, "trace": TRACE}
"""Name → level of `logging`."""

_LONGEST = 80  # characters of a value or word that is shown
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


# --------------------------------------------------------------------------- directives

VARIABLE: Final = "RUST_LOG"
_ALIASES = {"warning": "warn", **dict(zip("012345", LEVELS, strict=True))}
_TARGET = r"[A-Za-z_][\w-]*((::|\.)[\w-]+)*"
_NAMES_OF_DORA_RS = {"dora.core.build": "dora.build", "dora.message": "dora"}
_LIBRARIES = {"": LEVELS["warn"], "uvicorn": LEVELS["error"], "websockets": LEVELS["error"]}


def parse_directives(text: str) -> tuple[dict[str, int], list[str]]:
    """Return target → level, with "dora" for all of dora; and a sentence for each thing not understood.

    >>> parse_directives("warn,dora_daemon::spawn=debug")
    ({'dora': 30, 'dora.daemon.spawn': 10}, [])
    >>> parse_directives("dora.build=verbose")[1]
    ['`verbose` is no level; they are off, error, warn, info, debug, trace']
    """
    levels: dict[str, int] = {}
    faults = []
    for directive in filter(None, map(str.strip, text.split(","))):
        target, equals, word = (part.strip() for part in directive.rpartition("="))
        level = _level(word)
        if not equals and level is not None:
            levels["dora"] = level
        elif not equals and re.fullmatch(_TARGET, word) and _name(word).split(".")[0] == "dora":
            levels[_name(word)] = TRACE
        elif not equals:
            faults.append(f"`{word[:_LONGEST]}` is neither a level nor a part of dora{_which_level(word)}")
        elif level is None:
            faults.append(f"`{word[:_LONGEST]}` is no level{_which_level(word)}")
        elif re.fullmatch(_TARGET, target):
            levels[_name(target)] = level
        else:
            faults.append(f"`{target[:_LONGEST]}` is no target: spans and patterns have no counterpart")
    return levels, faults


def _level(word: str) -> int | None:
    word = word.lower()
    return LEVELS.get(_ALIASES.get(word, word))


def _which_level(word: str) -> str:
    from dora.dataflow.problems import did_you_mean  # `dora --help` imports this module

    return f"; {did_you_mean(word.lower(), LEVELS) or 'they are ' + ', '.join(LEVELS)}"


def _name(target: str) -> str:
    """Return the name of a logger; ``dora_daemon`` is ``dora.daemon``."""
    name = target.replace("::", ".")
    if name.startswith("dora_"):
        name = "dora." + name.removeprefix("dora_")
    return _NAMES_OF_DORA_RS.get(name, name)


def configure(text: str, about: str = "") -> list[str]:
    """Configure `logging` as ``RUST_LOG`` (``text``) says; return a sentence for each thing not understood.

    ``about`` begins every message.
    """
    import logging

    levels, faults = parse_directives(text)
    logging.addLevelName(TRACE, "TRACE")
    layout = f"%(asctime)s %(levelname)s %(name)s: {about.replace('%', '%%')}%(message)s"
    logging.basicConfig(stream=sys.stderr, format=layout)
    for name, level in ({**_LIBRARIES, "dora": LEVELS["info"]} | levels).items():
        logging.getLogger(name).setLevel(level)
    return faults
