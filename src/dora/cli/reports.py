"""Reports of commands about a dataflow or a recording that has ended; most return an exit status."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from dora.cli.progress_bar import Mode, reading
from dora.cli.tables import counted
from dora.daemon.report import (
    RunOutcome,
    black_box_report,
    failure_report,
    last_line,
    loss_report,
    network_report,
    shorter_path,
    shown_file,
)
from dora.dataflow.problems import listed

if TYPE_CHECKING:
    from dora.cli.run_reporter import RunReporter
    from dora.cluster.http_api import DataflowView
    from dora.daemon.supervisor.result import DataflowResult, NodeFailure
    from dora.recording.mcap.recording import Recording
    from dora.recording.recorder.options import Saved


def report_outcome(outcome: RunOutcome, reporter: RunReporter) -> int:
    """Print the losses and failures of a dataflow that ran in this process; return the exit status."""
    directory = shorter_path(outcome.log_directory) if outcome.log_directory else None
    _report(outcome.result, directory, outcome.name, reporter.was_shown, reporter.end_line(outcome))
    return 0 if outcome.result.ok else 1


def _report(
    result: DataflowResult,
    directory: str | None,
    name: str,
    was_shown: Callable[[NodeFailure], bool] = lambda _: False,
    end: str = "",
) -> None:
    """Print losses, failures, ``end`` (a line about the end), and last what went wrong in one line."""
    failures = failure_report(result, directory, name, was_shown=was_shown)
    files = "" if failures else black_box_report(result)  # of failures, the report names them
    last = "\n".join(filter(None, [end, last_line(result, name)]))
    for text in filter(None, [network_report(result), loss_report(result), failures, files, last]):
        click.echo(f"\n{text}", err=True)


def failure_reason(view: DataflowView) -> str:
    """Return one sentence that says why a dataflow failed; "" if it did not."""
    if view.status != "Failed":
        return ""
    return f"dataflow {view.name} ({view.uuid}) failed: {view.reason}"


def report_end(view: DataflowView, reporter: RunReporter | None = None) -> int:
    """Print the losses and failures of a dataflow of the coordinator; return the exit status.

    ``reporter``: the one that has shown its logs.
    """
    directory = view.log_directory if os.path.isdir(view.log_directory) else None
    name = shown_file(view.file or "") or view.name
    if view.result is not None and reporter is not None:
        report_outcome(RunOutcome(name, view.result, directory), reporter)
    elif view.result is not None:
        _report(view.result, directory, name)
    elif view.status == "Failed":
        click.echo(f"\n{name} failed: {view.reason}", err=True)
        if directory is not None:
            click.echo(f"\nLogs: {directory}", err=True)
    return 1 if view.status == "Failed" else 0


def report_saved(saved: Saved | None, error: str = "") -> int:
    """Print the result of a recorder; return the exit status.

    ``saved`` is None if it gave no result, because of ``error``, or because it was killed.
    """
    if saved is None:
        killed = "the recorder was killed; what it has written can be read"
        click.echo(f"error: {error or killed}", err=True)
        return 1
    for line in describe_saved(saved):
        click.echo(line, err=True)
    return 0 if saved.complete else 1


def describe_saved(saved: Saved) -> list[str]:
    """Return the lines that describe a recording that was written.

    >>> from dora.recording.recorder.options import Saved
    >>> describe_saved(Saved(path="a.mcap", size=2048, complete=True))
    ['recorded no messages (2.0 kB) to a.mcap']
    """
    from dora.observe.formatting import file_size

    count = saved.messages
    what = counted(count, "message") if count else "no messages"
    topics = sum(1 for topic in saved.topics.values() if topic.messages)
    of = f" of {topics} outputs" if topics > 1 else ""
    lines = [f"recorded {what}{of} ({file_size(saved.size)}) to {saved.path}"]
    if saved.problem:
        lines.append(f"error: {saved.problem}")
    if not saved.complete:
        lost = [f"{topic.lost:,} of {name}" for name, topic in saved.topics.items() if topic.lost]
        lines.append(f"INCOMPLETE: messages are missing: {listed(lost)}" if lost else "INCOMPLETE")
    return lines


def warn_of_trouble(recording: Recording) -> None:
    """Warn if a recording is not complete."""
    from dora.recording.mcap.info import trouble

    if text := trouble(recording):
        click.echo(f"warning: {recording.path}: {text}", err=True)


def warn_about_losses(recording: Recording) -> None:
    """Warn if messages are missing in a recording that is not damaged."""
    if not recording.damage:
        warn_of_trouble(recording)


def report_truncation(path: str, cut: str, allowed: bool) -> int:
    """Print where reading a recording stopped (``cut`` "": at its end); return the exit status."""
    if not cut:
        return 0
    hint = "" if allowed else "; --allow-incomplete accepts that"
    click.echo(f"{'warning' if allowed else 'error'}: {path}: {cut}{hint}", err=True)
    return 0 if allowed else 1


def write_bag(
    recording: Recording, folder: str, topics: list[str] | None, mode: Mode, *, force: bool
) -> None:
    """Write a recording as a bag of ROS 2, and print what is in it. Raises as `export_ros2` does."""
    from dora.recording.export_ros2 import export_ros2

    with reading(mode, "writing a bag", recording):
        exported = export_ros2(recording, folder, topics, force=force)
    click.echo(f"{folder}: {counted(exported.messages, 'message')}")
    for topic, count in sorted(exported.left_out.items()):
        click.echo(f"left out: {counted(count, 'message')} of {topic}, which are none of ROS", err=True)
