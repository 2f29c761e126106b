"""Let a process tell of its own work, as ``RUST_LOG`` says."""

from __future__ import annotations

import click

from dora.logs.directives import VARIABLE, configure


def tell_diagnostics(directives: str) -> None:
    """Begin to tell on standard error; what of the directives is not understood is told at once."""
    for fault in configure(directives):
        click.echo(f"warning: {VARIABLE}: {fault}", err=True)
