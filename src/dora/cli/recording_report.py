"""What a command tells of a recording that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dora.cli.flow import shorter_path
from dora.cli.report import failure_report, loss_report
from dora.cli.tables import file_size
from dora.dataflow.report import listed

if TYPE_CHECKING:
    from dora.cli.flow import RunOutcome
    from dora.recording.settings import Saved


def tell_outcome(outcome: RunOutcome) -> int:
    """Tell on standard error what went wrong in a dataflow that has ended; return the exit status."""
    directory = shorter_path(outcome.log_directory) if outcome.log_directory else None
    for report in (loss_report(outcome.result), failure_report(outcome.result, directory)):
        if report:
            click.echo(f"\n{report}", err=True)
    return 0 if outcome.result.ok else 1


def tell_saved(saved: Saved | None) -> int:
    """Tell on standard error what came of a recording; return the exit status. None: it was killed."""
    if saved is None:
        click.echo("error: the recorder was killed; its file is readable up to there", err=True)
        return 1
    for line in describe(saved):
        click.echo(line, err=True)
    return 0 if saved.complete else 1


def describe(saved: Saved) -> list[str]:
    """Return the lines about one recording.

    >>> from dora.recording.settings import Saved
    >>> describe(Saved(path="a.mcap", size=2048, complete=True))
    ['recorded no messages (2.0 kB) to a.mcap']
    """
    count = saved.messages
    what = "no messages" if not count else "1 message" if count == 1 else f"{count:,} messages"
    topics = sum(1 for topic in saved.topics.values() if topic.messages)
    of = f" of {topics} outputs" if topics > 1 else ""
    lines = [f"recorded {what}{of} ({file_size(saved.size)}) to {saved.path}"]
    if saved.problem:
        lines.append(f"error: {saved.problem}")
    if not saved.complete:
        lost = [f"{topic.lost:,} of {name}" for name, topic in saved.topics.items() if topic.lost]
        lines.append(f"INCOMPLETE: messages are missing: {listed(lost)}" if lost else "INCOMPLETE")
    return lines
