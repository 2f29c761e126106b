"""Parse the ``source`` of an input, and expand variables in values.

==============================  ====================================================
``camera/image``                output ``image`` of node ``camera``
``detector/op/bbox``            output ``bbox`` of operator ``op`` in node ``detector``
``dora/timer/50ms``             a timer by its period
``dora/timer/30hz``             a timer by its rate
``dora/timer/millis/50``        the same; units ``secs``, ``millis``, ``micros``, ``nanos``
``dora/timer/hz/29.97``         a timer by its frequency
``dora/logs``                   log entries of all nodes
``dora/logs/warn/camera``       log entries of one node, at least as severe as ``warn``
==============================  ====================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from dora.dataflow.durations import parse_duration, parse_rate
from dora.dataflow.model import LOG_LEVELS, LogSource, NodeOutput, Source, TimerSource
from dora.dataflow.names import data_id_fault, node_id_fault
from dora.dataflow.problems import did_you_mean

UNITS: Final = {"secs": 1_000_000_000, "millis": 1_000_000, "micros": 1_000, "nanos": 1}
MAX_INTERVAL_NS: Final = 2**62  # 146 years

_integer = re.compile(r"\+?[0-9]{1,30}").fullmatch


class SourceFault(ValueError):
    """A source that is not valid: the message, the hint, and the wrong part of the text.

    Where that part occurs more than once, it is the first one, or with ``last`` the last one.
    """

    def __init__(self, message: str, hint: str = "", part: str = "", last: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.part = part
        self.last = last


def parse_source(text: str) -> Source:
    """Return the source that ``text`` describes; raises `SourceFault`.

    Whether the node and the output exist is checked later, in `dora.dataflow.parser.resolve_inputs`.

    >>> parse_source("camera/image")
    NodeOutput(node='camera', output='image')
    >>> parse_source("dora/timer/hz/20").interval_ns
    50000000
    """
    if not text:
        raise SourceFault("the source is empty", "write `<node>/<output>`, for example `camera/image`")
    node, slash, rest = text.partition("/")
    if node == "dora":
        return _built_in(text, rest)
    if not slash or not rest:
        if text in UNITS or text == "timer":
            raise SourceFault(f"`{text}` is not a source", "a timer is written `dora/timer/millis/100`")
        raise SourceFault(
            f"the source `{text}` names no output", f"write `<node>/<output>`, for example `{node}/image`"
        )
    if node == "timer" or node == "logs":
        hint = f"did you mean `dora/{text}`?"
        raise SourceFault(f"`{text}` is not a source", hint)
    if fault := node_id_fault(node):
        raise SourceFault(f"the node id `{node}` {fault}", part=node)
    if fault := data_id_fault(rest):
        raise SourceFault(f"the output id `{rest}` {fault}", part=rest, last=True)
    return NodeOutput(node, rest)


def _built_in(text: str, rest: str) -> Source:
    kind, _, what = rest.partition("/")
    if kind == "timer":
        return _timer(text, what)
    if kind == "logs":
        return _logs(text, what)
    raise SourceFault(
        f"`{text}` is not a source that dora has",
        did_you_mean(kind, ("timer", "logs")) or "dora has `dora/timer/<unit>/<number>` and `dora/logs`",
        kind,
    )


def _timer(text: str, what: str) -> TimerSource:
    unit, slash, number = what.partition("/")
    period = None if slash else _period_with_unit(what)
    if period is not None:
        if not period:
            raise SourceFault("the interval of a timer cannot be zero", part=what, last=True)
        return TimerSource(period, text)
    if unit != "hz" and unit not in UNITS:
        raise SourceFault(
            f"`{unit}` is not a unit of a timer" if unit else f"the timer `{text}` has no unit",
            did_you_mean(unit, (*UNITS, "hz"))
            or "write for example `dora/timer/50ms` or `dora/timer/30hz`",
            unit,
        )
    if not number:
        raise SourceFault(
            f"the timer `{text}` has no interval", f"write the number, for example `dora/timer/{unit}/10`"
        )
    interval = _period(number) if unit == "hz" else _interval(number, unit)
    if interval > MAX_INTERVAL_NS:
        raise SourceFault(
            f"the interval of the timer `{text}` is longer than a century", part=number, last=True
        )
    return TimerSource(int(interval), text)


def _period_with_unit(text: str) -> int | None:
    """Return the period that ``50ms`` or ``30hz`` means, None for another text."""
    rate = parse_rate(text)
    return parse_duration(text) if rate is None else rate


def _interval(number: str, unit: str) -> int:
    if not _integer(number):
        raise SourceFault(
            f"`{number}` is not a whole number of {unit}", _finer(number, unit), number, last=True
        )
    interval = int(number) * UNITS[unit]
    if interval == 0:
        raise SourceFault("the interval of a timer cannot be zero", part=number, last=True)
    return interval


def _finer(number: str, unit: str) -> str:
    """Suggest the same interval in a unit in which it is a whole number."""
    try:
        nanoseconds = float(number) * UNITS[unit]
    except ValueError:
        return "write digits only"
    for finer, factor in UNITS.items():
        if 0 < nanoseconds < 2**53 and nanoseconds % factor == 0:
            return f"write `dora/timer/{finer}/{int(nanoseconds) // factor}`"
    return "write a whole number greater than zero"


def _period(number: str) -> float:
    try:
        frequency = float(number)
    except ValueError:
        frequency = math.nan
    if not (frequency > 0 and math.isfinite(frequency)):
        raise SourceFault(
            f"`{number}` is not a frequency", "write a number greater than zero, for example `30`", number
        )
    period = 1e9 / frequency
    if period < 0.5:
        raise SourceFault(
            f"the frequency {number} Hz is higher than a timer can tick", part=number, last=True
        )
    return max(round(period), 1) if math.isfinite(period) else period


def _logs(text: str, what: str) -> LogSource:
    if text == "dora/logs":
        return LogSource("stdout", None, text)
    word, slash, node = what.partition("/")
    level = next((level for level in LOG_LEVELS if level == word.lower()), None)
    if level is None:
        levels = ", ".join(LOG_LEVELS)
        raise SourceFault(
            f"`{word}` is not a log level",
            did_you_mean(word, LOG_LEVELS)
            or f"write `dora/logs/<level>` or `dora/logs/<level>/<node>`; the levels are {levels}",
            word,
        )
    if slash and (fault := node_id_fault(node)):
        raise SourceFault(f"the node id `{node}` {fault}", part=node)
    return LogSource(level, node or None, text)


# --------------------------------------------------------------------------- $NAME, ${NAME:-default}

_reference = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
_without_braces = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|(?!)()())")  # the same groups

# `path` must mean the same wherever the dataflow runs, hence only what every machine has.
PATH_VARIABLES = ("HOME", "USER", "PWD", "DORA_WORKSPACE", "CARGO_MANIFEST_DIR")


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the text with all references replaced, and the names that are not set.

    ``$$`` is a dollar sign; a ``$`` that begins no reference stays as it is, and so does a
    reference to a name that is not set.

    >>> expand("${HOME}/$DIR/${MODE:-fast} costs 5$", {"HOME": "/root"})
    ('/root/$DIR/fast costs 5$', ['DIR'])
    """
    if "$" not in text:
        return text, []
    unset: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        value = environ.get(name, match[3])
        if value is None:
            unset.append(name)
            return match[0]
        return value

    # Behind the last `}` nothing is closed any more: searching for it from every `${` would take too long.
    end = text.rfind("}") + 1
    return _reference.sub(replace, text[:end]) + _without_braces.sub(replace, text[end:]), unset


def expand_path(path: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Expand the few variables that ``path`` may use; return also the names that were left alone."""
    return expand(path, {name: environ[name] for name in PATH_VARIABLES if name in environ})
