"""Dataflows of ``dora run`` on this machine, for commands that else ask the coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from dora.cli.dataflow_here import named, stopped
from dora.cli.select import foreground_runs
from dora.cluster.protocol import DataflowView
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
