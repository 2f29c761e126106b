"""Build and run a dataflow: what `dora run`, `dora.run` and the worker of a coordinator share.

Every run comes through here, so this module imports next to nothing. Tracing and telemetry are loaded only
if the options or the environment ask for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

import msgspec

from dora.daemon.build.build import Built, build
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import BuildOptions, LocalRunOptions, check_spin_from_environment
from dora.daemon.run import run_dataflow
from dora.dataflow.model import Dataflow
from dora.wire.node_config import TraceConfig

if TYPE_CHECKING:
    from dora.daemon.build.lockfile import Lock
    from dora.daemon.daemon import Daemon
    from dora.daemon.supervisor.result import DataflowResult
    from dora.daemon.work import BuildProgress
    from dora.observe.telemetry.settings import TelemetrySettings

OnLog = Callable[[LogEntry], None]
OnDaemon = Callable[["Daemon"], None]


def build_and_run(
    dataflow: Dataflow,
    options: LocalRunOptions,
    on_log: OnLog,
    dataflow_id: str,
    *,
    nodes: Container[str] | None = None,
    lock: Lock | None = None,
    session: bool = True,
    on_build: Callable[[BuildProgress], None] | None = None,
    on_built: Callable[[Built], None] = lambda _: None,
    on_daemon: OnDaemon | None = None,
) -> DataflowResult:
    """Build a dataflow, run it to its end, and return the result.

    ``nodes``, ``lock``, ``session`` and ``on_build`` are as in `build`, ``on_daemon`` is as in
    `run_dataflow`. ``on_log`` gets the entries of both; ``on_built`` is called in between.

    With ``options.trace`` its nodes write spans; with ``DORA_OTLP_ENDPOINT`` and the like they do too, and
    traces, metrics and logs are sent to a collector. Raises `DataflowError`, `BuildError`, and `DoraError`
    if the run or the export cannot begin; failed nodes are in the result.
    """
    check_spin_from_environment()
    built = build(
        dataflow,
        on_log,
        BuildOptions(uv=options.uv),
        nodes=nodes,
        lock=lock,
        session=session,
        on_build=on_build,
    )
    on_built(built)
    dataflow = built.dataflow
    exports = any(
        name.startswith(("DORA_OTLP_", "DORA_JAEGER_", "OTEL_EXPORTER_OTLP_")) for name in os.environ
    )
    if not (options.trace or exports):
        return run_dataflow(dataflow, options, on_log, dataflow_id, on_daemon)
    from dora.observe.telemetry.settings import ratio_from, settings_from

    name = options.name or dataflow.file_stem
    config = TraceConfig(f"{dataflow.working_dir}/out/{dataflow_id}", name, ratio_from(os.environ))
    settings = settings_from(os.environ)
    if settings is not None:
        return _run_exported(dataflow, options, on_log, dataflow_id, on_daemon, settings, config)
    if options.trace:
        options = msgspec.structs.replace(options, trace_config=config)
    return run_dataflow(dataflow, options, on_log, dataflow_id, on_daemon)


def _run_exported(
    dataflow: Dataflow,
    options: LocalRunOptions,
    on_log: OnLog,
    dataflow_id: str,
    on_daemon: OnDaemon | None,
    settings: TelemetrySettings,
    config: TraceConfig,
) -> DataflowResult:
    from dora.observe.telemetry.export import Exporter, missing_package

    daemon: Daemon | None = None

    def warn(text: str) -> None:
        if (running := daemon) is not None:
            running.loop.call_threadsafe(lambda: running.run_log.warn(text))
        else:
            on_log(LogEntry(time.time_ns(), "warn", None, text, "daemon"))

    def attach(started: Daemon) -> None:
        nonlocal daemon
        daemon = started
        if missing:
            started.loop.call_threadsafe(lambda: started.run_log.warn(missing))
        if on_daemon is not None:
            on_daemon(started)

    missing = missing_package(settings)
    if options.trace or ("traces" in settings.signals and not missing):
        options = msgspec.structs.replace(options, trace_config=config)
    if missing:
        return run_dataflow(dataflow, options, on_log, dataflow_id, attach)
    exporter = Exporter(settings, config.dataflow, dataflow_id, config.directory, os.environ, warn)

    def log_and_export(entry: LogEntry) -> None:
        on_log(entry)
        exporter.log(entry)

    try:
        return run_dataflow(dataflow, options, log_and_export, dataflow_id, attach)
    finally:
        daemon = None  # its loop has ended: warnings from now on go to `on_log`
        exporter.close()
