"""``dora status``: show whether the coordinator and the daemon are running."""

from __future__ import annotations

import json
import time
from typing import Any

import click
import msgspec

from dora.cli.completion import dataflow_files
from dora.cli.coordinator import coordinator_options
from dora.cli.options import CommandGroup
from dora.cli.progress_bar import duration
from dora.cli.tables import counted, format_option
from dora.cluster.client import Client, Unreachable
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import TemplateView
from dora.errors import DoraError
from dora.wire.clock import ClockOffset


@click.command()
@click.option(
    "--dataflow", metavar="FILE", shell_complete=dataflow_files, help="Also check a dataflow file."
)
@format_option("one object")
@coordinator_options
def status(dataflow: str | None, style: str, client: Client) -> int:
    """Show whether the coordinator and the daemon are running.

    The exit status is 1 if one of them is not, or if the dataflow file is not valid.
    """
    found: dict[str, Any] = {"coordinator": {"status": "not running", "address": client.where}}
    found["daemon"] = {"status": "unknown"}
    found["active_dataflows"] = 0
    try:
        answer = client.status()
    except Unreachable:
        answer = None
    if answer is not None:
        found["coordinator"]["status"] = "running"
        found["coordinator"]["dashboard"] = client.dashboard()
        found["daemon"]["status"] = "running" if answer.daemons else "not running"
        found["active_dataflows"] = answer.active_dataflows
        found["machines"] = [
            {
                "id": machine.id,
                "status": "connected" if machine.away_since is None else "not connected",
                **_clock_json(machine.clock),
                "address": machine.address,
                "link_endpoint": client.link_endpoint(machine),
                "labels": machine.labels,
                "away_since": machine.away_since,
            }
            for machine in answer.machines
        ]
        templates = client.templates()
        found["templates"] = [msgspec.to_builtins(template) for template in templates]
    fault = None
    if dataflow is not None:
        nodes, fault = _check_file(dataflow)
        found["dataflow"] = {"file": dataflow, "status": "broken" if fault else "usable", "nodes": nodes}
    if style == "json":
        click.echo(json.dumps(found, indent=2))
    elif answer is None:
        click.echo("✗ Coordinator: Not running")
        click.echo(f"  Address: {client.where}")
        click.echo("✗ Daemon: Unknown (the coordinator is not running)")
    else:
        click.echo("✓ Coordinator: Running")
        click.echo(f"  Address: {client.where}")
        click.echo(f"  Dashboard: {found['coordinator']['dashboard']}")
        click.echo("✓ Daemon: Running" if answer.daemons else "✗ Daemon: Not running")
        for machine in answer.machines:
            click.echo(_line(machine, client.link_endpoint(machine)))
        for template in templates:
            click.echo(_template_line(template))
        click.echo(f"Active dataflows: {answer.active_dataflows}")
    if dataflow is not None and style == "table":
        click.echo(
            f"✗ Dataflow {dataflow}: cannot be used" if fault else f"✓ Dataflow {dataflow}: {nodes} node(s)"
        )
    if answer is None:
        raise DoraError(f"System check failed: no coordinator. {client.how_to_reach_one()}")
    if not answer.daemons:
        raise DoraError("System check failed. `dora up` starts what is missing")
    if fault is not None:
        raise fault
    return 0


def _clock_json(clock: ClockOffset | None) -> dict[str, float]:
    """Return by how many milliseconds a clock is ahead of the coordinator's, once that is known."""
    if clock is None:
        return {}
    return {
        "clock_ahead_ms": round(-clock.offset_ns / 1e6, 3),
        "clock_error_ms": round(clock.error_ns / 1e6, 3),
    }


def _check_file(file: str) -> tuple[int, DoraError | None]:
    """Return how many nodes a dataflow file has, or why it cannot be used."""
    from dora.daemon.load_dataflow import load_dataflow

    try:
        return len(load_dataflow(file).nodes), None
    except DoraError as error:
        return 0, error


def _line(machine: MachineView, endpoint: str | None) -> str:
    """Return the line about one machine. ``endpoint`` is `Client.link_endpoint`."""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(machine.labels.items()))
    facts = [" ".join(filter(None, (machine.address, f"({labels})" if labels else "")))]
    if endpoint is not None:
        facts.append(f"links at {endpoint}" if endpoint else "links: only dials")
    if machine.away_since is None:
        return f"✓ Machine {machine.id}: {', '.join(filter(None, (*facts, _clock_text(machine.clock))))}"
    since = time.strftime("%H:%M:%S", time.localtime(machine.away_since))
    return f"✗ Machine {machine.id}: {', '.join(facts)}, not connected since {since}"


def _clock_text(clock: ClockOffset | None) -> str:
    """Return how a clock differs from the coordinator's; "" if it does not, or that is not known."""
    if clock is None or abs(clock.offset_ns) <= clock.error_ns:
        return ""
    how = "behind" if clock.offset_ns > 0 else "ahead"
    return f"clock {abs(clock.offset_ns) / 1e6:,.1f} ms {how} (± {clock.error_ns / 1e6:.1f} ms)"


def _template_line(template: TemplateView) -> str:
    """Return the line about one template process."""
    from dora.observe.formatting import megabytes

    packages = f" with {', '.join(template.packages)}" if template.packages else ""
    age = duration(max(0.0, time.time() - template.since))
    return (
        f"✓ Template process {template.pid} on {template.machine}{packages}: "
        f"{counted(template.starts, 'start')}, {megabytes(template.memory)}, up for {age}"
    )


@click.group(cls=CommandGroup, hidden=True)
def system() -> None:
    """Run `dora system status`, the name of `dora status` in dora-rs."""


system.add_command(status)
