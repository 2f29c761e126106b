"""``dora schema``: the JSON schema of dataflow files."""

from __future__ import annotations

import click


@click.command()
def schema() -> None:
    """Print the JSON schema of dataflow files, for editors.

    Editors that know JSON schemas for YAML complete and check dataflow files with it.
    """
    import json

    from dora.dataflow.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
