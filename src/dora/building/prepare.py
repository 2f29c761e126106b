"""Do for a dataflow what has to be done before it can run, and no more."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dora.building.options import BuildOptions, Built
from dora.daemon.programs import missing_programs
from dora.dataflow.model import Dataflow
from dora.errors import DataflowError, Problem
from dora.logs.entry import LogEntry


def build_programs(dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions) -> Built:
    """Do what nodes need before they can run; the result has the dataflow to run. Raises `BuildError`."""
    from dora.building.inline import with_inline_environments

    dataflow = with_inline_environments(dataflow)
    if options.uv or is_to_be_built(dataflow):
        from dora.building.builder import build_dataflow

        return build_dataflow(dataflow, on_log, options)
    return Built(dataflow)


def is_to_be_built(dataflow: Dataflow) -> bool:
    """Tell whether a build may bring programs that are not there yet."""
    return any(node.build or node.git or node.download or node.python for node in dataflow.nodes)


def missing(dataflow: Dataflow, *, uv: bool = False) -> list[Problem]:
    """Return what is not there and will not be built; nodes that may run on other machines are left out."""
    from dora.dataflow import missing_files

    problems = missing_files(dataflow)
    if not is_to_be_built(dataflow):
        away = {program.node for program in dataflow.programs if program.elsewhere}
        nodes = tuple(node for node in dataflow.nodes if node.id not in away)
        problems += missing_programs(msgspec.structs.replace(dataflow, nodes=nodes), uv=uv)
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))


def check_programs(dataflow: Dataflow, *, uv: bool) -> None:
    """Raise `DataflowError` if a command, or what a build should have made, is not there after it."""
    if problems := missing_programs(dataflow, uv=uv):
        raise DataflowError(problems=tuple(problems))
