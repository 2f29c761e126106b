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
from collections.abc import Container, Mapping
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
    interval: float | None = None if slash else _period_with_unit(what)
    if interval is None:
        interval = _interval_of(text, unit, number)
    if not interval:
        raise SourceFault("the interval of a timer cannot be zero", part=number or what, last=True)
    if interval > MAX_INTERVAL_NS:
        raise SourceFault(
            f"the interval of the timer `{text}` is longer than a century", part=number or what, last=True
        )
    return TimerSource(int(interval), text)


def _interval_of(text: str, unit: str, number: str) -> float:
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
    return _period(number) if unit == "hz" else _interval(number, unit)


def _period_with_unit(text: str) -> int | None:
    """Return the period that ``50ms`` or ``30hz`` means, None for another text."""
    rate = parse_rate(text)
    return parse_duration(text) if rate is None else rate


def _interval(number: str, unit: str) -> int:
    if not _integer(number):
        raise SourceFault(
            f"`{number}` is not a whole number of {unit}", _finer(number, unit), number, last=True
        )
    return int(number) * UNITS[unit]


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

_NAME: Final = "[A-Za-z_][A-Za-z0-9_]*"
_parts = re.compile(rf"\$(?:\$|({_NAME})|\{{({_NAME})\}}|\{{({_NAME}):-)|\}}").finditer

# `path` must mean the same wherever the dataflow runs, hence only what every machine has.
PATH_VARIABLES = ("HOME", "USER", "PWD", "DORA_WORKSPACE", "CARGO_MANIFEST_DIR")


class _Expansion:
    """The expansion of one text, part by part from its start."""

    def __init__(self, environ: Mapping[str, str], names: Container[str] | None) -> None:
        self.parts: list[str] = []
        self.unset: list[str] = []
        self._environ = environ
        self._names = names
        self._opened: list[tuple[str, int, int]] = []  # a default: its name, parts and unset before it
        self._left_alone = 0  # how many defaults of other names are around this place

    def take(self, match: re.Match[str]) -> None:
        """Append what a reference, or the end of a default, stands for."""
        written = match[0]
        name = match[1] or match[2] or match[3]
        if self._left_alone:
            self._left_alone += 1 if match[3] else -1 if written == "}" else 0
            self.parts.append(written)
        elif name and self._names is not None and name not in self._names:
            self._left_alone = 1 if match[3] else 0
            self.unset.append(name)
            self.parts.append(written)
        elif match[3]:
            self._opened.append((name, len(self.parts), len(self.unset)))
            self.parts.append(written)  # stays if nothing closes the default
        elif name:
            if name not in self._environ:
                self.unset.append(name)
            self.parts.append(self._environ.get(name, written))
        elif written == "}" and self._opened:
            self._close(*self._opened.pop())
        else:
            self.parts.append("$" if written == "$$" else written)

    def _close(self, name: str, parts: int, unset: int) -> None:
        """Put the value in the place of a default, if there is one."""
        self.parts[parts] = ""
        if name in self._environ:
            del self.parts[parts:], self.unset[unset:]
            self.parts.append(self._environ[name])


def expand(
    text: str, environ: Mapping[str, str], names: Container[str] | None = None
) -> tuple[str, list[str]]:
    """Return the text with all references replaced, and the names that are not set.

    ``$$`` is a dollar sign; a ``$`` that begins no reference stays as it is, and so does a
    reference to a name that is not set. A default may hold references. With ``names``, references to
    other names stay as they are, and count as not set.

    >>> expand("${HOME}/$DIR/${MODE:-fast} costs 5$", {"HOME": "/root"})
    ('/root/$DIR/fast costs 5$', ['DIR'])
    >>> expand("${DEVICE:-${FALLBACK:-cpu}}", {})
    ('cpu', [])
    """
    if "$" not in text:
        return text, []
    # One pass: to search for the end of each default would take too long where none is closed.
    expansion = _Expansion(environ, names)
    end = 0
    for match in _parts(text):
        expansion.parts.append(text[end : match.start()])
        expansion.take(match)
        end = match.end()
    return "".join(expansion.parts) + text[end:], expansion.unset


def expand_path(path: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Expand the few variables that ``path`` may use; return also the names that were left alone."""
    return expand(path, environ, PATH_VARIABLES)
