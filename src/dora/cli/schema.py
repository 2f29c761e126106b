"""``dora schema``: the JSON schema of dataflow files."""

from __future__ import annotations

import click


@click.command()
@click.option("--module", is_flag=True, help="Print the schema of the files of modules.")
def schema(module: bool) -> None:
    """Print the JSON schema of dataflow files, for editors.

    Editors that know JSON schemas for YAML complete and check dataflow files with it.
    """
    import json

    from dora.dataflow.schema import json_schema, module_schema

    found = module_schema() if module else json_schema()
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
