"""``dora list`` and ``dora clean``: show and remove the dataflows that the coordinator knows."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import click

from dora.cli.coordinator import coordinator_options, is_coordinator_named
from dora.cli.select import foreground_views
from dora.cli.tables import format_option, print_table
from dora.cluster.client import Client, Unreachable
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import ACTIVE
from dora.observe.formatting import megabytes

STATUSES = ("running", "finished", "failed")


@click.command("list")
@format_option("one object a line: `uuid`, `name`, `status`, `nodes`, `cpu`, `memory` in GB")
@click.option(
    "--status",
    type=click.Choice(STATUSES),
    help="Only dataflows with this status; running includes starting.",
)
@click.option(
    "--name", metavar="PATTERN", help="Only dataflows whose name contains this or matches it, like arm-*."
)
@click.option("--sort-by", type=click.Choice(["cpu", "memory"]), help="Largest use first.")
@click.option("-q", "--quiet", is_flag=True, help="Print UUIDs only.")
@coordinator_options
def list_dataflows(
    style: str, status: str | None, name: str | None, sort_by: str | None, quiet: bool, client: Client
) -> None:
    """List the dataflows that run, and those that have ended.

    The coordinator's come first, then dataflows of `dora run` on this machine, each the oldest first. CPU,
    in percent of one core, and memory count all processes of a dataflow.

    It is no error that no coordinator runs on this machine, unless the command or the environment
    (DORA_COORDINATOR_ADDR, DORA_COORDINATOR_PORT) names one.
    """
    known: list[DataflowView] = []
    missing, daemon_runs = "", False
    try:
        known = client.dataflows()
    except Unreachable as error:
        if not error.refused or is_coordinator_named():
            raise
        from dora.cluster.agent.identity import running_daemon

        missing = f"no coordinator at {client.where}"
        daemon_runs = running_daemon(client.addresses[0], client.port) is not None
    local = foreground_views()
    if daemon_runs:
        click.echo(
            f"Dataflows of the daemon go on running, but are not shown: there is {missing}. "
            f"{client.how_to_reach_one()}.",
            err=True,
        )
    elif missing and not local:
        click.echo(
            f"No dataflow runs here: there is no `dora run`, and {missing}. {client.how_to_reach_one()}.",
            err=True,
        )
    views = [view for view in [*known, *local] if _is_wanted(view, status, name)]
    if sort_by is not None:
        views.sort(key=lambda view: view.cpu if sort_by == "cpu" else view.memory, reverse=True)
    if quiet:
        for view in views:
            click.echo(view.uuid)
    elif style == "json":
        for view in views:
            click.echo(
                json.dumps(
                    {
                        "uuid": view.uuid,
                        "name": view.name,
                        "status": view.status,
                        "nodes": _nodes(view),
                        "cpu": view.cpu,
                        "memory": view.memory / 1e9,
                    },
                    ensure_ascii=False,
                )
            )
    else:
        rows = [
            (
                view.uuid,
                view.name,
                view.status,
                str(_nodes(view)),
                f"{view.cpu:.1f}%",
                megabytes(view.memory),
            )
            for view in views
        ]
        print_table(("UUID", "Name", "Status", "Nodes", "CPU", "Memory"), rows)


def _nodes(view: DataflowView) -> int:
    return len(view.nodes) if view.status in ACTIVE else 0


def _is_wanted(view: DataflowView, status: str | None, name: str | None) -> bool:
    if status is not None and ("running" if view.status in ACTIVE else view.status.lower()) != status:
        return False
    return name is None or name in view.name or fnmatchcase(view.name, name)


@click.command()
@format_option("one object a line: `uuid`, `name`, `status`")
@click.option("-q", "--quiet", is_flag=True, help="Print UUIDs only.")
@coordinator_options
def clean(style: str, quiet: bool, client: Client) -> None:
    """Remove the records of ended dataflows.

    Log files on this machine are kept. Copies made by `dora cluster start` that no other dataflow uses are
    removed too, except files written by nodes.
    """
    removed = client.clean()
    if not removed:
        click.echo("No finished or failed dataflows to clean.", err=True)
        return
    if quiet:
        for view in removed:
            click.echo(view.uuid)
    elif style == "json":
        for view in removed:
            click.echo(json.dumps({"uuid": view.uuid, "name": view.name, "status": view.status}))
    else:
        rows = [(view.uuid, view.name, view.status) for view in removed]
        print_table(("UUID", "Name", "Status"), rows)
    click.echo(f"Cleaned {len(removed)} dataflow(s).", err=True)
