"""Dataflows of ``dora run`` on this machine, and the dataflow that a command means without a name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from dora.cli.coordinator import ask_which
from dora.cli.select import foreground_runs
from dora.cluster.http_api import DataflowView
from dora.errors import ConnectError, DoraError

if TYPE_CHECKING:
    from dora.wire.daemon_protocol import Description

_MEASURE = 0.2  # seconds in which the processor time is measured


def stop_foreground(wanted: str, grace: float | None, force: bool) -> bool:
    """Stop the dataflow that is meant, and wait until it has ended; return False if there is none.

    Raises `DoraError` if several are meant.
    """
    from dora.daemon.client import name_of
    from dora.wire.daemon_protocol import Interrupt

    runs = foreground_runs(wanted)
    try:
        if not runs:
            return False
        if len(runs) > 1:
            found = (run.description for run in runs)
            lines = "".join(f"\n  {one.dataflow_id}  {named(name_of(one), one.file)}" for one in found)
            raise DoraError(f"`{wanted}` matches more than one dataflow. Specify one by its UUID:{lines}")
        run = runs[0]
        try:
            run.ask(Interrupt(grace, force))
            run.wait_for_end()
        except ConnectError:
            pass  # it has just ended
        description = run.description
        click.echo(stopped(description.dataflow_id, name_of(description), description.file))
        return True
    finally:
        for run in runs:
            run.close()


def foreground_dataflows() -> list[DataflowView]:
    """Return the dataflows as a coordinator would describe them, without their use of the machine."""
    found = []
    for run in foreground_runs():
        with run:
            found.append(_view(run.description))
    return found


def foreground_views() -> list[DataflowView]:
    """Return the dataflows as a coordinator would describe them; takes 0.2 s if there are any."""
    from dora.observe.snapshot import RunSource, SnapshotSources

    runs = foreground_runs()
    with SnapshotSources(runs, RunSource) as sources:
        if not sources.dataflows:
            return []
        descriptions = {run.description.dataflow_id: run.description for run in runs}
        sources.watch(_MEASURE)
        measured = sources.refresh()
    return [
        msgspec.structs.replace(
            _view(descriptions[source.inspection.dataflow_id]),
            cpu=sum(item.load.cpu_percent for item in taken.nodes if item.load),
            memory=sum(item.load.memory for item in taken.nodes if item.load),
        )
        for source, taken in measured
    ]


def _view(description: Description) -> DataflowView:
    from dora.daemon.client import name_of

    return DataflowView(
        uuid=description.dataflow_id,
        name=name_of(description),
        status="Running",
        nodes=description.nodes,
        file=description.file,
    )


def choose_here(views: Sequence[DataflowView]) -> DataflowView | None:
    """Return the only running dataflow whose file is in this folder or below; None if ``views`` is empty.

    If there is none or more than one, asks on a terminal, and raises `DoraError` with a list elsewhere:
    what runs may be the robot of another window.
    """
    if not views:
        return None
    here = [view for view in views if _is_here(view.file)]
    if len(here) == 1:
        return here[0]
    found = here or views
    if sys.stdin.isatty():
        if not here:
            click.echo("No dataflow of this folder is running, but others are:", err=True)
        return found[ask_which([(view.uuid, named(view.name, view.file)) for view in found])]
    which = "Multiple dataflows running" if here else "No dataflow of this folder is running"
    lines = "".join(f"\n  {view.uuid}  {named(view.name, view.file)}" for view in found)
    raise DoraError(f"{which}. Specify one by NAME_OR_UUID:{lines}")


def named(name: str, file: str | None) -> str:
    """Return a dataflow as a user knows it: its name, and the folder of its file.

    >>> named("arm", "/home/me/robot/arm.yml")
    'arm in /home/me/robot'
    >>> named("arm", None)
    'arm'
    """
    where = os.path.dirname(file) if file and "://" not in file else file
    return f"{name} in {where}" if where else name


def stopped(uuid: str, name: str, file: str | None) -> str:
    """Return the line about a dataflow that was stopped; scripts look for its beginning and the UUID."""
    return f"dataflow stopped: {uuid} ({named(name, file)})"


def _is_here(file: str | None) -> bool:
    if not file or "://" in file:
        return False
    # Without links: a shell may have come to this folder through one.
    here, folder = os.path.realpath(os.curdir), os.path.realpath(os.path.dirname(file))
    return os.path.commonpath([here, folder]) == here
