"""``dora expand``: a dataflow file with its modules written out."""

from __future__ import annotations

import click

from dora.cli.completion import dataflow_files


@click.command()
@click.argument("path", metavar="FILE", shell_complete=dataflow_files)
@click.option("--module", is_flag=True, help="FILE is a module: check it by itself.")
def expand(path: str, module: bool) -> None:
    """Print a dataflow file with its modules written out.

    What is printed is a dataflow file that runs the same from the same folder. With --module nothing is
    printed but whether the file of a module is valid, whoever uses it.
    """
    from dora.dataflow import check_module, expanded

    if module:
        check_module(path)
        click.echo(f"Module file is valid: {path}")
    else:
        click.echo(expanded(path), nl=False)
