"""``dora shrink``: find a small recording with which a node still fails, and write a test with it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from dora.cli.argument_values import InputFile
from dora.cli.completion import dataflow_files
from dora.cli.options import DURATION
from dora.cli.tables import counted
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.recording.alone.shrink import Reproduced, Small

_TRIES = 10
_SECONDS = 60.0
_FOLDER = "tests"


@click.command()
@click.argument("recording", metavar="RECORDING", type=InputFile())
@click.argument("node_id", metavar="NODE")
@click.option(
    "-o", "--output", "folder", metavar="DIR", default=_FOLDER, help=f"Folder of the test [{_FOLDER}]."
)
@click.option(
    "--expect",
    metavar="EXPRESSION",
    help="Shrink to a wrong output instead of a failure: what should be true of each message, for example "
    "'output.bbox[0] < 640'.",
)
@click.option(
    "--tries",
    type=click.IntRange(1, 1000),
    default=_TRIES,
    help=f"How often the node runs with all events before a failure counts as one that does not come again "
    f"[{_TRIES}].",
)
@click.option(
    "--time",
    "seconds",
    type=DURATION,
    default=_SECONDS,
    metavar="DURATION",
    help=f"How long to search; then the smallest recording so far is written [{_SECONDS:.0f}s].",
)
@click.option(
    "--dataflow",
    metavar="FILE",
    shell_complete=dataflow_files,
    help="Take the node from this dataflow file instead of the recorded dataflow.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing test.")
def shrink(
    recording: str,
    node_id: str,
    folder: str,
    expect: str | None,
    tries: int,
    seconds: float,
    dataflow: str | None,
    force: bool,
) -> int:
    """Make a test of a node's failure, from a recording.

    The node runs by itself, again and again, with ever fewer of its recorded events, as long as it fails
    in the same way: with the same exception, from the same line. Then values of arrays become 0 where that
    changes nothing. The rest becomes a small recording and a test for pytest of ten lines, which fails
    until the node is repaired.

    An expression of --expect has the numbers, texts, indices, comparisons and arithmetic of Python, `and`,
    `or`, `not`, the newest values of outputs as `output.NAME` or `output['NAME']`, `metadata`, and the
    functions abs, all, any, isfinite, isnan, len, max, min, round, sqrt and sum.
    """
    from dora.recording.alone.expectation import Expectation
    from dora.recording.alone.shrink import changed_sources, reproduce, shrink
    from dora.recording.alone.write import files_for, write_test
    from dora.recording.mcap.info import trouble
    from dora.recording.opening import open_recording

    began = time.monotonic()
    expectation = None if expect is None else Expectation(expect)
    with open_recording(recording) as opened:
        if text := trouble(opened):
            click.echo(f"warning: {recording}: {text}", err=True)
        found = reproduce(opened, node_id, file=dataflow, expectation=expectation, attempts=tries)
        verb = "fails" if expectation is None else "sends something wrong"
        click.echo(f"{node_id} {verb} at event {found.report.step:,}: {found.failure}", err=True)
        for changed in changed_sources(found.node, found.report.files):
            click.echo(f"warning: {changed} changed since the recording", err=True)
        progress = _Progress()
        small = shrink(found, seconds=seconds, progress=progress)
        progress.end()
        files = files_for(small, folder, expectation)
        write_test(small, files, expectation, force=force)
    _report(found, small, time.monotonic() - began, seconds)
    for path in (files.test, files.recording):
        click.echo(path)
    click.echo(f"\nRun it: python -m pytest {files.test}", err=True)
    return 0


def _report(found: Reproduced, small: Small, took: float, seconds: float) -> None:
    left = f"{len(small.steps):,} of {counted(len(found.node.steps), 'event')}"
    click.echo(f"left: {left}, with {counted(small.messages, 'message')}", err=True)
    click.echo(f"({small.tries:,} tries, {took:.1f} s)", err=True)
    if not small.minimal:
        click.echo(
            f"warning: {seconds:g} s were over, so more may be left than it takes; --time gives it longer",
            err=True,
        )
    if small.fails == 0:
        raise DoraError(
            "what is left does not fail again: the failure does not follow from the events alone"
        )
    if small.fails < 10:
        click.echo(
            f"warning: with what is left, the node fails in {small.fails} of 10 runs: something else than "
            "its events decides it, for example random numbers without a seed, or threads",
            err=True,
        )


class _Progress:
    """A line about the search on a terminal, ten times a second at most."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def __call__(self, left: int, tries: int) -> None:
        now = time.monotonic()
        if self._on_terminal and now - self._shown > 0.1:
            self._shown = now
            sys.stderr.write(f"\r\x1b[K{left:,} events left, {tries:,} tries")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
