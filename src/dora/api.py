"""Running dataflows from Python: `dora.run` and `dora.build`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from dora._version import __version__
from dora.daemon.build.build import BuildOptions, Built, build_programs, check_programs, missing
from dora.daemon.build.session_file import note_build
from dora.daemon.logs.console import Console
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.filters import LogFilter, is_of_node, nodes_are_quiet
from dora.daemon.logs.formats import LogFormat, Renderer, renderer, wants_colour
from dora.daemon.report import RunOutcome, shorter_path
from dora.daemon.supervisor.result import DataflowResult
from dora.dataflow import load
from dora.dataflow.model import HERE, Dataflow
from dora.dataflow.problems import no_node
from dora.errors import DataflowError, DataflowFailed, DoraError

if TYPE_CHECKING:
    from dora.cluster.dashboard.local import LocalDashboard
    from dora.daemon.build.lockfile import Lock
    from dora.daemon.daemon import Daemon
    from dora.daemon.logs.entry import LogEntry
    from dora.daemon.logs.formats import LogFormat
    from dora.daemon.options import Engine, RunOptions
    from dora.daemon.supervisor.result import DataflowResult
    from dora.dataflow.model import LogLevel


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
    from dora.daemon.logs.filters import LogFilter, parse_level
    from dora.daemon.logs.formats import LOG_FORMATS
    from dora.daemon.report import failure_report, loss_report

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
    from dora.daemon.build.build import BuildOptions

    del coordinator_addr, coordinator_port, force_local
    options = BuildOptions(uv=bool(uv), update=True)
    build_only(os.fspath(dataflow_path), options, stream=sys.stdout, on_warning=_warn)


def _warn(text: str) -> None:
    from dora.daemon.logs.console import write_text

    write_text(sys.stderr, f"{text}\n")


# Dataflow files from the web: ``dora run https://…/dataflow.yml``.

TIMEOUT = 30.0  # seconds without any byte
MAX_SIZE = 16 << 20  # bytes


def is_url(path: str) -> bool:
    """Tell whether a path names a dataflow file on the web."""
    return path.lower().startswith(("http://", "https://"))


def fetch(url: str) -> str:
    """Download the text of a dataflow file; raises `DataflowError` with the reason."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            data: bytes = response.read(MAX_SIZE + 1)
    except HTTPError as error:
        raise DataflowError(f"cannot download {url}: the server says {error.code} {error.reason}") from None
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise DataflowError(f"cannot download {url}: {reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise DataflowError(f"cannot download {url}: {error}") from None
    if len(data) > MAX_SIZE:
        raise DataflowError(f"{url} is larger than {MAX_SIZE >> 20} MiB: this is no dataflow file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataflowError(f"{url} is not a text in UTF-8: this is no dataflow file") from None


# What `dora run` and `dora.run` do: load, check, build, run to the end, report.
#
# No click in here: the command line and the Python functions both come through this module.


class Display(msgspec.Struct, frozen=True):
    """How log entries are shown."""

    format: LogFormat = "pretty"
    filter: LogFilter = LogFilter()


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be asked of a run. None: what the dataflow file or the default says."""

    path: str  # of the YAML, or its URL
    uv: bool = False
    stop_after: float | None = None  # seconds
    grace: float | None = None  # seconds from STOP to SIGTERM
    env: Mapping[str, str] = {}
    exit_when_nodes_finish: bool | None = None
    debug: bool = False
    allow_shell_nodes: bool = False
    engine: Engine | None = None
    strict_outputs: bool = False
    hot_reload: bool = False
    trace: bool = False
    tap_queue: int = 0  # messages of an output that wait for a recorder
    noted: bool = True  # what is built for it is noted in the session of the dataflow
    lock: Lock | None = None


def load_dataflow(
    path: str, env: Mapping[str, str] | None = None, *, strict_types: bool = False
) -> Dataflow:
    """Load a dataflow from a file or a URL; raises `DataflowError` with all problems.

    Nodes of a dataflow from the web are looked for in the current directory. ``strict_types``: types
    that do not fit together are errors.
    """
    _check_place()
    if is_url(path):
        from dora.dataflow import parse

        return parse(
            fetch(path),
            file=path,
            working_dir=os.getcwd(),
            environ=os.environ,
            env_overrides=env or {},
            strict_types=strict_types,
        )
    return load(path, env_overrides=env or {}, strict_types=strict_types)


def _check_place() -> None:
    """Raise if dora-rs was unpacked over this dora: nodes would import that."""
    import dora

    if dora.__version__ != __version__:
        from dora.daemon.build.shadowing import mend

        raise DoraError(
            f"dora-rs {dora.__version__} is installed over this dora, so nodes would use that; mend it with"
            f"\n  {mend()}"
        )


def load_for_run(request: RunRequest, *, here: bool = True) -> Dataflow:
    """Load the dataflow of a request and check that what its nodes run is there.

    Unless it is to run ``here``, commands are left to the process that will start them: its ``PATH`` may be
    another one.
    """
    from dora.dataflow import missing_files

    dataflow = load_dataflow(request.path, request.env)
    changes: dict[str, Any] = {}
    if request.exit_when_nodes_finish is not None:
        changes["exit_when_nodes_finish"] = request.exit_when_nodes_finish
    if request.debug:
        changes["debug"] = True
    dataflow = msgspec.structs.replace(dataflow, **changes)
    if problems := missing(dataflow, uv=request.uv) if here else missing_files(dataflow):
        raise DataflowError(problems=tuple(problems))
    return dataflow


def check_one_machine(dataflow: Dataflow) -> None:
    """Raise `DoraError` if a node has a `deploy`: what has no coordinator knows no other machines."""
    for node in dataflow.nodes:
        if node.deploy != HERE:
            where = f" ({node.place})" if node.place else ""
            raise DoraError(
                f"node `{node.id}` has a `deploy`{where}, and only a coordinator knows machines; start it "
                "with `dora up` and `dora start`"
            )


def open_console(
    dataflow: Dataflow,
    display: Display,
    stream: TextIO,
    dataflow_id: str | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Console:
    """Return the place where the log entries of a dataflow are shown.

    ``on_warning`` is told when ``stream`` takes no more; the dataflow goes on.
    """

    def broken(error: Exception) -> None:
        if on_warning is not None:
            gone = isinstance(error, (BrokenPipeError, ValueError))
            what = "was closed" if gone else f"takes no more ({getattr(error, 'strerror', error)})"
            on_warning(
                f"warning: standard output {what}; the dataflow goes on without showing its logs, "
                "Ctrl-C stops it"
            )

    render = _renderer(dataflow, display, stream, dataflow_id)
    return Console(stream, render, display.filter, on_broken=broken)


def _renderer(
    dataflow: Dataflow,
    display: Display,
    stream: TextIO,
    dataflow_id: str | None,
    build_id: str | None = None,
) -> Renderer:
    return renderer(
        display.format,
        colour=wants_colour(stream.isatty(), os.environ),
        nodes=[node.id for node in dataflow.nodes],
        dataflow_id=dataflow_id,
        build_id=build_id,
    )


def _unshown(count: int, directory: str | None = None) -> str:
    what = "1 log entry was" if count == 1 else f"{count} log entries were"
    where = f"; they are in {shorter_path(directory)}" if directory else ""
    return f"warning: {what} not shown, because the terminal was too slow{where}"


def run_to_end(
    request: RunRequest,
    display: Display,
    *,
    stream: TextIO,
    on_log: Callable[[LogEntry], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    on_dashboard: Callable[[str], None] | None = None,
) -> RunOutcome:
    """Load, build and run a dataflow; return how it went.

    Log entries go to ``stream`` as ``display`` says, and each one to ``on_log`` (on the daemon's
    thread, unfiltered). With ``on_dashboard``, which is told the address, browsers can look at it. Raises
    `DataflowError` and `BuildError`; failed nodes are in the result.
    """
    dataflow = load_for_run(request)
    check_one_machine(dataflow)
    return run_loaded(
        dataflow,
        request,
        display,
        stream=stream,
        on_log=on_log,
        on_warning=on_warning,
        on_dashboard=on_dashboard,
    )


def run_loaded(
    dataflow: Dataflow,
    request: RunRequest,
    display: Display,
    *,
    stream: TextIO,
    on_log: Callable[[LogEntry], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    on_daemon: Callable[[Daemon], None] | None = None,
    on_dashboard: Callable[[str], None] | None = None,
) -> RunOutcome:
    """Build and run a dataflow as `run_to_end` does; ``on_daemon`` gets its daemon before it starts."""
    from dora.observe.telemetry.run import run_observed
    from dora.wire.ids import uuid7

    if on_warning is not None:
        for warning in (*dataflow.warnings, *dataflow.type_warnings):
            on_warning(str(warning))
        ids = [node.id for node in dataflow.nodes]
        for name in display.filter.nodes:
            if name not in ids:
                on_warning(f"warning: the log filter names `{name}`: {no_node(name, ids)}")
    dataflow_id = uuid7()
    console = open_console(dataflow, display, stream, dataflow_id, on_warning)

    files_only = False  # what builds print is in no file

    def show(entry: LogEntry) -> None:
        if not (files_only and is_of_node(entry)):
            console(entry)
        if on_log is not None:
            on_log(entry)

    dashboard = None
    try:
        if on_dashboard is not None:
            dashboard = open_dashboard(dataflow, dataflow_id)
            on_dashboard(dashboard.address)
        dataflow = _build(dataflow, show, BuildOptions(uv=request.uv), request.lock).dataflow
        check_programs(dataflow, uv=request.uv)
        files_only = nodes_are_quiet(os.environ)
        if request.noted:
            build_id = note_build(dataflow, show, uv=request.uv)
            console.render_by(_renderer(dataflow, display, stream, dataflow_id, build_id))
        result = run_observed(dataflow, _options(request), show, dataflow_id, on_daemon)
    finally:
        console.close()
        if dashboard is not None:
            dashboard.close()
    directory = os.path.join(dataflow.working_dir, "out", result.dataflow_id)
    outcome = RunOutcome(result, directory if os.path.isdir(directory) else None)
    if console.not_shown and on_warning is not None:
        on_warning(_unshown(console.not_shown, outcome.log_directory))
    return outcome


def open_dashboard(dataflow: Dataflow, dataflow_id: str) -> LocalDashboard:
    """Serve the dashboard of a dataflow that is about to run."""
    from dora.cluster.dashboard.local import LocalDashboard, LocalRun

    dashboard = LocalDashboard()
    name = dataflow.file_stem
    directory = os.path.join(dataflow.working_dir, "out", dataflow_id)
    nodes = [node.id for node in dataflow.nodes]
    created = time.time()
    dashboard.start(LocalRun(dataflow_id, name, dataflow.file, directory, nodes, created, dashboard.ticket))
    return dashboard


def _options(request: RunRequest) -> RunOptions:
    from dora.daemon.run import RunOptions

    _check_spin(os.environ.get("DORA_SPIN_US", ""))
    options = RunOptions(
        stop_after=request.stop_after,
        uv=request.uv,
        allow_shell_nodes=request.allow_shell_nodes,
        engine=request.engine,
        strict_outputs=request.strict_outputs,
        hot_reload=request.hot_reload,
        traced=request.trace,
        tap_queue=request.tap_queue,
    )
    return options if request.grace is None else replace(options, grace=request.grace)


def _check_spin(text: str) -> None:
    """Raise for a ``DORA_SPIN_US`` that every node would fail of."""
    try:
        fits = not text or -1e9 <= float(text) <= 1e9
    except ValueError:
        fits = False
    if not fits:
        raise DoraError(f"DORA_SPIN_US is `{text[:60]}`; it has to be a number of microseconds")


def _build(
    dataflow: Dataflow, on_log: Callable[[LogEntry], None], options: BuildOptions, lock: Lock | None
) -> Built:
    if lock is None:
        return build_programs(dataflow, on_log, options)
    from dora.daemon.build.lockfile import build_locked

    return build_locked(dataflow, on_log, options, lock)


def build_only(
    path: str,
    options: BuildOptions,
    *,
    stream: TextIO,
    lock: Lock | None = None,
    strict_types: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> Built:
    """Load a dataflow and build it; return what was done.

    Raises `DataflowError` and `BuildError`. Missing files of nodes are no error: a build may make them.
    """
    dataflow = load_dataflow(path, strict_types=strict_types)
    if on_warning is not None:
        for warning in (*dataflow.warnings, *dataflow.type_warnings):
            on_warning(str(warning))
    console = open_console(dataflow, Display(), stream)
    try:
        built = _build(dataflow, console, options, lock)
        note_build(built.dataflow, console, uv=options.uv)
        return built
    finally:
        console.close()
        if console.not_shown and on_warning is not None:
            on_warning(_unshown(console.not_shown))
