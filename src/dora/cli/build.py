"""``dora build``: run the build commands of a dataflow and nothing else."""

from __future__ import annotations

import sys

import click

from dora.cli import flow
from dora.cli.interrupt import termination_as_interrupt
from dora.cli.later import later_option, lockfile_options


@click.command()
@click.argument("path", metavar="FILE")
@click.option("--uv", is_flag=True, help="Build with uv: pip means `uv pip`.")
@click.option(
    "--local", is_flag=True, help="Build on this machine, which is what this version always does."
)
@click.option(
    "--coordinator-addr",
    envvar="DORA_COORDINATOR_ADDR",
    hidden=True,
    expose_value=False,
    help="Accepted for the sake of existing scripts; this version builds on this machine.",
)
@click.option(
    "--coordinator-port",
    type=int,
    envvar="DORA_COORDINATOR_PORT",
    hidden=True,
    expose_value=False,
    help="Accepted for the sake of existing scripts; this version builds on this machine.",
)
@later_option("--strict-types", instead="it does not know type annotations", is_flag=True)
@later_option("--parallel", instead="nodes are built one after the other", is_flag=True)
@later_option("--offline", instead="give pip its own options in the `build` lines", is_flag=True)
@lockfile_options
def build(path: str, uv: bool, local: bool) -> None:  # noqa: ARG001 - there is nothing but local builds
    """Run the build commands of a dataflow.

    FILE is a dataflow file or its URL. Commands run one after the other, without a shell; the first
    that fails ends the build.
    """
    with termination_as_interrupt():
        flow.build_only(path, uv=uv, stream=sys.stdout, on_warning=lambda text: click.echo(text, err=True))
