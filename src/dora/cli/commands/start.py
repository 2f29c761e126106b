"""``dora start``, ``dora stop`` and ``dora restart``: dataflows on the coordinator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial

import click

from dora.cli.argument_values import ParameterValue, parse_duration
from dora.cli.attach import attach_to, following
from dora.cli.coordinator import coordinator_options
from dora.cli.options import all_of, dataflow_argument, debug_option
from dora.cli.progress_bar import progress_option
from dora.cli.reports import failure_reason, report_end
from dora.cli.run_options import RunCommand, run_options
from dora.cli.run_reporter import RunReporter, reporter_for
from dora.cli.running_options import dataflow_names
from dora.cli.select import choose_here, foreground_dataflows, stop_foreground, stopped
from dora.cluster.client import Client, RequestRefused, Unreachable
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import ACTIVE, RunSpec
from dora.daemon.options import FileRunOptions
from dora.errors import DoraError
from dora.wire.operations import MAX_GRACE

start_options = all_of(
    click.option(
        "-n",
        "--name",
        default="",
        help="Name of the dataflow [as its file, with a number if it is taken].",
    ),
    click.option(
        "--attach",
        is_flag=True,
        help="Show its logs until it ends; Ctrl-C stops it. The default on a terminal.",
    ),
    click.option(
        "--detach", is_flag=True, help="Return when it is running. The default without a terminal."
    ),
    run_options(FileRunOptions),
    progress_option,
)
"""The options that `dora start` and `dora cluster start` share."""


def wants_to_attach(attach: bool, detach: bool) -> bool:
    """Return whether to show logs after the start; raises `click.UsageError` for a contradiction."""
    if attach and detach:
        raise click.UsageError("use either --attach or --detach")
    return attach or (not detach and sys.stdin.isatty())


@click.command(cls=RunCommand)
@dataflow_argument
@debug_option
@start_options
@coordinator_options
def start(
    path: str,
    name: str,
    attach: bool,
    detach: bool,
    options: FileRunOptions,
    progress: str,
    client: Client,
) -> int:
    """Build and start a dataflow on the coordinator.

    FILE is a dataflow file or its URL [dataflow.yml]. Returns when all nodes are ready. The exit status is
    1 if the dataflow could not start.
    """
    import msgspec

    from dora.daemon.load_dataflow import load_for_run
    from dora.dataflow.yaml.tree import is_utf8

    attach = wants_to_attach(attach, detach)
    client.status()  # before any work
    dataflow = load_for_run(path, options, here=False)
    for warning in (*dataflow.warnings, *dataflow.type_warnings):
        click.echo(str(warning), err=True)
    if not is_utf8(dataflow.working_dir):
        raise DoraError("the path of the dataflow is not UTF-8, which the coordinator needs")
    spec = RunSpec.of(
        options, name=name, dataflow=msgspec.to_builtins(dataflow), interpreter=sys.executable
    )
    return start_and_wait(client, spec, attach, progress)


def start_and_wait(client: Client, spec: RunSpec, attach: bool, progress: str) -> int:
    """Start a dataflow; wait until it runs, or with ``attach`` until it ends. Return the exit status.

    ``progress`` is the value of ``--progress``.
    """
    view = client.start(spec)
    click.echo(f"dataflow start triggered: {view.uuid}")
    reporter = reporter_for(progress)
    if attach:
        return attach_to(client, view, reporter)
    return _wait_for_start(client, view, f"dataflow started: {view.uuid}", reporter)


def _wait_for_start(client: Client, view: DataflowView, sentence: str, reporter: RunReporter) -> int:
    dataflow_id = view.uuid
    try:
        with following(client, view, reporter):
            view = client.wait(dataflow_id, started=True)
    except KeyboardInterrupt:
        click.echo(f"\nthe dataflow is still starting; `dora stop {dataflow_id}` stops it", err=True)
        raise
    if view.status == "Failed":
        return report_end(view)
    if view.status == "Finished" and view.reason:
        raise DoraError(f"dataflow {dataflow_id} does not run: {view.reason}")
    click.echo(sentence)
    return 0


def _only_name(wanted: str | None, name: str | None) -> str | None:
    if wanted is not None and name is not None:
        raise click.UsageError("use either NAME_OR_UUID or --name")
    return wanted if wanted is not None else name


def _running(client: Client) -> list[DataflowView]:
    """Return the running dataflows of the coordinator and of `dora run`; raises `Unreachable`."""
    local = foreground_dataflows()
    try:
        return [*client.active(), *local]
    except Unreachable:
        if not local:
            raise
        return local


def _parse_grace(text: str) -> float:
    if (seconds := parse_duration(text)) > MAX_GRACE:
        raise ValueError(f"`{text}` is longer than a day")
    return seconds


_stop_options = all_of(
    click.argument("wanted", metavar="[NAME_OR_UUID]", required=False, shell_complete=dataflow_names),
    click.option("-n", "--name", help="The same as NAME_OR_UUID."),
    click.option(
        "--grace-duration",
        type=ParameterValue("duration", _parse_grace),
        metavar="DURATION",
        help="Time for a node to end before SIGTERM; SIGKILL follows after half of it [10s].",
    ),
    click.option(
        "-f",
        "--force",
        is_flag=True,
        help="Kill the nodes at once; give up machines that are out of reach.",
    ),
)


def _wait_for_end(client: Client, view: DataflowView) -> DataflowView:
    """Wait until a dataflow that is being stopped has ended.

    Says which machines it waits for, as soon as the coordinator finds them out of reach.
    """
    if len(view.machines) < 2 or view.status not in ACTIVE:
        return client.wait(view.uuid)
    say = partial(_name_machines_out_of_reach, client, set())
    say(view)
    return client.wait(view.uuid, meanwhile=say)


def _name_machines_out_of_reach(client: Client, named: set[str], view: DataflowView) -> None:
    """Say which machines of a dataflow are out of reach, and not ``named`` yet."""
    for machine in client.status().machines:
        if machine.id in view.machines and machine.away_since is not None and machine.id not in named:
            named.add(machine.id)
            click.echo(
                f"machine `{machine.id}` is out of reach; its nodes end when it is back; "
                "`dora stop --force` does not wait for it",
                err=True,
            )


def _all_accepted(
    request: Callable[[DataflowView], DataflowView],
    views: Iterable[DataflowView],
    refusals: list[RequestRefused],
) -> list[DataflowView]:
    """Make a request for each dataflow; return the answers, and put the refusals into ``refusals``."""
    answers = []
    for view in views:
        try:
            answers.append(request(view))
        except RequestRefused as error:
            if error.status != 404:  # its record was removed meanwhile: it has ended
                refusals.append(error)
    return answers


@click.command()
@_stop_options
@click.option("--all", "everything", is_flag=True, help="Stop all running dataflows.")
@coordinator_options
def stop(
    wanted: str | None,
    name: str | None,
    everything: bool,
    grace_duration: float | None,
    force: bool,
    client: Client,
) -> int:
    """Stop a dataflow and wait until it has ended.

    Without NAME_OR_UUID, stops the only dataflow whose file is in this folder or below. With none or
    several: asks on a terminal; otherwise fails and lists them. The exit status is 1 if a node failed. A
    dataflow of `dora run` is stopped like with Ctrl-C; --all leaves those alone.
    """
    wanted = _only_name(wanted, name)
    if everything:
        if wanted is not None:
            raise click.UsageError("--all cannot be combined with the name of a dataflow")
        refusals: list[RequestRefused] = []
        stopping = _all_accepted(
            lambda view: client.stop(view.uuid, grace_duration, force), client.active(), refusals
        )
        ended = _all_accepted(partial(_wait_for_end, client), stopping, refusals)
        statuses = [report_end(view) for view in ended]
        click.echo(f"Stopped {len(ended)} dataflow(s).")
        if refusals:
            raise DoraError("\n".join(dict.fromkeys(map(str, refusals))))
        return max(statuses, default=0)
    if wanted is None:
        chosen = choose_here(_running(client))
        if chosen is None:
            click.echo("No dataflows are running.")
            return 0
        wanted = chosen.uuid
    try:
        dataflow_id = client.dataflow(wanted).uuid
    except (Unreachable, RequestRefused) as error:
        if isinstance(error, RequestRefused) and error.status != 404:
            raise
        if stop_foreground(wanted, grace_duration, force):
            return 0
        raise
    view = client.stop(dataflow_id, grace_duration, force)
    if view.status not in ACTIVE:
        click.echo(f"dataflow had ended already: {view.uuid}")
        fault = failure_reason(client.dataflow(view.uuid))
        if fault:
            click.echo(fault, err=True)
        return 1 if fault else 0
    view = _wait_for_end(client, view)
    click.echo(stopped(view))
    return report_end(view)


@click.command()
@_stop_options
@coordinator_options
def restart(
    wanted: str | None, name: str | None, grace_duration: float | None, force: bool, client: Client
) -> int:
    """Stop a dataflow and start it again with the same options.

    Without NAME_OR_UUID, restarts the running one of this folder, as `dora stop` finds it. A dataflow that
    has ended is started again. Changes of nodes, links and parameters made at run time are kept; changes of
    the dataflow file are ignored.
    """
    wanted = _only_name(wanted, name)
    view = choose_here(client.active()) if wanted is None else client.dataflow(wanted)
    if view is None:
        raise DoraError("no dataflow is running; name the one to start again (`dora list` shows them)")
    return restart_and_wait(client, view.uuid, grace_duration, force)


def restart_and_wait(
    client: Client, dataflow_id: str, grace: float | None = None, force: bool = False
) -> int:
    """Stop a dataflow, start it again and wait until it is running; return the exit status."""
    try:
        answer = client.restart(dataflow_id, grace, force)
    except KeyboardInterrupt:
        click.echo(
            f"\nthe dataflow is started again once it has ended; `dora stop {dataflow_id}` prevents that",
            err=True,
        )
        raise
    sentence = f"dataflow restarted: {answer.old} -> {answer.new.uuid}"
    return _wait_for_start(client, answer.new, sentence, reporter_for("auto"))
