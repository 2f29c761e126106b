"""How long machines may take to begin with a dataflow: variables of the coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dora.coordinator.protocol import Limits
from dora.errors import DoraError

BUILD_LIMIT: Final = "DORA_BUILD_RESULT_TIMEOUT_SECS"
SPAWN_LIMIT: Final = "DORA_SPAWN_RESULT_TIMEOUT_SECS"


def limits_from(environ: Mapping[str, str]) -> Limits:
    """Return what the environment says, the defaults where it says nothing; raises `DoraError`."""
    usual = Limits()
    return Limits(
        build=_seconds(environ, BUILD_LIMIT, usual.build), spawn=_seconds(environ, SPAWN_LIMIT, usual.spawn)
    )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise DoraError(f"{name} is `{text}`; it has to be a number of seconds, {default:g} by default")
    return seconds
