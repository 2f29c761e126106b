"""Running dataflows from Python: `dora.run` and `dora.build`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dora.errors import DataflowFailed, DoraError

if TYPE_CHECKING:
    from dora.daemon.options import Engine
    from dora.dataflow.model import LogLevel
    from dora.logs.entry import LogEntry
    from dora.logs.formats import LogFormat
    from dora.supervise.result import DataflowResult


def run(
    dataflow_path: str | os.PathLike[str],
    uv: bool | None = None,
    stop_after: float | None = None,
    *,
    grace: float | None = None,
    env: Mapping[str, str] | None = None,
    exit_when_nodes_finish: bool | None = None,
    allow_shell_nodes: bool = False,
    engine: Engine | None = None,
    strict_outputs: bool = False,
    hot_reload: bool = False,
    log_level: LogLevel = "stdout",
    log_format: LogFormat = "pretty",
    on_log: Callable[[LogEntry], None] | None = None,
) -> DataflowResult:
    """Build and run a dataflow to its end, as ``dora run`` does; return how it went.

    ``dataflow_path`` is a YAML file or its URL, ``stop_after`` and ``grace`` are seconds. Log entries
    are printed to ``sys.stdout``; ``on_log`` gets each of them too, unfiltered, on the thread that
    calls this function, and has to be quick. May be called any number of times, from any thread, also
    in a process that is a node itself; signals are handled only when called from the main thread.

    Raises `DataflowFailed` (with the report) if a node failed, `DataflowError` for a file that cannot
    be used, `BuildError` for a build command that failed.
    """
    from dora.cli.flow import Display, RunRequest, run_to_end
    from dora.cli.report import failure_report, loss_report
    from dora.logs.filters import LogFilter, parse_level
    from dora.logs.formats import LOG_FORMATS

    for name, seconds in (("stop_after", stop_after), ("grace", grace)):
        if seconds is not None and not (isinstance(seconds, (int, float)) and 0 <= seconds < float("inf")):
            raise DoraError(f"{name} is {seconds!r}; it has to be a number of seconds, at least 0")
    for variable, value in (env or {}).items():
        if not isinstance(value, str):
            raise DoraError(f"env: the value of `{variable}` is {value!r}; it has to be a string")
        if "\0" in value:
            raise DoraError(
                f"env: the value of `{variable}` has a NUL character, which cannot be passed on"
            )
    if log_format not in LOG_FORMATS:
        raise DoraError(f"log_format is {log_format!r}; it can be {', '.join(LOG_FORMATS)}")
    try:
        level = parse_level(log_level)
    except ValueError as error:
        raise DoraError(str(error)) from None
    outcome = run_to_end(
        RunRequest(
            path=os.fspath(dataflow_path),
            uv=bool(uv),
            stop_after=stop_after,
            grace=grace,
            env=env or {},
            exit_when_nodes_finish=exit_when_nodes_finish,
            allow_shell_nodes=allow_shell_nodes,
            engine=engine,
            strict_outputs=strict_outputs,
            hot_reload=hot_reload,
        ),
        Display(log_format, LogFilter(level)),
        stream=sys.stdout,
        on_log=on_log,
        on_warning=_warn,
    )
    losses = loss_report(outcome.result)
    if losses:
        _warn(f"\n{losses}")
    if not outcome.result.ok:
        raise DataflowFailed(failure_report(outcome.result, outcome.log_directory))
    return outcome.result


def build(
    dataflow_path: str | os.PathLike[str],
    uv: bool | None = None,
    coordinator_addr: str | None = None,
    coordinator_port: int | None = None,
    force_local: bool = False,
) -> None:
    """Run the build commands of a dataflow, as ``dora build`` does.

    The coordinator arguments are taken for the sake of existing programs; this version always builds
    on this machine. Raises `DataflowError` and `BuildError`.
    """
    from dora.building.options import BuildOptions
    from dora.cli.flow import build_only

    del coordinator_addr, coordinator_port, force_local
    options = BuildOptions(uv=bool(uv), update=True)
    build_only(os.fspath(dataflow_path), options, stream=sys.stdout, on_warning=_warn)


def _warn(text: str) -> None:
    from dora.cli.outlet import write_text

    write_text(sys.stderr, f"{text}\n")
