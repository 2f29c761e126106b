"""Find the directory with the logs and spans of a dataflow, running or ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from dora.cli.coordinator import choose_dataflow
from dora.cli.reports import failure_reason
from dora.cli.select import NoRunningDataflow, find_run, only, warn_once
from dora.cluster.client import Client, RequestRefused, Unreachable
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import ACTIVE
from dora.errors import DoraError
from dora.transport.tokens import TokenError

if TYPE_CHECKING:
    from dora.daemon.client import DaemonClient


class LogLocation(msgspec.Struct, frozen=True):
    """The directory with the logs of one dataflow.

    ``ended`` returns whether the dataflow has ended, so that nothing will be added; ``failure`` returns why
    it failed ("": it did not). ``nodes`` are all its nodes; empty if only its files are known.
    """

    dataflow_id: str
    directory: str
    ended: Callable[[], bool]
    nodes: tuple[str, ...] = ()
    failure: Callable[[], str] = lambda: ""


def find_log_location(client: Client, wanted: str | None) -> LogLocation:
    """Find a dataflow on the coordinator, else one of `dora run`, else one below ./out."""
    try:
        view = client.dataflow(wanted) if wanted is not None else _only_or_latest(client)
    except (Unreachable, RequestRefused, TokenError) as error:
        if isinstance(error, RequestRefused) and error.status != 404:
            raise
        source = _location_of_run(wanted)
        if source is not None:
            return source
        try:
            return local_log_location(wanted)
        except DoraError:
            raise error from None
    if view is None:
        return _location_of_run(None) or local_log_location(None)

    def ended() -> bool:
        try:
            return client.dataflow(view.uuid).status not in ACTIVE
        except (Unreachable, TokenError):
            return False  # the dataflow goes on without its coordinator
        except RequestRefused:
            return True  # its record was removed, and that is done only after the end

    def failure() -> str:
        try:
            return failure_reason(client.dataflow(view.uuid))
        except (Unreachable, RequestRefused, TokenError):
            return ""  # the logs are shown without it

    return LogLocation(view.uuid, view.log_directory, ended, tuple(view.nodes), failure)


def _only_or_latest(client: Client) -> DataflowView | None:
    views = client.dataflows()
    running = [view for view in views if view.status in ACTIVE]
    return choose_dataflow(running, "by UUID_OR_NAME") or (views[-1] if views else None)


def _location_of_run(wanted: str | None) -> LogLocation | None:
    try:
        connection = find_run(wanted, how="by UUID_OR_NAME")
    except NoRunningDataflow:
        return None
    description = connection.description
    return LogLocation(
        description.dataflow_id,
        description.log_directory,
        connection.look_for_end,
        tuple(description.nodes),
    )


def local_log_location(wanted: str | None) -> LogLocation:
    """Find a dataflow below ./out by the beginning of its UUID or its name, or the latest one.

    Raises `DoraError` if there is none.
    """
    from dora.daemon.logs.reader import dataflow_name

    try:
        names = [name for name in os.listdir("out") if len(name) == 36 and os.path.isdir(f"out/{name}")]
    except OSError:
        names = []
    names.sort(key=lambda name: os.stat(f"out/{name}").st_mtime, reverse=True)
    name = next(
        (
            name
            for name in names
            if wanted is None or name.startswith(wanted.lower()) or dataflow_name(f"out/{name}") == wanted
        ),
        None,
    )
    if name is None:
        which = f"`{wanted}`" if wanted is not None else "any dataflow"
        raise DoraError(f"there are no log files of {which} in {os.path.abspath('out')}")
    connections: list[DaemonClient] = []

    def ended() -> bool:
        if not connections:
            from dora.daemon.client import running

            connections.extend(only(running(warn_once), lambda run: run.description.dataflow_id == name))
        return all(connection.look_for_end() for connection in connections)

    return LogLocation(name, os.path.abspath(f"out/{name}"), ended)
