"""``dora record``: record the messages of a dataflow, run together or running already."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from dora.cli.compat import refused_option
from dora.cli.completion import dataflow_files
from dora.cli.options import DURATION, RunCommand, dataflow_options, display_options
from dora.cli.reports import describe_saved, report_outcome, report_saved
from dora.cli.select import find_run
from dora.daemon.logs.filters import LogFilter
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.daemon.logs.display import Display
    from dora.daemon.logs.formats import LogFormat
    from dora.daemon.options import LocalRunOptions
    from dora.dataflow.model import Dataflow, LogLevel
    from dora.recording.recorder.options import RecordingOptions, Saved
    from dora.recording.recorder.recorder import Recorder


_LEFT = 130  # exit status
_SWITCH_INTERVAL = 0.0005  # seconds; the thread that takes messages must not wait long for the other


@click.command(cls=RunCommand)
@click.argument("path", metavar="[FILE]", required=False, shell_complete=dataflow_files)
@click.option(
    "-d",
    "--dataflow",
    "--name",
    metavar="ID_OR_NAME",
    help="Record a dataflow that is running: its UUID, the beginning of it, or its name. Not needed while "
    "only one runs.",
)
@click.option(
    "-o", "--output", metavar="RECORDING", help="The file to write [recording_<date>-<time>.mcap]."
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@click.option("--topics", metavar="NODE/OUTPUT,...", help="Record these outputs only [all].")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "lz4", "none"]),
    default="zstd",
    help="How the file is compressed, as long as there is time for it [zstd].",
)
@click.option(
    "--last",
    type=DURATION,
    metavar="DURATION",
    help="Keep so much in memory, and write it when a node fails, at Enter, or by --save.",
)
@click.option("--save", is_flag=True, help="Let the command that keeps the last seconds write them now.")
@click.option("--stop", is_flag=True, help="End the recordings of a dataflow; the dataflow goes on.")
@click.option(
    "--queue-size",
    type=click.IntRange(min=1, max=4096),
    metavar="N",
    help="With FILE: messages of an output that may wait for the recorder in shared memory [256].",
)
@click.option("--uv", is_flag=True, help="With FILE: build and run nodes with uv.")
@click.option(
    "--stop-after",
    type=DURATION,
    metavar="DURATION",
    help="With FILE: stop as Ctrl-C does after this time.",
)
@display_options
@dataflow_options
@click.option("--allow-shell-nodes", is_flag=True, help="With FILE: allow nodes with `path: shell`.")
@click.option("--proxy", is_flag=True, hidden=True, help="Of no effect: a running dataflow needs no proxy.")
@refused_option(
    "--output-yaml", instead="no node is added to what is recorded: use `dora record FILE`", is_flag=True
)
def record(
    path: str | None,
    dataflow: str | None,
    output: str | None,
    force: bool,
    topics: str | None,
    compression: Any,
    last: float | None,
    save: bool,
    stop: bool,
    queue_size: int | None,
    uv: bool,
    stop_after: float | None,
    log_level: LogLevel,
    log_format: LogFormat,
    log_filter: dict[str, LogLevel] | None,
    env: dict[str, str],
    exit_when_nodes_finish: bool | None,
    allow_shell_nodes: bool,
    proxy: bool,  # noqa: ARG001 - for those who know it
) -> int:
    """Record the messages of a dataflow into an MCAP file.

    With FILE, a dataflow file, the dataflow is run as `dora run` does, and everything is recorded from the
    first message on. Without, a running dataflow is recorded until it ends or until Ctrl-C. Nodes do not
    notice. The exit status is 1 if messages are missing, or if a node failed that was run.
    """
    if path is not None and dataflow is not None:
        raise click.UsageError("give either a dataflow file to run, or -d for one that is running")
    if path is not None and (save or stop):
        raise click.UsageError("--save and --stop are for a dataflow that is running; leave the file out")
    if save or stop:
        return _command(dataflow, save=save)
    from dora.recording.recorder.options import QUEUE_SIZE, RecordingOptions

    settings = RecordingOptions(
        path=_writable(output, force) if output else "",
        topics=[name.strip() for name in (topics or "").split(",") if name.strip()],
        compression=compression,
        force=force,
        last_seconds=last,
    )
    if path is None:
        return _attach(dataflow, settings)
    from dora.daemon.load import check_one_machine, load_for_run
    from dora.daemon.logs.display import Display
    from dora.daemon.options import LocalRunOptions

    dataflow_to_run = load_for_run(path, env, exit_when_nodes_finish=exit_when_nodes_finish, uv=uv)
    check_one_machine(dataflow_to_run)
    options = LocalRunOptions(
        uv=uv,
        stop_after=stop_after,
        allow_shell_nodes=allow_shell_nodes,
        tap_queue=queue_size or QUEUE_SIZE,
    )
    display = Display(log_format, LogFilter(log_level, log_filter or {}))
    return _run(dataflow_to_run, options, display, settings)


def _writable(path: str, force: bool) -> str:
    """Refuse early what will not be written, before anything is built or started."""
    if os.path.isdir(path):
        raise DoraError(f"{path} is a folder; give a file, such as {os.path.join(path, 'recording.mcap')}")
    if os.path.lexists(path) and not force:
        raise DoraError(f"{path} exists already; choose another file, or overwrite it with --force")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise DoraError(f"the folder {folder} does not exist")
    return path


# ------------------------------------------------------------------ together


def _run(dataflow: Dataflow, options: LocalRunOptions, display: Display, settings: RecordingOptions) -> int:
    from dora.api import run_loaded
    from dora.cli.process import termination_as_interrupt
    from dora.recording.recorder.process import BackgroundRecorder

    recorder = BackgroundRecorder()  # which imports what it needs while the dataflow is built
    try:
        with termination_as_interrupt():
            outcome = run_loaded(
                dataflow,
                options,
                display,
                stream=sys.stdout,
                on_warning=lambda text: click.echo(text, err=True),
                on_daemon=lambda daemon: recorder.begin_with(daemon, settings),
            )
        result = recorder.wait()
    except BaseException:
        recorder.abandon()
        raise
    status = report_outcome(outcome)
    if settings.last_seconds is None:
        return report_saved(result) or status
    for saved in recorder.saved:
        status = report_saved(saved) or status
    return status


# ------------------------------------------------------------------ attached


def _attach(dataflow: str | None, settings: RecordingOptions) -> int:
    from dora.daemon.client import name_of
    from dora.recording.recorder.recorder import Recorder

    saved: list[Saved] = []

    def on_saved(item: Saved) -> None:
        saved.append(item)
        _tell(*describe_saved(item))

    with find_run(dataflow) as run:
        _stay_awake()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        recorder = Recorder(run, settings, on_saved)
        _listen(recorder)
        status = recorder.status()
        name = name_of(run.description)
        count = "1 output" if len(status.topics) == 1 else f"{len(status.topics)} outputs"
        if settings.last_seconds is None:
            _tell(f"recording {count} of {name} to {os.path.relpath(status.path)}; Ctrl-C ends it")
        else:
            kept = f"the last {settings.last_seconds:g} s of {count} of {name}"
            _tell(f"keeping {kept}; Enter writes them to a file, Ctrl-C ends it")
        result = recorder.run()
        if run.ended is not None:
            _tell("the dataflow has ended")
    if settings.last_seconds is None:
        return report_saved(result)
    return 0 if all(item.complete for item in saved) else 1


def _listen(recorder: Recorder) -> None:
    """Let signals and Enter command the recorder."""
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        if asked:  # by a disk that does not take the rest, most likely
            os.write(2, b"\nleft; the recording can be read up to here\n")
            os._exit(_LEFT)
        asked = True
        recorder.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, lambda *_: recorder.save())

    def wait_for_enter() -> None:
        for _ in sys.stdin:
            recorder.save()

    if sys.stdin.isatty():
        threading.Thread(target=wait_for_enter, daemon=True).start()


def _stay_awake() -> None:
    """Ignore Ctrl-Z: what a stopped recorder does not take stays in the shared memory of the dataflow."""
    if hasattr(signal, "SIGTSTP"):
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)


# ------------------------------------------------------------------ other recorders


def _command(dataflow: str | None, *, save: bool) -> int:
    from dora.daemon.client import name_of
    from dora.observe.tap_session import inspect
    from dora.recording.recorder.control import ask, statuses

    with find_run(dataflow) as run:
        run_dir, name = inspect(run).run_dir, name_of(run.description)
    found = [status for status in statuses(run_dir) if status.last_seconds is not None or not save]
    if not found:
        raise DoraError(
            f"nobody keeps the last seconds of {name}; start with `dora record --last 30s`"
            if save
            else f"nobody records {name}"
        )
    lost = 0
    for status in found:
        answer = ask(run_dir, status.pid, "save" if save else "stop")
        lost += answer.lost
        if answer.path:
            _tell(f"recorded {answer.messages:,} messages to {os.path.relpath(answer.path)}")
        if answer.lost:
            _tell(f"INCOMPLETE: {answer.lost:,} messages are missing")
    return 1 if lost else 0


def _tell(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)
