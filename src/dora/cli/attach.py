"""Show the logs of a dataflow on the coordinator while it runs, and stop it with Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections import deque

import click

from dora.cli.client import Client, Unreachable, report_end
from dora.cli.interrupt import interrupts_held, termination_as_interrupt
from dora.coordinator.protocol import DataflowView
from dora.coordinator.tokens import NoTrust
from dora.logs.entry import LogEntry
from dora.logs.filters import LogFilter
from dora.logs.formats import renderer, wants_colour
from dora.logs.reader import LogReader

LOOK_EVERY = 0.1  # seconds between looks at the log files
ASK_EVERY = 0.5  # seconds between questions whether it has ended


def attach_to(client: Client, view: DataflowView) -> int:
    """Show the logs of a dataflow until it ends; return the exit status.

    The first Ctrl-C stops it, the second leaves.
    """
    from dora.cli.outlet import write_text

    reader = LogReader(view.log_directory)
    render = renderer(
        "pretty",
        colour=wants_colour(sys.stdout.isatty(), os.environ),
        nodes=view.nodes,
        dataflow_id=view.uuid,
    )
    log_filter = LogFilter()
    entries: deque[LogEntry] = deque()  # that are not written yet
    told = stopped = lonely = False
    asked = 0.0
    with termination_as_interrupt():
        while True:
            try:
                if time.monotonic() - asked >= (ASK_EVERY if told else LOOK_EVERY):
                    asked = time.monotonic()
                    view, lonely = _look(client, view, lonely)
                    if not told and _has_started(view):
                        click.echo(f"dataflow started: {view.uuid}")
                        told = True
                with interrupts_held():  # one amid it would lose what has been read
                    entries.extend(filter(log_filter.shows, reader.entries()))
                while entries:
                    write_text(sys.stdout, f"{render(entries[0])}\n")
                    entries.popleft()
                if view.status in ("finished", "failed"):
                    return report_end(view)
                time.sleep(LOOK_EVERY)
            except KeyboardInterrupt:
                if stopped:
                    click.echo("\nleft; the dataflow goes on stopping", err=True)
                    return 1
                stopped = True
                click.echo("\nstopping the dataflow; a second Ctrl-C leaves it alone", err=True)
                client.stop(view.uuid, None, False)


def _has_started(view: DataflowView) -> bool:
    """Tell whether all nodes have been ready. One that is short may have ended since the last look."""
    return view.status == "running" or (view.status == "finished" and not view.reason)


def _look(client: Client, view: DataflowView, lonely: bool) -> tuple[DataflowView, bool]:
    """Ask how the dataflow is; return that, and whether there is nobody to ask. It goes on all the same."""
    try:
        return client.dataflow(view.uuid), False
    except (Unreachable, NoTrust):
        if not lonely:
            click.echo(f"no answer from the coordinator at {client.where}; the dataflow goes on", err=True)
        return view, True
