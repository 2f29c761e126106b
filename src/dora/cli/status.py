"""``dora status``: do the coordinator and the daemon run?"""

from __future__ import annotations

import json
import time
from typing import Any

import click

from dora.cli.client import Client, Unreachable, coordinator_options
from dora.cli.completion import dataflow_files
from dora.coordinator.protocol import MachineView
from dora.errors import DoraError


@click.command()
@click.option(
    "--dataflow", metavar="FILE", shell_complete=dataflow_files, help="Check a dataflow file as well."
)
@click.option(
    "-f",
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    default="table",
    help="How it looks [table]; json is one object.",
)
@coordinator_options
def status(dataflow: str | None, style: str, client: Client) -> int:
    """Tell whether the coordinator and the daemon run.

    The exit status is 1 if one of them does not.
    """
    if dataflow is not None:
        from dora.cli.flow import load_dataflow

        load_dataflow(dataflow)
    found: dict[str, Any] = {"coordinator": {"status": "not running", "address": client.where}}
    found["daemon"] = {"status": "unknown"}
    found["active_dataflows"] = 0
    try:
        answer = client.status()
    except Unreachable:
        answer = None
    if answer is not None:
        found["coordinator"]["status"] = "running"
        found["daemon"]["status"] = "running" if answer.daemons else "not running"
        found["active_dataflows"] = answer.active_dataflows
        found["machines"] = [
            {
                "id": machine.id,
                "status": "connected" if machine.away_since is None else "not connected",
                "address": machine.address,
                "labels": machine.labels,
                "away_since": machine.away_since,
            }
            for machine in answer.machines
        ]
    if style == "json":
        click.echo(json.dumps(found, indent=2))
    elif answer is None:
        click.echo("✗ Coordinator: Not running")
        click.echo(f"  Address: {client.where}")
        click.echo("✗ Daemon: Unknown (the coordinator does not run)")
    else:
        click.echo("✓ Coordinator: Running")
        click.echo(f"  Address: {client.where}")
        click.echo("✓ Daemon: Running" if answer.daemons else "✗ Daemon: Not running")
        for machine in answer.machines:
            click.echo(_line(machine))
        click.echo(f"Active dataflows: {answer.active_dataflows}")
    if answer is None or not answer.daemons:
        raise DoraError("System check failed. `dora up` starts what is missing")
    return 0


def _line(machine: MachineView) -> str:
    """Return a line about one machine."""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(machine.labels.items()))
    facts = " ".join(filter(None, (machine.address, f"({labels})" if labels else "")))
    if machine.away_since is None:
        return f"✓ Machine {machine.id}: {facts}"
    since = time.strftime("%H:%M:%S", time.localtime(machine.away_since))
    return f"✗ Machine {machine.id}: {facts}, not connected since {since}"


@click.group(hidden=True)
def system() -> None:
    """The same as `dora status`, for those who know it as `dora system status`."""


system.add_command(status)
