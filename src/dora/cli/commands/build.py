"""``dora build``, ``validate``, ``expand`` and ``schema``: prepare and check dataflow files."""

from __future__ import annotations

import sys

import click

from dora.api import build_file
from dora.cli.compat import ignored_option
from dora.cli.completion import dataflow_files
from dora.cli.options import chosen_file, dataflow_argument, lock_of, lock_options
from dora.cli.process import termination_as_interrupt
from dora.cli.progress_bar import progress_option
from dora.cli.run_reporter import reporter_for
from dora.cli.tables import counted
from dora.daemon.build.build import Built, missing
from dora.daemon.load_dataflow import expand_dataflow, is_url, load_dataflow
from dora.daemon.options import BuildOptions, RunOptions, choose_engine

_BUILDS_HERE = "builds are always on this machine"


@click.command()
@dataflow_argument
@click.option(
    "--uv", is_flag=True, help="Build with uv; nodes with build commands get an environment of their own."
)
@ignored_option("--local", is_flag=True, hidden=False, why=_BUILDS_HERE)
@ignored_option("--coordinator-addr", why=_BUILDS_HERE)
@ignored_option("--coordinator-port", why=_BUILDS_HERE)
@click.option("--strict-types", is_flag=True, help="Build only if all declared types fit together.")
@click.option("--parallel", is_flag=True, help="Build nodes in parallel.")
@click.option("--offline", is_flag=True, help="Use no network, only what is installed, cached or cloned.")
@progress_option
@lock_options
def build(
    path: str,
    uv: bool,
    strict_types: bool,
    parallel: bool,
    offline: bool,
    progress: str,
    locked: bool,
    write_lockfile: bool,
    lockfile: str,
) -> None:
    """Build a dataflow: clones, Python environments, build commands.

    FILE is a dataflow file or its URL [dataflow.yml]. First, repositories are cloned, and nodes whose
    `path` is a URL are downloaded. Then nodes that ask for it get a Python environment of their own. Then
    the `build` commands run, each line without a shell, in the folder of the file and with the environment
    of the node; `pip` and `python` belong to the interpreter that runs it. The build ends at the first
    command that fails.

    `dora run`, `record` and `start` do the same before they start nodes. The build is described in
    out/<name of FILE>.dora-session.yaml.
    """
    options = BuildOptions(uv=uv, parallel=parallel, offline=offline, update=True)
    reporter = reporter_for(progress)
    with termination_as_interrupt():
        built = build_file(
            path,
            options,
            lock=lock_of(locked, write_lockfile, lockfile),
            strict_types=strict_types,
            stream=sys.stdout,
            on_warning=lambda text: click.echo(text, err=True),
            on_console=reporter.attach,
            on_build=reporter.watch_build,
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
    return f"built in {built.seconds:.1f} s: {counted(built.commands, 'command')}{skipped}"


@click.command()
@dataflow_argument
@click.option("--module", is_flag=True, help="FILE is a module: check it by itself.")
def expand(path: str, module: bool) -> None:
    """Print a dataflow file with its modules written out.

    FILE is a dataflow file or its URL [dataflow.yml]. The printed dataflow file runs the same from the
    same folder. With --module, only checks whether a module file is valid by itself.
    """
    from dora.dataflow import check_module

    if not module:
        click.echo(expand_dataflow(path), nl=False)
        return
    if is_url(path):
        raise click.UsageError(f"`--module` checks files; download this one first: curl -O {path}")
    check_module(path)
    click.echo(f"Module file is valid: {path}")


@click.command()
@click.option("--module", is_flag=True, help="Print the schema of module files.")
def schema(module: bool) -> None:
    """Print the JSON schema of dataflow files, for editors.

    With it, editors that support JSON schemas for YAML complete and check dataflow files.
    """
    import json

    from dora.dataflow.json_schema import json_schema, module_schema

    found = module_schema() if module else json_schema()
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@click.command()
@click.argument("path", metavar="[FILE]", required=False, shell_complete=dataflow_files)
@click.option("--strict-types", is_flag=True, help="Treat types that do not fit together as errors.")
@click.option(
    "--node-manifest",
    metavar="FILE",
    shell_complete=dataflow_files,
    help="Check the manifest of a node (dora-node.yml) instead of a dataflow.",
)
@ignored_option("--offline", is_flag=True, why="checking needs no network")
def validate(path: str | None, strict_types: bool, node_manifest: str | None) -> None:
    """Check a dataflow file without running it.

    FILE is a dataflow file or its URL [dataflow.yml]. All problems are shown at once. Missing files and
    commands of nodes are warnings, because they may exist when the dataflow runs.
    """
    from dora.daemon.capacity import needs_of_file, shortages
    from dora.daemon.processes.scheduling import refusals
    from dora.dataflow import check_manifest

    if node_manifest is not None:
        if path is not None:
            raise click.UsageError("--node-manifest cannot be used together with a dataflow file")
        click.echo(f"Validating node manifest {node_manifest}...")
        check_manifest(node_manifest)
        click.echo("Node manifest OK.")
        return
    path = chosen_file(path)
    click.echo(f"Validating {path}...")
    dataflow = load_dataflow(path, strict_types=strict_types)
    for warning in (*dataflow.warnings, *(p._replace(severity="warning") for p in missing(dataflow))):
        click.echo(str(warning), err=True)
    for shortage in shortages(needs_of_file(dataflow, choose_engine(RunOptions()))):
        click.echo(f"warning: too large for the limits of this machine: {shortage}", err=True)
    for refusal in refusals(dataflow, lambda node_id: dataflow.node(node_id).deploy.machine):
        click.echo(f"warning: {refusal}", err=True)
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
