"""``dora save``: write the last seconds of a running dataflow to a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dora.cli.running_options import dataflow_option
from dora.cli.tables import counted
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.wire.black_box import SavedBlackBox


@click.command()
@dataflow_option
@click.option(
    "-o",
    "--output",
    metavar="RECORDING",
    help="The file to write [out/<dataflow>/black-box/<date>-<time>-saved.mcap].",
)
@click.option("--note", metavar="TEXT", default="", help="A mark at this moment, which viewers show.")
def save(dataflow: str | None, output: str | None, note: str) -> int:
    """Save the last seconds of a running dataflow.

    Each run keeps its last seconds in memory, and saves them by itself when a node fails. This command
    saves them now. The dataflow goes on; the file is a recording, for `dora info`, `dora replay` and the
    other commands. Of a dataflow on several machines, each machine writes a file of its own; with
    --output they are joined to one. The exit
    status is 1 if a file could not be written, or a part of it could not be read.
    """
    from dora.cli.running import find_running

    path = _checked(output) if output else ""
    with find_running(dataflow) as running:
        saved = running.save(path, note)
    status = 0
    for machine, file in saved.items():
        status |= _report(machine, file)
    return status


def _checked(path: str) -> str:
    """Return the absolute path of a file to write; raises `DoraError` if it cannot be written."""
    if os.path.isdir(path):
        raise DoraError(f"{path} is a folder; give a file, such as {os.path.join(path, 'saved.mcap')}")
    if os.path.lexists(path):
        raise DoraError(f"{path} exists already; choose another file")
    path = os.path.abspath(path)
    if not os.path.isdir(os.path.dirname(path)):
        raise DoraError(f"the folder {os.path.dirname(path)} does not exist")
    return path


def _report(machine: str, saved: SavedBlackBox) -> int:
    """Print what came of it; return the exit status."""
    from dora.daemon.report import shorter_path
    from dora.observe.formatting import file_size

    of = f" of machine {machine}" if machine else ""
    if saved.problem:
        what = "not all" if saved.path else "not"
        click.echo(f"error: the last seconds{of} are {what} saved: {saved.problem}", err=True)
        if not saved.path:
            return 1
    click.echo(
        f"saved {counted(saved.messages, 'message')}{of} ({file_size(saved.size)}) to "
        f"{shorter_path(saved.path)}"
    )
    if saved.lost:
        click.echo(
            f"{counted(saved.lost, 'message')} of that time are missing: `dora info` says of which output"
        )
    return 1 if saved.problem else 0
