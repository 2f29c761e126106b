"""``dora build``: run the build commands of a dataflow and nothing else."""

from __future__ import annotations

import sys

import click

from dora.building.options import BuildOptions, Built
from dora.cli import flow
from dora.cli.completion import dataflow_files
from dora.cli.interrupt import termination_as_interrupt
from dora.cli.lock_options import lock_of, lock_options


@click.command()
@click.argument("path", metavar="FILE", shell_complete=dataflow_files)
@click.option(
    "--uv", is_flag=True, help="Build with uv; nodes with build commands get an environment of their own."
)
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
@click.option("--strict-types", is_flag=True, help="Build only if all declared types fit together.")
@click.option("--parallel", is_flag=True, help="Build the nodes at the same time.")
@click.option("--offline", is_flag=True, help="Use no network: only what is installed, cached or cloned.")
@lock_options
def build(
    path: str,
    uv: bool,
    local: bool,  # noqa: ARG001 - there is nothing but local builds
    strict_types: bool,
    parallel: bool,
    offline: bool,
    locked: bool,
    write_lockfile: bool,
    lockfile: str,
) -> None:
    """Build a dataflow: clones, Python environments, build commands.

    FILE is a dataflow file or its URL. Commands run without a shell; the first that fails ends the
    build.
    """
    options = BuildOptions(uv=uv, parallel=parallel, offline=offline, update=True)
    with termination_as_interrupt():
        built = flow.build_only(
            path,
            options,
            lock=lock_of(locked, write_lockfile, lockfile),
            strict_types=strict_types,
            stream=sys.stdout,
            on_warning=lambda text: click.echo(text, err=True),
        )
    click.echo(_summary(built))


def _summary(built: Built) -> str:
    """
    >>> _summary(Built(None, commands=3, skipped=1, seconds=2.34))
    'built in 2.3 s: 3 commands, 1 of them with nothing to do'
    """
    if not built.commands:
        return f"built in {built.seconds:.1f} s: there are no commands"
    skipped = f", {built.skipped} of them with nothing to do" if built.skipped else ""
    return f"built in {built.seconds:.1f} s: {built.commands} command{'s' * (built.commands > 1)}{skipped}"
