"""``dora run``: build and run one dataflow in the foreground."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dora.api import run_to_end
from dora.cli.dataflow_file import dataflow_argument
from dora.cli.options import (
    DURATION,
    RunCommand,
    dataflow_options,
    debug_option,
    display_options,
    engine_option,
    hot_reload_option,
    lock_of,
    lock_options,
    preload_option,
    shell_nodes_option,
    strict_outputs_option,
    trace_option,
    uv_option,
)
from dora.cli.process import termination_as_interrupt
from dora.cli.progress_bar import progress_option
from dora.cli.reports import report_outcome
from dora.cli.run_reporter import reporter_for
from dora.daemon.logs.display import Display
from dora.daemon.logs.entry import LogFilter
from dora.daemon.logs.formats import LogFormat
from dora.daemon.options import LocalRunOptions
from dora.dataflow.model import LogLevel

if TYPE_CHECKING:
    from dora.daemon.options import Engine


@click.command(cls=RunCommand)
@dataflow_argument
@uv_option
@click.option(
    "--stop-after",
    type=DURATION,
    metavar="DURATION",
    help="Stop this long after the build, like Ctrl-C (30, 10s, 1h30m).",
)
@click.option(
    "--grace-duration",
    type=DURATION,
    metavar="DURATION",
    help="Time for a stopped node to end before SIGTERM; SIGKILL follows after half of it [10s].",
)
@display_options("--log-level")
@dataflow_options
@shell_nodes_option
@debug_option
@engine_option
@strict_outputs_option
@hot_reload_option
@trace_option
@preload_option
@click.option("--ui", is_flag=True, help="Serve the dashboard as a web page and print its address.")
@click.option("--open", "open_page", is_flag=True, help="Like --ui, and open the page in the browser.")
@progress_option
@lock_options
def run(
    path: str,
    uv: bool,
    stop_after: float | None,
    grace_duration: float | None,
    log_level: LogLevel,
    log_format: LogFormat,
    log_filter: dict[str, LogLevel] | None,
    env: dict[str, str],
    exit_when_nodes_finish: bool | None,
    allow_shell_nodes: bool,
    engine: Engine | None,
    strict_outputs: bool,
    hot_reload: bool,
    trace: bool,
    preload: bool | None,
    ui: bool,
    open_page: bool,
    progress: str,
    locked: bool,
    write_lockfile: bool,
    lockfile: str,
) -> int:
    """Build and run a dataflow until it ends.

    FILE is a dataflow file or its URL [dataflow.yml]. Ctrl-C stops the dataflow, a second Ctrl-C kills it.
    The exit status is 1 if a node failed.
    """
    options = LocalRunOptions(
        uv=uv,
        stop_after=stop_after,
        grace=grace_duration,
        allow_shell_nodes=allow_shell_nodes,
        engine=engine,
        strict_outputs=strict_outputs,
        hot_reload=hot_reload,
        trace=trace,
        preload=preload,
    )
    display = Display(log_format, LogFilter(log_level, log_filter or {}))
    reporter = reporter_for(progress)

    def show_page(address: str) -> None:
        reporter.page = address
        _show_dashboard(address, open_page)

    with termination_as_interrupt():
        outcome = run_to_end(
            path,
            options,
            display,
            stream=sys.stdout,
            env=env,
            exit_when_nodes_finish=exit_when_nodes_finish,
            lock=lock_of(locked, write_lockfile, lockfile),
            on_warning=lambda text: click.echo(text, err=True),
            on_daemon=reporter.watch,
            on_dashboard=show_page if ui or open_page else None,
            on_console=reporter.attach,
            on_build=reporter.watch_build,
        )
    return report_outcome(outcome, reporter)


def _show_dashboard(address: str, open_page: bool) -> None:
    click.echo(f"The dashboard is at {address}", err=True)
    if open_page:
        import webbrowser
        from pathlib import Path

        from dora.cluster.dashboard.page_file import write_page_file

        # Not the address itself: other users can read the command line of the browser.
        if not webbrowser.open(Path(write_page_file(address)).as_uri()):
            click.echo("warning: no browser found to open it", err=True)
