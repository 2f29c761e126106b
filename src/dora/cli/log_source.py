"""Where the files of a dataflow are, of one that runs or has ended: its logs and its spans."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from dora.cli.client import Client, RequestRefused, Unreachable, choose, why_failed
from dora.coordinator.protocol import ACTIVE, DataflowView
from dora.coordinator.tokens import NoTrust
from dora.errors import DoraError


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
    except (Unreachable, RequestRefused, NoTrust) as error:
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
        except (Unreachable, NoTrust):
            return False  # it goes on, and so do its files
        except RequestRefused:
            return True

    def fault() -> str:
        try:
            return why_failed(client.dataflow(view.uuid))
        except (Unreachable, RequestRefused, NoTrust):
            return ""

    return LogLocation(view.uuid, view.log_directory, ended, tuple(view.nodes), fault)


def _only_or_latest(client: Client) -> DataflowView | None:
    views = client.dataflows()
    running = [view for view in views if view.status in ACTIVE]
    return choose(running, "by UUID_OR_NAME") or (views[-1] if views else None)


def _of_dora_run(wanted: str | None) -> LogLocation | None:
    from dora.cli.dataflows import of_this_system
    from dora.daemon.runs import fits
    from dora.errors import ConnectError
    from dora.wire.requests import DescribeDataflow

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
