"""``dora record``: record the messages of a dataflow that it runs, or of a running one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from dora.cli.argument_values import NAMES
from dora.cli.command_run import CommandRun, command_run_options, given_options
from dora.cli.compat import ignored_option, refused_option
from dora.cli.completion import dataflow_files
from dora.cli.options import DEFAULT_FILE, DURATION, chosen_file
from dora.cli.progress_bar import progress_mode
from dora.cli.reports import describe_saved, report_outcome, report_saved, write_bag
from dora.cli.run_options import RunCommand
from dora.cli.run_reporter import reporter_for
from dora.cli.running_options import running_dataflows
from dora.cli.select import NoRunningDataflow, find_run
from dora.cli.tables import counted
from dora.daemon.signals import SignalEchoes
from dora.dataflow.problems import listed
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon
    from dora.dataflow.model import Dataflow
    from dora.recording.recorder.options import RecordingOptions, Saved
    from dora.recording.recorder.recorder import Recorder


_ABORTED = 130  # exit status
_SWITCH_INTERVAL = 0.0005  # seconds; the receiving thread must not wait long for the writing one


@click.command(cls=RunCommand)
@click.argument("path", metavar="[FILE]", required=False, shell_complete=dataflow_files)
@click.option(
    "-d",
    "--dataflow",
    "--name",
    metavar="ID_OR_NAME",
    shell_complete=running_dataflows,
    help="Record a running dataflow: its UUID, the beginning of it, its name, its file or one of its "
    "nodes. Not needed if only one is running.",
)
@click.option(
    "-o", "--output", metavar="RECORDING", help="The file to write [recording_<date>-<time>.mcap]."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--topics", type=NAMES, metavar="NODE/OUTPUT,...", help="Record only these outputs [all].")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "lz4", "none"]),
    default="zstd",
    help="Compression of the file, as far as time permits [zstd].",
)
@click.option(
    "--last",
    type=DURATION,
    metavar="DURATION",
    help="Keep this much in memory; write it when a node fails, at Enter, at SIGUSR1, or with --save.",
)
@click.option(
    "--ros2",
    metavar="FOLDER",
    help="Write a bag of ROS 2 as well, when the recording has ended (needs the extra `ros2`).",
)
@click.option("--save", is_flag=True, help="Make the recording with --last write its file now.")
@click.option("--stop", is_flag=True, help="Stop the recordings of a dataflow; the dataflow continues.")
@click.option(
    "--queue-size",
    type=click.IntRange(min=1, max=4096),
    metavar="N",
    help="With FILE: messages per output that may wait for the recorder in shared memory [256].",
)
@command_run_options()
@ignored_option("--proxy", is_flag=True, why="recording a running dataflow needs no proxy")
@refused_option(
    "--output-yaml", instead="recording adds no node to the dataflow; use `dora record FILE`", is_flag=True
)
@click.pass_context
def record(
    context: click.Context,
    path: str | None,
    dataflow: str | None,
    output: str | None,
    force: bool,
    topics: list[str] | None,
    compression: Any,
    last: float | None,
    ros2: str | None,
    save: bool,
    stop: bool,
    queue_size: int | None,
    command_run: CommandRun,
) -> int:
    """Record the messages of a dataflow into an MCAP file.

    With FILE, runs this dataflow file like `dora run`, with its options, and records from the first message
    on. Without FILE, records a running dataflow until it ends or until Ctrl-C; its nodes are not disturbed.
    If none is running, FILE is dataflow.yml. A second Ctrl-C does not wait until everything is written, and
    the exit status is 130. The exit status is 1 if messages are missing, or if a node of FILE failed.
    """
    if path is not None and dataflow is not None:
        raise click.UsageError("give either a dataflow file to run, or -d for a running dataflow")
    if path is not None and (save or stop):
        raise click.UsageError("--save and --stop are for a running dataflow; leave the file out")
    if save or stop:
        return _control_recorders(dataflow, save=save)
    if ros2 is not None:
        _check_bag(ros2, force=force, last=last)
    from dora.recording.recorder.options import QUEUE_SIZE, RecordingOptions

    settings = RecordingOptions(
        path=_writable(output, force) if output else "",
        topics=topics or [],
        compression=compression,
        force=force,
        last_seconds=last,
    )
    if path is None:
        try:
            status, saved = _record_running(dataflow, settings, given_options(context))
        except NoRunningDataflow:
            if dataflow is not None or not os.path.exists(DEFAULT_FILE):
                raise
        else:
            return _write_bag(saved, ros2, command_run, force) or status
        _print(f"no dataflow is running, so this runs {DEFAULT_FILE}")
    path = chosen_file(path)
    from dora.daemon.load_dataflow import load_for_run

    dataflow_to_run = load_for_run(path, command_run.options)
    status, saved = _record_run(dataflow_to_run, command_run, settings, queue_size or QUEUE_SIZE)
    return _write_bag(saved, ros2, command_run, force) or status


def _check_bag(folder: str, *, force: bool, last: float | None) -> None:
    """Raise before anything is started if the bag cannot be written."""
    if last is not None:
        raise click.UsageError(
            "--ros2 writes a bag of a whole recording; with --last, use `dora export --ros2` for each file"
        )
    from dora.recording.export_ros2 import check_bag

    check_bag(folder, force=force)


def _write_bag(saved: Saved | None, folder: str | None, command_run: CommandRun, force: bool) -> int:
    """Write the bag that was asked for; return the exit status. A recorder that was killed makes none."""
    if folder is None or saved is None:
        return 0
    from dora.recording.opening import open_recording

    with open_recording(saved.path) as recording:
        write_bag(recording, folder, None, progress_mode(command_run.progress), force=force)
    return 0


def _writable(path: str, force: bool) -> str:
    """Raise `DoraError` for a file that cannot be written, before anything is built or started."""
    if os.path.isdir(path):
        raise DoraError(f"{path} is a folder; give a file, such as {os.path.join(path, 'recording.mcap')}")
    if os.path.lexists(path) and not force:
        raise DoraError(f"{path} exists already; choose another file, or overwrite it with --force")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise DoraError(f"the folder {folder} does not exist")
    return path


def _record_run(
    dataflow: Dataflow, command_run: CommandRun, settings: RecordingOptions, queue_size: int
) -> tuple[int, Saved | None]:
    """Run and record a dataflow; return the exit status, and what was recorded, if it is one file."""
    from dora.recording.recorder.process import BackgroundRecorder

    reporter = reporter_for(command_run.progress)
    recorder = BackgroundRecorder()  # imports its modules while the dataflow is built

    def begin(daemon: Daemon) -> None:
        recorder.begin_with(daemon, settings, reporter.say)
        reporter.watch(daemon)

    try:
        outcome = command_run.run(dataflow, reporter, on_daemon=begin, tap_queue=queue_size)
        result = recorder.wait()
    except BaseException:
        recorder.abandon()
        raise
    status = report_outcome(outcome, reporter)
    for saved in recorder.saved:  # of a ring
        status = report_saved(saved) or status
    if settings.last_seconds is None or recorder.problem:
        status = report_saved(result, recorder.error) or status
    return status, result


def _record_running(
    dataflow: str | None, settings: RecordingOptions, refused: list[str]
) -> tuple[int, Saved | None]:
    """Record a running dataflow; return as `_record_run` does.

    ``refused``: options that the command line gives for one to run.
    """
    from dora.daemon.client import name_of
    from dora.recording.recorder.recorder import Recorder

    saved: list[Saved] = []

    def on_saved(item: Saved) -> None:
        saved.append(item)
        _print(*describe_saved(item))

    with find_run(dataflow) as run:
        if refused:
            raise click.UsageError(
                f"{listed(refused)} {'is' if len(refused) == 1 else 'are'} for a dataflow that this "
                f"command runs, but {name_of(run.description)} is running already; "
                "to run another one, give its file"
            )
        _ignore_suspend()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        recorder = Recorder(run, settings, on_saved)
        _handle_input(recorder)
        status = recorder.status()
        name = name_of(run.description)
        count = counted(len(status.topics), "output")
        if settings.last_seconds is None:
            _print(f"recording {count} of {name} to {os.path.relpath(status.path)}; Ctrl-C ends it")
        else:
            kept = f"the last {settings.last_seconds:g} s of {count} of {name}"
            _print(f"keeping {kept}; Enter writes them to a file, Ctrl-C ends it")
        result = recorder.run()
        if run.ended is not None:
            _print("the dataflow has ended")
    if settings.last_seconds is None:
        return report_saved(result), result
    return (0 if all(item.complete for item in saved) else 1), None


def _handle_input(recorder: Recorder) -> None:
    """Connect signals and Enter to the recorder."""
    stopping = False
    echoes = SignalEchoes()

    def stop(number: int, _: object) -> None:
        nonlocal stopping
        if echoes.is_echo(number):
            return
        if stopping:  # most likely the disk does not accept the rest
            # Not `print`, which the signal may have interrupted.
            os.write(2, b"\naborted; the recording can be read up to here\n")
            os._exit(_ABORTED)
        stopping = True
        recorder.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, lambda *_: recorder.save())

    def wait_for_enter() -> None:
        for _ in sys.stdin:
            recorder.save()

    if sys.stdin.isatty():
        threading.Thread(target=wait_for_enter, daemon=True).start()


def _ignore_suspend() -> None:
    """Ignore Ctrl-Z: a suspended recorder would keep shared memory of the dataflow occupied."""
    if hasattr(signal, "SIGTSTP"):
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)


def _control_recorders(dataflow: str | None, *, save: bool) -> int:
    from dora.daemon.client import name_of
    from dora.observe.tap_session import inspect
    from dora.recording.recorder.control import ask, statuses

    with find_run(dataflow) as run:
        run_dir, name = inspect(run).run_dir, name_of(run.description)
    found = [status for status in statuses(run_dir) if status.last_seconds is not None or not save]
    if not found:
        raise DoraError(
            f"no recording with --last of {name}; start one with `dora record --last 30s`"
            if save
            else f"{name} is not being recorded"
        )
    lost = 0
    for status in found:
        answer = ask(run_dir, status.pid, "save" if save else "stop")
        lost += answer.lost
        if answer.path:
            _print(f"recorded {answer.messages:,} messages to {os.path.relpath(answer.path)}")
        if answer.lost:
            _print(f"INCOMPLETE: {answer.lost:,} messages are missing")
    return 1 if lost else 0


def _print(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)
