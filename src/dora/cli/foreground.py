"""Dataflows of ``dora run`` on this machine, for commands that else ask the coordinator."""

from __future__ import annotations

import time

import click

from dora.cli.select import foreground_runs
from dora.cluster.protocol import DataflowView
from dora.errors import ConnectError, DoraError

_MEASURE = 0.2  # seconds in which the processor time is measured


def stop_foreground(wanted: str | None, grace: float | None, force: bool) -> bool:
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
            names = ", ".join(f"{name_of(run.description)} ({run.description.dataflow_id})" for run in runs)
            raise DoraError(f"Multiple dataflows running. Specify one by NAME_OR_UUID: {names}")
        run = runs[0]
        try:
            run.ask(Interrupt(grace, force))
            run.wait_for_end()
        except ConnectError:
            pass  # it has just ended
        click.echo(f"dataflow stopped: {run.description.dataflow_id}")
        return True
    finally:
        for run in runs:
            run.close()


def foreground_views() -> list[DataflowView]:
    """Return the dataflows as a coordinator would describe them."""
    runs = foreground_runs()
    if not runs:
        return []
    from dora.daemon.client import name_of
    from dora.observe.load import LoadMeter
    from dora.observe.tap_session import inspect

    meter = LoadMeter()
    found = []
    for run in runs:
        with run:
            try:
                pids = [node.pid for node in inspect(run).nodes if node.pid]
            except DoraError:
                continue  # it has just ended
            found.append((run.description, pids))
    everything = [pid for _, pids in found for pid in pids]
    meter.measure(everything)
    time.sleep(_MEASURE)
    loads = meter.measure(everything)
    return [
        DataflowView(
            uuid=description.dataflow_id,
            name=name_of(description),
            status="Running",
            nodes=description.nodes,
            cpu=sum(loads[pid].cpu_percent for pid in pids if pid in loads),
            memory=sum(loads[pid].memory for pid in pids if pid in loads),
        )
        for description, pids in found
    ]
