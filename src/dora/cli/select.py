"""The dataflows that run on this machine: which one a command means, and those of ``dora run``."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from dora._paths import is_chosen
from dora.cli.coordinator import ask_which
from dora.cluster.http_api import DataflowView
from dora.errors import DoraError
from dora.wire.daemon_protocol import Interrupt

if TYPE_CHECKING:
    from dora.daemon.client import DaemonClient
    from dora.wire.daemon_protocol import Description

NICENESS = 10  # of 19; with this, a tenth of a processor is left to a command beside a busy node
_MEASURE: Final = 0.2  # seconds in which the processor time is measured

NOTHING_RUNS: Final = "no dataflow is running; start one with `dora run FILE`"


class NoRunningDataflow(DoraError):
    """The dataflow that is meant does not run on this machine."""


def connected_runs() -> list[DaemonClient]:
    """Connect to the dataflows on this machine of the chosen coordinator and of `dora run`."""
    from dora.daemon.client import running

    return only(running(warn_once), lambda run: is_chosen(run.description.coordinator))


@functools.cache  # once for each command, however often it looks
def warn_once(text: str) -> None:
    """Print a warning to standard error, each text once."""
    click.echo(f"warning: {text}", err=True)


def only(runs: Iterable[DaemonClient], is_wanted: Callable[[DaemonClient], bool]) -> list[DaemonClient]:
    """Return the connections that are wanted, and close the others."""
    found = []
    for run in runs:
        if is_wanted(run):
            found.append(run)
        else:
            run.close()
    return found


def find_run(wanted: str | None, node_id: str = "", how: str = "with -d") -> DaemonClient:
    """Return a connection to the dataflow on this machine that is meant.

    ``wanted`` as for ``--dataflow``; None: the only one, or the only one with the node ``node_id``. If
    several are running, asks on a terminal and raises `DoraError` otherwise, in which ``how`` says how to
    name one; raises `NoRunningDataflow` if none is.
    """
    runs = connected_runs()
    found = distinct(run for run in runs if is_meant(run, wanted))
    if wanted is None and len(found) > 1:
        found = [run for run in found if node_id in run.description.nodes] or found
    if len(found) > 1 and sys.stdin.isatty():
        chosen = found[ask_which([_named(run) for run in found])]
    elif len(found) == 1:
        chosen = found[0]
    else:
        only(runs, lambda _: False)
        raise (DoraError if found else NoRunningDataflow)(_selection_fault(wanted, how, runs, found))
    only(runs, lambda run: run is chosen)
    return chosen


def distinct(runs: Iterable[DaemonClient]) -> list[DaemonClient]:
    """Return one of each dataflow: two daemons on this machine may run parts of the same one."""
    found: dict[str, DaemonClient] = {}
    for run in runs:
        found.setdefault(run.description.dataflow_id, run)
    return list(found.values())


def is_meant(run: DaemonClient, wanted: str | None) -> bool:
    """Return whether a text as of ``--dataflow`` names a running dataflow; None names each."""
    from dora.daemon.client import fits

    return wanted is None or fits(run.description, wanted) or wanted in run.description.nodes


def lower_priority() -> None:
    """Lower the priority of this process below the nodes', because it only observes."""
    try:
        os.nice(NICENESS)
    except OSError:
        pass  # it is the lowest already


def _selection_fault(
    wanted: str | None, how: str, runs: list[DaemonClient], found: list[DaemonClient]
) -> str:
    if not runs:
        return NOTHING_RUNS
    if not found:
        return f"no running dataflow is called `{wanted}`; these are running:\n{_listed(runs)}"
    which = (
        "more than one dataflow is running"
        if wanted is None
        else f"`{wanted}` matches more than one dataflow"
    )
    return f"{which}; choose one {how}:\n{_listed(found)}"


def _named(run: DaemonClient) -> tuple[str, str]:
    from dora.daemon.client import name_of

    file = run.description.file
    return run.description.dataflow_id, name_of(run.description) + (f"  ({file})" if file else "")


def _listed(runs: list[DaemonClient]) -> str:
    return "\n".join("  {}  {}".format(*_named(run)) for run in distinct(runs))


# --------------------------------------------------------------------------- dataflows of `dora run`


def foreground_runs(wanted: str | None = None) -> list[DaemonClient]:
    """Connect to the dataflows of `dora run` on this machine, which no coordinator knows."""
    return only(connected_runs(), lambda run: not run.description.coordinator and is_meant(run, wanted))


def stop_foreground(wanted: str, grace: float | None, force: bool) -> bool:
    """Stop the dataflow of `dora run` that is meant, and wait for its end; return False if there is none.

    Raises `DoraError` if several are meant.
    """
    from dora.daemon.client import DataflowGone

    runs = foreground_runs(wanted)
    views = [view_of(run.description) for run in runs]
    try:
        if not runs:
            return False
        if len(runs) > 1:
            which = f"`{wanted}` matches more than one dataflow"
            raise DoraError(f"{which}. Specify one by its UUID:{_lines(views)}")
        try:
            runs[0].ask(Interrupt(grace, force))
            runs[0].wait_for_end()
        except DataflowGone:
            pass
        click.echo(stopped(views[0]))
        return True
    finally:
        for run in runs:
            run.close()


def foreground_dataflows() -> list[DataflowView]:
    """Return the dataflows of `dora run`, without their use of the machine."""
    found = []
    for run in foreground_runs():
        with run:
            found.append(view_of(run.description))
    return found


def foreground_views() -> list[DataflowView]:
    """Return the dataflows of `dora run` with their use of the machine; takes 0.2 s if there are any."""
    from dora.observe.snapshot import RunSource, SnapshotSources

    runs = foreground_runs()
    with SnapshotSources(runs, RunSource) as sources:
        if not sources.dataflows:
            return []
        descriptions = {run.description.dataflow_id: run.description for run in runs}
        sources.watch(_MEASURE)
        measured = sources.refresh()
    return [
        msgspec.structs.replace(
            view_of(descriptions[source.inspection.dataflow_id]),
            cpu=sum(item.load.cpu_percent for item in taken.nodes if item.load),
            memory=sum(item.load.memory for item in taken.nodes if item.load),
        )
        for source, taken in measured
    ]


def view_of(description: Description) -> DataflowView:
    """Return a dataflow that runs here as a coordinator would describe it."""
    from dora.daemon.client import name_of

    return DataflowView(
        uuid=description.dataflow_id,
        name=name_of(description),
        status="Running",
        nodes=description.nodes,
        file=description.file,
    )


def choose_here(views: Sequence[DataflowView]) -> DataflowView | None:
    """Return the only running dataflow whose file is in this folder or below; None if ``views`` is empty.

    If there is none or more than one, asks on a terminal, and raises `DoraError` with a list elsewhere:
    what runs may be the robot of another window.
    """
    if not views:
        return None
    here = [view for view in views if _is_here(view.file)]
    if len(here) == 1:
        return here[0]
    found = here or views
    if sys.stdin.isatty():
        if not here:
            click.echo("No dataflow of this folder is running, but others are:", err=True)
        return found[ask_which([(view.uuid, named(view.name, view.file)) for view in found])]
    which = "Multiple dataflows running" if here else "No dataflow of this folder is running"
    raise DoraError(f"{which}. Specify one by NAME_OR_UUID:{_lines(found)}")


def _lines(views: Sequence[DataflowView]) -> str:
    return "".join(f"\n  {view.uuid}  {named(view.name, view.file)}" for view in views)


def named(name: str, file: str | None) -> str:
    """Return a dataflow as a user knows it: its name, and the folder of its file.

    >>> named("arm", "/home/me/robot/arm.yml")
    'arm in /home/me/robot'
    >>> named("arm", None)
    'arm'
    """
    where = os.path.dirname(file) if file and "://" not in file else file
    return f"{name} in {where}" if where else name


def stopped(view: DataflowView) -> str:
    """Return the line about a dataflow that was stopped; scripts look for its beginning and the UUID."""
    return f"dataflow stopped: {view.uuid} ({named(view.name, view.file)})"


def _is_here(file: str | None) -> bool:
    if not file or "://" in file:
        return False
    # Without links: a shell may have come to this folder through one.
    here, folder = os.path.realpath(os.curdir), os.path.realpath(os.path.dirname(file))
    return os.path.commonpath([here, folder]) == here
