"""``dora validate``: check a dataflow file without running it."""

from __future__ import annotations

import click

from dora.cli.completion import dataflow_files
from dora.cli.flow import load_dataflow

DEFAULT_FILE = "dataflow.yml"


@click.command()
@click.argument("path", metavar="[FILE]", required=False, shell_complete=dataflow_files)
@click.option("--strict-types", is_flag=True, help="Make errors of types that do not fit together.")
@click.option(
    "--node-manifest",
    metavar="FILE",
    shell_complete=dataflow_files,
    help="Check the manifest of a node (dora-node.yml), and no dataflow.",
)
@click.option("--offline", is_flag=True, hidden=True, expose_value=False, help="Checking needs no network.")
def validate(path: str | None, strict_types: bool, node_manifest: str | None) -> None:
    """Check a dataflow file without running it.

    FILE is a dataflow file or its URL [dataflow.yml]. All problems are shown at once. Files and commands
    of nodes that are missing are warnings, because they may come into being before the dataflow runs.
    """
    from dora.building.prepare import missing
    from dora.dataflow import check_manifest

    if node_manifest is not None:
        if path is not None:
            raise click.UsageError("--node-manifest cannot be used together with a dataflow file")
        click.echo(f"Validating node manifest {node_manifest}...")
        check_manifest(node_manifest)
        click.echo("Node manifest OK.")
        return
    path = path or DEFAULT_FILE
    click.echo(f"Validating {path}...")
    dataflow = load_dataflow(path, strict_types=strict_types)
    for warning in (*dataflow.warnings, *(p._replace(severity="warning") for p in missing(dataflow))):
        click.echo(str(warning), err=True)
    click.echo("Input/output wiring OK.")
    click.echo("Descriptor config OK.")
    for name, target, source in dataflow.types.inferred:
        click.echo(f"  inferred {name} on {target} (from {source})")
    if not dataflow.type_warnings:
        click.echo("All type annotations OK.")
        return
    click.echo("Type warnings:")
    for warning in dataflow.type_warnings:
        click.echo(str(warning))
    click.echo(f"{len(dataflow.type_warnings)} type warning(s) found.")
