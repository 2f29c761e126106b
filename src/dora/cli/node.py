"""``dora node``: look at the nodes of running dataflows; what changes them is in `node_change`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dora.cli.dataflows import dataflow_option
from dora.cli.node_change import COMMANDS
from dora.cli.tables import fields, megabytes, object_style_option, style_option, table
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.inspection.load import Load
    from dora.inspection.overview import NodeSnapshot
    from dora.wire.inspection import Inspection, NodeView

MEASURED_OVER = 0.3  # seconds


@click.group(invoke_without_command=True)
@click.pass_context
def node(ctx: click.Context) -> None:
    """Look at the nodes of running dataflows, and change them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


for _command in COMMANDS:
    node.add_command(_command)


@node.command("list")
@dataflow_option
@style_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the ids.")
def list_nodes(dataflow: str | None, style: str, quiet: bool) -> None:
    """List the nodes of all running dataflows, or of one."""
    from dora.cli.glances import overviews_of
    from dora.cli.whole import find_all_running

    wholes = find_all_running(dataflow)
    if quiet:
        for whole in wholes:
            with whole:
                click.echo("\n".join(item.id for item in whole.inspection.nodes))
        return
    with overviews_of(wholes, MEASURED_OVER) as overviews:
        overviews.watch(MEASURED_OVER)
        glances = [item for _, nodes, _ in overviews.refresh() for item in nodes]
    rows = [_row(item) for item in glances]
    head = ["node", "status", "pid", "cpu", "memory", "restarts", "dataflow"]
    if any(item.node.machine for item in glances):
        head.insert(2, "machine")
        rows = [
            [*row[:2], item.node.machine or "-", *row[2:]] for row, item in zip(rows, glances, strict=True)
        ]
    if dataflow is not None:
        head, rows = head[:-1], [row[:-1] for row in rows]
    if style == "json":
        for row in rows:
            click.echo(json.dumps(dict(zip(head, row, strict=True))))
    else:
        click.echo(table([name.upper() for name in head], rows))


def _row(item: NodeSnapshot) -> list[str]:
    return [
        item.node.id,
        item.node.status,
        "-" if item.node.pid is None else str(item.node.pid),
        "-" if item.load is None else f"{item.load.cpu_percent:.1f}%",
        "-" if item.load is None else megabytes(item.load.memory),
        str(item.node.restarts),
        item.dataflow,
    ]


@node.command("info")
@click.argument("name", metavar="NODE")
@dataflow_option
@object_style_option
def info(name: str, dataflow: str | None, style: str) -> None:
    """Show what a node is, whom it listens to and feeds, and what it takes of the machine."""
    from dora.cli.glances import overviews_of
    from dora.cli.whole import find_running
    from dora.dataflow.report import no_node

    whole = find_running(dataflow)
    known = [view.id for view in whole.inspection.nodes]
    if name not in known:
        whole.close()
        raise DoraError(no_node(name, known))
    with overviews_of([whole], MEASURED_OVER, node=name) as overviews:
        overviews.watch(MEASURED_OVER)
        refreshed = overviews.refresh()
    if not refreshed:
        raise DoraError("the dataflow has just ended")
    (overview, nodes, _) = refreshed[0]
    glance = next(item for item in nodes if item.node.id == name)
    found = _describe(overview.inspection, overview.name, glance.node, glance.load)
    if style == "json":
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo(fields([(_title(key), _text(value)) for key, value in found.items()]))


def _describe(inspection: Inspection, dataflow: str, view: NodeView, load: Load | None) -> dict[str, Any]:
    consumers: dict[str, list[str]] = {}
    for link in inspection.links:
        consumers.setdefault(link.producer, []).append(link.consumer)
    metrics: dict[str, Any] = {"status": view.status, "pid": view.pid, "restarts": view.restarts}
    if load is not None:
        metrics["cpu"] = f"{load.cpu_percent:.1f}%"
        metrics["memory"] = megabytes(load.memory)
    return {
        "node": view.id,
        "dataflow": f"{dataflow} ({inspection.dataflow_id})",
        "name": view.name,
        "description": view.description,
        "path": view.path or "operators",
        "restart_policy": view.restart_policy,
        **({"machine": view.machine} if view.machine else {}),
        "inputs": view.inputs,
        "outputs": {output.id: consumers.get(f"{view.id}/{output.id}", []) for output in view.outputs},
        "runtime_metrics": metrics,
    }


def _title(key: str) -> str:
    return key.replace("_", " ").title()


def _text(value: Any) -> str:
    if not isinstance(value, dict):
        return "-" if value is None else str(value)
    lines = []
    for key, item in value.items():
        if isinstance(item, list):
            lines.append(f"{key} -> {', '.join(item) or 'nobody'}")
        else:
            lines.append(f"{key}: {'-' if item is None else item}")
    return "\n".join(lines) or "none"
