"""Typed parameters of a ready-made node: each is declared once, as a field of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError
from dora.wire.decoders import DecodeError, from_plain

Record = TypeVar("Record", bound=msgspec.Struct)


class WrongParameter(DoraError):
    """A parameter cannot be used; ``str(error)`` names it and says what it can be."""


def read_parameters(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Return the record of a node's ``parameters``; raises `WrongParameter` for the first that is wrong.

    >>> class Settings(msgspec.Struct):
    ...     rate: float = 1.0
    >>> read_parameters(Settings, {"rate": 2})
    Settings(rate=2.0)
    >>> read_parameters(Settings, {"rat": 2})
    Traceback (most recent call last):
    dora.nodes.parameters.WrongParameter: there is no parameter `rat`; did you mean `rate`?
    """
    names = kind.__struct_fields__
    for name in values:
        if name not in names:
            hint = did_you_mean(name, names) or f"there are {listed(names)}"
            raise WrongParameter(f"there is no parameter `{name}`; {hint}")
    try:
        return from_plain(dict(values), kind)
    except DecodeError as error:
        reason, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`").partition("[")[0].partition(".")[0]
        if name in values:
            reason = f"parameter `{name}` is {values[name]!r}: {reason}"
        raise WrongParameter(reason.replace("Object missing required field", "set the parameter")) from None
