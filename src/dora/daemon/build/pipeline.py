"""The steps of a build in their order: build the programs, check them, write the session file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from dora.daemon.build.build import BuildOptions, Built, build_programs, check_programs
from dora.daemon.logs.entry import LogEntry
from dora.dataflow.model import Dataflow

if TYPE_CHECKING:
    from dora.daemon.build.lockfile import Lock


def build(
    dataflow: Dataflow,
    on_log: Callable[[LogEntry], None],
    options: BuildOptions,
    *,
    lock: Lock | None = None,
    check: bool = True,
    session: bool = True,
) -> Built:
    """Build a dataflow; the result has the dataflow to run.

    ``check``: raise `DataflowError` if a program that should be there now is missing. ``session``: record
    the build in the session file. Raises `BuildError`.
    """
    if lock is None:
        built = build_programs(dataflow, on_log, options)
    else:
        from dora.daemon.build.lockfile import build_locked

        built = build_locked(dataflow, on_log, options, lock)
    if check:
        check_programs(built.dataflow, uv=options.uv)
    if session:
        from dora.daemon.build.session_file import record_build

        build_id = record_build(built.dataflow, on_log, uv=options.uv)
        built = msgspec.structs.replace(built, build_id=build_id)
    return built
