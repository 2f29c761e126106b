"""How a dataflow is built, and what a build did."""

from __future__ import annotations

import msgspec

from dora.dataflow.model import Dataflow


class BuildOptions(msgspec.Struct, frozen=True):
    """How to build. ``update``: bring clones that follow a branch up to date."""

    uv: bool = False
    parallel: bool = False
    offline: bool = False
    update: bool = False


class Built(msgspec.Struct, frozen=True):
    """What a build did. ``dataflow`` is what to run: it knows what the scripts ask for as well."""

    dataflow: Dataflow
    commands: int = 0
    skipped: int = 0  # of them, those with nothing to do
    seconds: float = 0.0
