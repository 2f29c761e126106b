"""Settings of a ready-made node, from its `parameters` in the dataflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError

Settings = TypeVar("Settings", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `\$\.?(.*)`$")


class SettingError(DoraError):
    """A setting of the node cannot be used; ``str(error)`` names it and the remedy."""


def read_settings(parameters: Mapping[str, Any], kind: type[Settings]) -> Settings:
    """Return the parameters as a record; raises `SettingError`.

    >>> class Pace(msgspec.Struct):
    ...     rate: float = 30.0
    >>> read_settings({"rate": 10}, Pace)
    Pace(rate=10.0)
    >>> read_settings({"rat": 10}, Pace)
    Traceback (most recent call last):
    dora.nodes.settings.SettingError: parameter `rat` is unknown; did you mean `rate`?
    """
    known = kind.__struct_encode_fields__
    for name in parameters:
        if name not in known:
            hint = did_you_mean(name, known) or f"this node has {listed(known)}"
            raise SettingError(f"parameter `{name}` is unknown; {hint}")
    try:
        return msgspec.convert(dict(parameters), kind)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        name = f"parameter `{place[1]}`" if place and place[1] else "the parameters"
        reason = _PLACE.sub("", text)
        raise SettingError(f"{name}: {reason[:1].lower()}{reason[1:]}") from None
