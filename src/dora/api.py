"""Build and run dataflows from Python: `dora.build` and `dora.run`.

``dora build`` and ``dora run`` use the same functions, so there is no click in here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, Unpack

from dora.daemon.build.build import Built
from dora.daemon.build.build import build as build_loaded
from dora.daemon.load_dataflow import load_dataflow, load_for_run
from dora.daemon.logs.console import write_text
from dora.daemon.logs.display import (
    Display,
    open_console,
    renderer_for,
    unshown_warning,
    warn_about_dataflow,
)
from dora.daemon.logs.entry import LogFilter, is_of_node, nodes_are_quiet, parse_level
from dora.daemon.logs.formats import LOG_FORMATS
from dora.daemon.options import (
    BuildOptions,
    LocalRunOptions,
    RunKeywords,
    options_from_keywords,
)
from dora.daemon.report import RunOutcome, failure_report, last_line, loss_report, shown_file
from dora.errors import DataflowFailed, DoraError

if TYPE_CHECKING:
    from dora.daemon.build.lockfile import Lock
    from dora.daemon.daemon import Daemon
    from dora.daemon.logs.console import Console
    from dora.daemon.logs.entry import LogEntry
    from dora.daemon.logs.formats import LogFormat
    from dora.daemon.supervisor.result import DataflowResult
    from dora.daemon.work import BuildProgress
    from dora.dataflow.model import Dataflow, LogLevel


def run(
    dataflow_path: str | os.PathLike[str],
    uv: bool | None = None,
    stop_after: float | None = None,
    *,
    log_level: LogLevel = "stdout",
    log_format: LogFormat = "pretty",
    on_log: Callable[[LogEntry], None] | None = None,
    **options: Unpack[RunKeywords],
) -> DataflowResult:
    """Build and run a dataflow to its end, like ``dora run``; return how it went.

    ``dataflow_path`` is a YAML file or its URL, ``stop_after`` is seconds. ``options`` are as for
    ``dora run``: ``hot_reload``, ``engine``, ``env`` and so on, as
    ``dora.daemon.options.ForegroundRunOptions`` has them; without one, its environment variable and its
    default count, as there. Log entries are printed to ``sys.stdout``; ``on_log`` gets each of them
    too, unfiltered, on the thread that calls this function, and has to be quick. May be called any number
    of times, from any thread, also in a process that is a node itself; signals are handled only when called
    from the main thread.

    Raises `DataflowFailed` (with the report) if a node failed, `DataflowError` for a file that cannot
    be used, `BuildError` for a build command that failed.
    """
    if log_format not in LOG_FORMATS:
        raise DoraError(f"log_format is {log_format!r}; it can be {', '.join(LOG_FORMATS)}")
    try:
        level = parse_level(log_level)
    except ValueError as error:
        raise DoraError(str(error)) from None
    checked = options_from_keywords({"uv": uv, "stop_after": stop_after, **options})
    local = LocalRunOptions.of(checked)
    outcome = run_loaded(
        load_for_run(os.fspath(dataflow_path), local),
        local,
        Display(log_format, LogFilter(level)),
        stream=sys.stdout,
        on_log=on_log,
        on_warning=_warn,
    )
    result = outcome.result
    last = last_line(result, outcome.name)
    for text in (loss_report(result), last if result.ok else ""):
        if text:
            _warn(f"\n{text}")
    if not result.ok:
        raise DataflowFailed(failure_report(result, outcome.log_directory, outcome.name) or last)
    return result


def build(
    dataflow_path: str | os.PathLike[str],
    uv: bool | None = None,
    coordinator_addr: str | None = None,
    coordinator_port: int | None = None,
    force_local: bool = False,
) -> None:
    """Run the build commands of a dataflow, like ``dora build``.

    The arguments about a coordinator are accepted for existing programs and have no effect: this version
    always builds on this machine. Raises `DataflowError` and `BuildError`.
    """
    del coordinator_addr, coordinator_port, force_local
    options = BuildOptions(uv=bool(uv), update=True)
    build_file(os.fspath(dataflow_path), options, stream=sys.stdout, on_warning=_warn)


def _warn(text: str) -> None:
    write_text(sys.stderr, f"{text}\n")


def run_loaded(
    dataflow: Dataflow,
    options: LocalRunOptions,
    display: Display,
    *,
    stream: TextIO,
    lock: Lock | None = None,
    session: bool = True,
    on_log: Callable[[LogEntry], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    on_daemon: Callable[[Daemon], None] | None = None,
    on_dashboard: Callable[[str], None] | None = None,
    on_console: Callable[[Console], None] | None = None,
    on_build: Callable[[BuildProgress], None] | None = None,
) -> RunOutcome:
    """Build and run a loaded dataflow; return how it went.

    Log entries go to ``stream`` in the form of ``display``, and each one to ``on_log`` (on the daemon's
    thread, unfiltered). With ``on_dashboard``, a dashboard is served, and the function gets its address.
    ``session``: record the build in the session file. ``on_console`` gets what shows the log entries before
    there is one, ``on_build`` the progress of the build, if there is anything to build, and ``on_daemon``
    the daemon before it starts. Raises `DataflowError` and `BuildError`; failed nodes are in the result.
    """
    from dora.observe.run import build_and_run
    from dora.wire.correlation import uuid7

    if on_warning is not None:
        warn_about_dataflow(dataflow, display.filter, on_warning)
    dataflow_id = uuid7()
    console = open_console(dataflow, display, stream, dataflow_id, on_warning)
    if on_console is not None:
        on_console(console)
    nodes_hidden = False  # once the nodes run; what builds print is in no file

    def show(entry: LogEntry) -> None:
        if not (nodes_hidden and is_of_node(entry)):
            console(entry)
        if on_log is not None:
            on_log(entry)

    def begin(built: Built) -> None:
        nonlocal nodes_hidden
        if built.build_id is not None:
            console.render_by(renderer_for(built.dataflow, display, stream, dataflow_id, built.build_id))
        nodes_hidden = nodes_are_quiet()

    dashboard = None
    try:
        if on_dashboard is not None:
            from dora.cluster.dashboard.local import open_dashboard

            dashboard = open_dashboard(dataflow, dataflow_id)
            on_dashboard(dashboard.address)
        result = build_and_run(
            dataflow,
            options,
            show,
            dataflow_id,
            lock=lock,
            session=session,
            on_build=on_build,
            on_built=begin,
            on_daemon=on_daemon,
        )
        if dashboard is not None:
            dashboard.finish(result)
    finally:
        console.close()
        if dashboard is not None:
            dashboard.close()
    directory = os.path.join(dataflow.working_dir, "out", result.dataflow_id)
    name = shown_file(dataflow.file or "")
    outcome = RunOutcome(name, result, directory if os.path.isdir(directory) else None)
    if console.not_shown and on_warning is not None:
        on_warning(unshown_warning(console.not_shown, outcome.log_directory))
    return outcome


def build_file(
    path: str,
    options: BuildOptions,
    *,
    stream: TextIO,
    lock: Lock | None = None,
    strict_types: bool = False,
    on_warning: Callable[[str], None] | None = None,
    on_console: Callable[[Console], None] | None = None,
    on_build: Callable[[BuildProgress], None] | None = None,
) -> Built:
    """Load a dataflow from a file or a URL and build it; return what was done.

    ``on_console`` and ``on_build`` as in `run_loaded`.

    Raises `DataflowError` and `BuildError`. Missing files of nodes are no error: a build may make them.
    """
    dataflow = load_dataflow(path, strict_types=strict_types)
    display = Display()
    if on_warning is not None:
        warn_about_dataflow(dataflow, display.filter, on_warning)
    console = open_console(dataflow, display, stream)
    if on_console is not None:
        on_console(console)
    try:
        return build_loaded(dataflow, console, options, lock=lock, check=False, on_build=on_build)
    finally:
        console.close()
        if console.not_shown and on_warning is not None:
            on_warning(unshown_warning(console.not_shown))
