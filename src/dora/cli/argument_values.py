"""Values on the command line: durations, ``KEY=VALUE`` pairs, addresses, files.

The parsers are plain functions that raise ``ValueError``; `ParameterValue` makes a click type of each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from dora._paths import address_fault, split_addresses

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in older versions of click

MAX_SECONDS = 1_000_000_000  # as in dataflow files; beyond, clocks and system calls overflow
MAX_COUNT = 1_000_000_000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration; a bare number is seconds. Raises ``ValueError``.

    >>> [parse_duration(text) for text in ("30", "10s", "5m", "1h30m", "500ms", "1.5s")]
    [30.0, 10.0, 300.0, 5400.0, 0.5, 1.5]
    """
    compact = text.strip().lower()
    example = "write for example 30, 10s, 5m, 1h30m or 500ms"
    if len(compact) > 100:  # the search below takes quadratic time
        raise ValueError(f"`{shortened(text)}` is not a duration: {example}")
    if re.fullmatch(r"\d+(\.\d+)?", compact, re.ASCII):
        seconds = float(compact)
    else:
        parts = _PART.findall(compact)
        if not parts or _PART.sub("", compact).strip():
            raise ValueError(f"`{text}` is not a duration: {example}")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > MAX_SECONDS:
        raise ValueError(f"`{shortened(text)}` is longer than {MAX_SECONDS} seconds, which are 31 years")
    return seconds


def parse_environment(pairs: Iterable[str]) -> dict[str, str]:
    """Return the variables of ``KEY=VALUE`` pairs; the last one for a key counts. Raises ``ValueError``.

    Values that would change in a dataflow file are refused: those with a ``$``, which would be expanded,
    and numbers in an unusual form (``007`` would be read as 7).
    """
    variables: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"`{pair}` is not KEY=VALUE")
        if "$" in value:
            raise ValueError(f"`{pair}` has a `$`, which is not expanded here: let your shell expand it")
        normal = _as_number(value)
        if normal != value:
            raise ValueError(
                f"`{pair}` would be read as the number {normal}: set it in the `env` of the dataflow "
                f'file, in quotes ({name}: "{value}")'
            )
        variables[name] = value
    return variables


class InputFile(_ParamType):
    """A regular file; reading a pipe or a device might never end."""

    name = "file"

    def __init__(self, must_exist: bool = False) -> None:
        self._must_exist = must_exist

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        import stat

        try:
            mode = os.stat(value).st_mode if value else stat.S_IFREG
        except (OSError, ValueError):
            if self._must_exist:
                return self.fail(f"there is no file `{value}`", param, ctx)
            return value  # the command reports it when it reads the file
        if self._must_exist and stat.S_ISDIR(mode):
            return self.fail(f"`{value}` is a folder, not a file", param, ctx)
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            from dora.dataflow.yaml.files import kind_of

            return self.fail(f"`{value}` is {kind_of(mode)}, not a file", param, ctx)
        return value


def _as_number(value: str) -> str:
    """Return a value as it would be written after being read as a number; other values stay the same."""
    if not value.isascii() or not _NUMBER.fullmatch(value):
        return value
    if re.fullmatch(r"[+-]?\d+", value):
        return str(int(value)) if len(value) < 20 else value
    return repr(float(value))


def parse_address(text: str) -> str:
    """Return the address of a coordinator without brackets. Raises ``ValueError``."""
    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if fault := address_fault(address):
        raise ValueError(f"`{shortened(text)}` {fault}")
    return address


def parse_addresses(text: str) -> str:
    """Return the addresses of a coordinator, with commas and without brackets. Raises ``ValueError``."""
    addresses = [parse_address(address) for address in split_addresses(text)]
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"`{shortened(text)}` has an address twice")
    return ",".join(addresses)


def shortened(text: str) -> str:
    """Shorten a text for an error message."""
    return text if len(text) <= 60 else text[:57] + "..."


class ParameterValue(_ParamType):
    """A click type made of a function from text to a value."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


NAMES = ParameterValue("names", lambda text: [name.strip() for name in text.split(",") if name.strip()])
"""A list with commas; empty names are left out."""
