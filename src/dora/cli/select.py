"""Select a running dataflow of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from dora._paths import is_chosen
from dora.cli.coordinator import ask_which
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.daemon.client import DaemonClient

NICENESS = 10  # of 19; with this, a tenth of a processor is left to a command beside a busy node


NOTHING_RUNS: Final = "no dataflow is running; start one with `dora run FILE`"


class NoRunningDataflow(DoraError):
    """The dataflow that is meant does not run on this machine."""


def connected_runs() -> list[DaemonClient]:
    """Connect to the dataflows on this machine of the chosen coordinator and of `dora run`."""
    from dora.daemon.client import running

    found = []
    for run in running():
        if is_chosen(run.description.coordinator):
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
        for run in runs:
            run.close()
        raise (DoraError if found else NoRunningDataflow)(_selection_fault(wanted, how, runs, found))
    for run in runs:
        if run is not chosen:
            run.close()
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


def foreground_runs(wanted: str | None = None) -> list[DaemonClient]:
    """Connect to the dataflows of `dora run` on this machine, which no coordinator knows."""
    found = []
    for run in connected_runs():
        if not run.description.coordinator and is_meant(run, wanted):
            found.append(run)
        else:
            run.close()
    return found


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
