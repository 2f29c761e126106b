"""Build a dataflow: its clones, environments and build commands, then the check, lockfile and session file.

Every `dora run` builds. So this module imports next to nothing: what builds is in
`dora.daemon.build.node_builds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

import msgspec

from dora.daemon.build.inline_script import with_inline_environments
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import BuildOptions
from dora.daemon.processes.launch_spec import missing_programs
from dora.dataflow.model import Dataflow
from dora.errors import DataflowError, Problem

if TYPE_CHECKING:
    from dora.daemon.build.lockfile import Lock
    from dora.daemon.work import BuildProgress


class Built(msgspec.Struct, frozen=True):
    """Result of a build. ``dataflow`` is the one to run, with the environments that its scripts require."""

    dataflow: Dataflow
    commands: int = 0
    skipped: int = 0  # commands with nothing to do
    seconds: float = 0.0
    build_id: str | None = None  # of the session file; None: not recorded


def build(
    dataflow: Dataflow,
    on_log: Callable[[LogEntry], None],
    options: BuildOptions,
    *,
    nodes: Container[str] | None = None,
    lock: Lock | None = None,
    check: bool = True,
    session: bool = True,
    on_build: Callable[[BuildProgress], None] | None = None,
) -> Built:
    """Build a dataflow if it needs it; the result has the dataflow to run.

    ``nodes`` are the nodes of this machine, and only they are built; None: all. ``check``: raise
    `DataflowError` if a program that should be there now is missing. ``session``: record the build in the
    session file. ``on_log`` and ``on_build`` as in `build_dataflow`. Raises `BuildError`.
    """
    wanted = dataflow if lock is None else lock.pin(dataflow)
    if nodes is not None:
        wanted = msgspec.structs.replace(
            wanted, nodes=tuple(node for node in wanted.nodes if node.id in nodes)
        )
    wanted = with_inline_environments(wanted)
    built = Built(wanted)
    if options.uv or needs_build(wanted):
        built = build_dataflow(wanted, on_log, options, on_build)
    if lock is not None:
        lock.confirm(dataflow, built.dataflow)
    if check:
        check_programs(built.dataflow, uv=options.uv)
    if session:
        from dora.daemon.build.session_file import record_build

        build_id = record_build(built.dataflow, on_log, uv=options.uv)
        built = msgspec.structs.replace(built, build_id=build_id)
    if nodes is not None:
        fresh = {node.id: node for node in built.dataflow.nodes}
        everything = tuple(fresh.get(node.id, node) for node in dataflow.nodes)
        built = msgspec.structs.replace(built, dataflow=msgspec.structs.replace(dataflow, nodes=everything))
    return built


def build_dataflow(
    dataflow: Dataflow,
    on_log: Callable[[LogEntry], None],
    options: BuildOptions | None = None,
    on_build: Callable[[BuildProgress], None] | None = None,
) -> Built:
    """Do everything that nodes need before they can run.

    ``on_log`` gets one entry per command (level ``info``) and one per line of its output (level
    ``stdout``); in a parallel build it is called from several threads. Raises `BuildError` at the first
    thing that fails. When interrupted, the running commands are ended first. ``on_build`` gets the progress
    before anything begins.
    """
    from dora.daemon.build.node_builds import NodeBuilds

    begun = time.monotonic()
    with NodeBuilds(dataflow, on_log, options or BuildOptions()) as builds:
        if on_build is not None:
            on_build(builds.progress)
        builds.run()
    return Built(builds.dataflow, builds.commands, builds.skipped, time.monotonic() - begun)


def needs_build(dataflow: Dataflow) -> bool:
    """Return whether a build may bring programs that are not there yet."""
    return any(node.build or node.git or node.downloads or node.python for node in dataflow.nodes)


def missing(dataflow: Dataflow, *, uv: bool = False) -> list[Problem]:
    """Return a problem for each program and file that is missing and will not be built.

    Nodes that may run on other machines are left out.
    """
    from dora.dataflow import missing_files

    problems = missing_files(dataflow)
    if not needs_build(dataflow):
        away = {program.node for program in dataflow.programs if program.elsewhere}
        nodes = tuple(node for node in dataflow.nodes if node.id not in away)
        problems += missing_programs(msgspec.structs.replace(dataflow, nodes=nodes), uv=uv)
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))


def check_programs(dataflow: Dataflow, *, uv: bool) -> None:
    """Raise `DataflowError` if a command, or a file that the build should have made, is missing."""
    if problems := missing_programs(dataflow, uv=uv):
        raise DataflowError(problems=tuple(problems))
