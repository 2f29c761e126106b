"""``dora validate``: check a dataflow file without running it."""

from __future__ import annotations

import click

from dora.cli.flow import load_dataflow
from dora.cli.later import later_option

DEFAULT_FILE = "dataflow.yml"


@click.command()
@click.argument("path", metavar="[FILE]", required=False, default=DEFAULT_FILE)
@later_option("--strict-types", instead="it does not know type annotations", is_flag=True)
@later_option("--node-manifest", instead="it checks dataflow files only")
@click.option("--offline", is_flag=True, hidden=True, expose_value=False, help="Checking needs no network.")
def validate(path: str) -> None:
    """Check a dataflow file without running it.

    FILE is a dataflow file or its URL [dataflow.yml]. All problems are shown at once. Files of nodes
    that are missing are warnings, because they may come into being before the dataflow runs.
    """
    from dora.dataflow import missing_files

    click.echo(f"Validating {path}...")
    dataflow = load_dataflow(path)
    for warning in (*dataflow.warnings, *(p._replace(severity="warning") for p in missing_files(dataflow))):
        click.echo(str(warning), err=True)
    click.echo("Input/output wiring OK.")
    click.echo("Descriptor config OK.")
    # Dataflows with type annotations are refused at loading, so those that are left have none wrong.
    click.echo("All type annotations OK.")
