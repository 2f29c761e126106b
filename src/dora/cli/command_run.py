"""Run a dataflow in the process of a command: what `dora run`, `record` and `replay` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click
import msgspec

from dora._paths import SOCKET_NAME
from dora.cli.options import all_of, display_options
from dora.cli.process import termination_as_interrupt
from dora.cli.progress_bar import progress_option
from dora.cli.run_options import run_options
from dora.daemon.logs.entry import LogFilter
from dora.daemon.logs.formats import LogFormat
from dora.daemon.options import ForegroundRunOptions, LocalRunOptions
from dora.daemon.processes.ending import end_by_stdin
from dora.dataflow.model import LogLevel

if TYPE_CHECKING:
    from dora.cli.run_reporter import RunReporter
    from dora.daemon.build.lockfile import Lock
    from dora.daemon.daemon import Daemon
    from dora.daemon.report import RunOutcome
    from dora.dataflow.model import Dataflow

_FOXGLOVE_END_TIMEOUT: Final = 10.0  # seconds; its last messages are shown in less

_Function = TypeVar("_Function", bound=Callable[..., Any])


class CommandRun(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run, and how the command shows it."""

    options: ForegroundRunOptions
    log_level: LogLevel
    log_format: LogFormat
    log_filter: dict[str, LogLevel] | None
    ui: bool
    open_page: bool
    foxglove: bool
    progress: str

    def run_file(
        self,
        path: str,
        lock: Lock | None = None,
        *,
        on_daemon: Callable[[Daemon], None] | None = None,
        publish: Callable[[str], str] | None = None,
        host: str = "",
    ) -> int:
        """Load, build and run a dataflow file or its URL; return the exit status.

        ``on_daemon`` gets the daemon before it starts, ``publish`` as for `run`. ``host``: how the user,
        who is elsewhere, calls this machine.
        """
        from dora.cli.reports import report_outcome
        from dora.cli.run_reporter import reporter_for
        from dora.daemon.load_dataflow import load_for_run

        dataflow = load_for_run(path, self.options)
        reporter = reporter_for(self.progress)

        def watch(daemon: Daemon) -> None:
            reporter.watch(daemon)
            if on_daemon is not None:
                on_daemon(daemon)

        outcome = self.run(dataflow, reporter, on_daemon=watch, lock=lock, publish=publish)
        if host and outcome.log_directory is not None:
            outcome = msgspec.structs.replace(outcome, log_directory=f"{host}:{outcome.log_directory}")
        return report_outcome(outcome, reporter)

    def run(
        self,
        dataflow: Dataflow,
        reporter: RunReporter,
        *,
        on_daemon: Callable[[Daemon], None],
        lock: Lock | None = None,
        session: bool = True,
        warn: bool = True,
        tap_queue: int = 0,
        publish: Callable[[str], str] | None = None,
    ) -> RunOutcome:
        """Build and run a loaded dataflow; return how it went.

        ``lock``, ``session`` and ``on_daemon`` as in `dora.api.run_loaded`, ``tap_queue`` as in
        `LocalRunOptions`. ``warn``: print warnings about the dataflow. ``publish`` gets the address of the
        page and returns the one at which the user reaches it.
        """
        from dora.api import run_loaded
        from dora.daemon.logs.display import Display

        def show_page(address: str) -> None:
            if publish is not None:
                address = publish(address)
            reporter.page = address
            _show_dashboard(address, self.open_page)

        def begin(daemon: Daemon) -> None:
            on_daemon(daemon)
            if show_in_foxglove is not None:
                show_in_foxglove(daemon.context.run_dir, daemon.run_log.directory)

        with ExitStack() as beside:
            show_in_foxglove = beside.enter_context(_foxglove()) if self.foxglove else None
            return run_loaded(
                dataflow,
                LocalRunOptions.of(self.options, tap_queue=tap_queue),
                Display(self.log_format, LogFilter(self.log_level, self.log_filter or {})),
                stream=sys.stdout,
                lock=lock,
                session=session,
                on_warning=(lambda text: click.echo(text, err=True)) if warn else None,
                on_daemon=begin,
                on_dashboard=show_page if self.ui or self.open_page else None,
                on_console=reporter.attach,
                on_build=reporter.watch_build,
            )


def command_run_options(**refused: str) -> Callable[[_Function], _Function]:
    """Declare the options of a run in the process of a command, which gets them as ``command_run``.

    ``refused`` as for `run_options`. SIGTERM ends the command as Ctrl-C does.
    """

    def declare(function: _Function) -> _Function:
        @wraps(function)
        def command(*args: Any, **values: Any) -> Any:
            fields = {name: values.pop(name) for name in CommandRun.__struct_fields__}
            with termination_as_interrupt():
                return function(*args, command_run=CommandRun(**fields), **values)

        declarations = all_of(run_options(ForegroundRunOptions, **refused), _how_to_show)
        return cast("_Function", declarations(command))

    return declare


page_options = all_of(
    click.option("--ui", is_flag=True, help="Serve the dashboard as a web page and print its address."),
    click.option("--open", "open_page", is_flag=True, help="Like --ui, and open the page in the browser."),
)
_how_to_show = all_of(
    display_options("--log-level"),
    page_options,
    click.option(
        "--foxglove", is_flag=True, help="Show the run in Foxglove, as `dora foxglove` does beside it."
    ),
    progress_option,
)


def given_options(context: click.Context) -> list[str]:
    """Return the options of `command_run_options` that the command line gives, as it spells them."""
    from click.core import ParameterSource

    names = {*ForegroundRunOptions.__struct_fields__, *CommandRun.__struct_fields__}
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]


@contextmanager
def _foxglove() -> Iterator[Callable[[str, str], None]]:
    """Give a function that shows a run in Foxglove, by its folder and the folder of its logs.

    It starts a process, which waits until the run answers; the dataflow does not wait for it. The process
    does not outlive this one, and the block ends when the last messages are shown. Raises `DoraError` if
    Foxglove cannot be served, before the dataflow is built.
    """
    import subprocess

    from dora.nodes.foxglove.address import check_address, default_address
    from dora.nodes.installed import check_installed

    check_installed("dora-foxglove")
    check_address(default_address())
    process: subprocess.Popen[bytes] | None = None

    def start(run_dir: str, log_directory: str) -> None:
        nonlocal process
        module = ("-P", "-m", "dora.nodes.foxglove.beside")
        process = subprocess.Popen(
            [sys.executable, *module, f"{run_dir}/{SOCKET_NAME}", log_directory],
            stdin=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C goes to the run only
        )

    try:
        yield start
    finally:
        if process is not None:
            end_by_stdin(process, _FOXGLOVE_END_TIMEOUT)


def _show_dashboard(address: str, open_page: bool) -> None:
    click.echo(f"The dashboard is at {address}", err=True)
    if open_page:
        open_in_browser(address)


def open_in_browser(address: str) -> None:
    """Open the page of a run in the browser; print a warning if there is none."""
    import webbrowser
    from pathlib import Path

    from dora.cluster.dashboard.page_file import write_page_file

    # Not the address itself: other users can read the command line of the browser.
    if not webbrowser.open(Path(write_page_file(address)).as_uri()):
        click.echo("warning: no browser found to open it", err=True)
