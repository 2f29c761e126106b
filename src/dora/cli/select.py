"""``-d/--dataflow``: which of the running dataflows a command is about."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from dora._paths import ADDRESS_VARIABLE, AUTHORITY_VARIABLE, PORT_VARIABLE, is_chosen
from dora.cli.coordinator import choose, place_options, why_failed
from dora.cluster.client import Client, RequestRefused, Unreachable
from dora.cluster.protocol import ACTIVE, DataflowView
from dora.errors import DoraError
from dora.transport.tokens import TokenError

if TYPE_CHECKING:
    from dora.daemon.client import DaemonClient

NICENESS = 10  # of 19; with this, a tenth of a processor is left to a command beside a busy node

_Function = TypeVar("_Function", bound=Callable[..., Any])

_dataflow_option: Callable[[_Function], _Function] = click.option(
    "-d",
    "--dataflow",
    metavar="ID_OR_NAME",
    help="Which running dataflow: its UUID, the beginning of it, or the name of its file. Not needed while "
    "only one runs.",
)


def _choose_coordinator(ctx: click.Context, address: str, port: int, authority: str) -> None:  # noqa: ARG001
    """Let the options count as the environment does, which is where one is looked for if need be."""
    os.environ[ADDRESS_VARIABLE] = address
    os.environ[PORT_VARIABLE] = str(port)
    os.environ[AUTHORITY_VARIABLE] = authority


def dataflow_option(function: _Function) -> _Function:
    """Declare which dataflow is meant, and on which coordinator."""
    return _dataflow_option(place_options(_choose_coordinator)(function))


class NoneRuns(DoraError):
    """No running dataflow of this machine is meant."""


def of_this_system() -> list[DaemonClient]:
    """Return connections to the dataflows of the chosen coordinator, and to those of `dora run`."""
    from dora.daemon.client import running

    found = []
    for run in running():
        if is_chosen(run.description.coordinator):
            found.append(run)
        else:
            run.close()
    return found


def find_run(wanted: str | None) -> DaemonClient:
    """Return a connection to the running dataflow that is meant.

    Asks on a terminal if there are several; raises `DoraError` elsewhere, and if there is none.
    """
    from dora.daemon.client import fits

    runs = of_this_system()
    found = [run for run in runs if wanted is None or fits(run.description, wanted)]
    if len(found) > 1 and sys.stdin.isatty():
        chosen = _choose(found)
    elif len(found) == 1:
        chosen = found[0]
    else:
        for run in runs:
            run.close()
        raise (DoraError if found else NoneRuns)(_none_or_many(wanted, runs, found))
    for run in runs:
        if run is not chosen:
            run.close()
    return chosen


def give_way() -> None:
    """Let the nodes go first where a processor is wanted by both: this command only looks."""
    try:
        os.nice(NICENESS)
    except OSError:
        pass  # it is as low as it can be


def _none_or_many(wanted: str | None, runs: list[DaemonClient], found: list[DaemonClient]) -> str:
    if not runs:
        return "no dataflow is running; start one with `dora run FILE`"
    if not found:
        return f"no running dataflow is called `{wanted}`; there are:\n{_listed(runs)}"
    which = (
        "more than one dataflow is running" if wanted is None else f"`{wanted}` fits more than one dataflow"
    )
    return f"{which}; say which one with -d:\n{_listed(found)}"


def _listed(runs: list[DaemonClient]) -> str:
    from dora.daemon.client import name_of

    return "\n".join(f"  {run.description.dataflow_id}  {name_of(run.description)}" for run in runs)


def _choose(runs: list[DaemonClient]) -> DaemonClient:
    for index, line in enumerate(_listed(runs).splitlines(), 1):
        click.echo(f"  {index}{line[1:]}", err=True)
    number: int = click.prompt("Which dataflow", type=click.IntRange(1, len(runs)), err=True)
    return runs[number - 1]


# Where the files of a dataflow are, of one that runs or has ended: its logs and its spans.


class LogLocation(msgspec.Struct, frozen=True):
    """The directory of one dataflow. ``ended`` tells whether nothing will be added.

    ``nodes`` are those of the dataflow, also the ones that have said nothing; empty if only files tell.
    ``fault`` says why it failed, if it did.
    """

    dataflow_id: str
    directory: str
    ended: Callable[[], bool]
    nodes: tuple[str, ...] = ()
    fault: Callable[[], str] = lambda: ""


def find_source(client: Client, wanted: str | None) -> LogLocation:
    """Ask the coordinator, then the dataflows of `dora run`, then look into ./out."""
    try:
        view = client.dataflow(wanted) if wanted is not None else _only_or_latest(client)
    except (Unreachable, RequestRefused, TokenError) as error:
        if isinstance(error, RequestRefused) and error.status != 404:
            raise
        source = _of_dora_run(wanted)
        if source is not None:
            return source
        try:
            return local_source(wanted)
        except DoraError:
            raise error from None
    if view is None:
        return _of_dora_run(None) or local_source(None)

    def ended() -> bool:
        try:
            return client.dataflow(view.uuid).status not in ACTIVE
        except (Unreachable, TokenError):
            return False  # it goes on, and so do its files
        except RequestRefused:
            return True

    def fault() -> str:
        try:
            return why_failed(client.dataflow(view.uuid))
        except (Unreachable, RequestRefused, TokenError):
            return ""

    return LogLocation(view.uuid, view.log_directory, ended, tuple(view.nodes), fault)


def _only_or_latest(client: Client) -> DataflowView | None:
    views = client.dataflows()
    running = [view for view in views if view.status in ACTIVE]
    return choose(running, "by UUID_OR_NAME") or (views[-1] if views else None)


def _of_dora_run(wanted: str | None) -> LogLocation | None:
    from dora.daemon.client import fits
    from dora.errors import ConnectError
    from dora.wire.daemon_protocol import DescribeDataflow

    found = None
    for run in of_this_system():
        description = run.description
        if found is None and description.file and (wanted is None or fits(description, wanted)):
            found = run
        else:
            run.close()
    if found is None or found.description.file is None:
        return None
    kept = found

    def ended() -> bool:
        try:
            kept.ask(DescribeDataflow())
        except ConnectError:
            return True
        return False

    identity = found.description.dataflow_id
    return LogLocation(
        identity,
        f"{os.path.dirname(found.description.file)}/out/{identity}",
        ended,
        tuple(found.description.nodes),
    )


def local_source(wanted: str | None) -> LogLocation:
    try:
        names = [name for name in os.listdir("out") if len(name) == 36 and os.path.isdir(f"out/{name}")]
    except OSError:
        names = []
    fitting = [name for name in names if wanted is None or name.startswith(wanted.lower())]
    if not fitting:
        which = f"`{wanted}`" if wanted is not None else "any dataflow"
        raise DoraError(f"there are no log files of {which} in {os.path.abspath('out')}")
    name = max(fitting, key=lambda name: os.stat(f"out/{name}").st_mtime)
    return LogLocation(name, os.path.abspath(f"out/{name}"), lambda: False)
