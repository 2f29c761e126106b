"""The option ``-d/--dataflow``, and what a shell completes of running dataflows.

Many commands import this module, so it imports little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dora._paths import ADDRESS_VARIABLE, AUTHORITY_VARIABLE, PORT_VARIABLE
from dora.cli.coordinator import coordinator_address_options, coordinator_client
from dora.errors import DoraError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from dora.cluster.http_api import DataflowView
    from dora.wire.daemon_protocol import NodeView

    Items = list[CompletionItem[str]]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def dataflow_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offer running dataflows, and except for ``dora stop`` the coordinator's ended ones."""
    from click.shell_completion import CompletionItem

    found = {item.value: item for item in running_dataflows(ctx, param, incomplete)}
    if ctx.info_name != "stop":
        try:
            names = sorted(view.name for view in coordinator_client().dataflows())
        except DoraError:
            names = []  # a completion prints no errors into the line that is typed
        for name in names:
            if name.startswith(incomplete):
                found.setdefault(name, CompletionItem(name))
    return list(found.values())


def running_dataflows(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Offer the names of running dataflows, and once something is typed, their files and nodes."""
    views = _running(None)
    found = [view.name for view in views]
    if incomplete:
        found += [os.path.relpath(view.file) for view in views if view.file]
        found += [node for view in views for node in view.nodes]
    return _items(found, incomplete)


def running_nodes(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Offer the nodes of the running dataflow that the command line names, or of all."""
    wanted = ctx.params.get("dataflow") or ctx.params.get("wanted")
    return _items((node for view in _running(wanted) for node in view.nodes), incomplete)


def running_topics(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Offer the outputs of the running dataflow that the command line names, or of all."""
    found = _inspected(ctx)
    outputs = (f"{node.id}/{output.id}" for node in found for output in node.outputs)
    return _items(outputs, incomplete)


def running_inputs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Offer the inputs of the running dataflow that the command line names, or of all."""
    return _items((f"{node.id}/{item.id}" for node in _inspected(ctx) for item in node.inputs), incomplete)


def _items(values: Iterable[str], incomplete: str) -> Items:
    from click.shell_completion import CompletionItem

    return [CompletionItem(value) for value in dict.fromkeys(values) if value.startswith(incomplete)]


def _running(wanted: str | None) -> list[DataflowView]:
    """Return the running dataflows that are meant, here and on the coordinator; [] if nothing answers."""
    from dora.cli.running import running_views

    try:
        return running_views(wanted)
    except DoraError:
        return []


def _inspected(ctx: click.Context) -> list[NodeView]:
    """Return the nodes of the running dataflows that are meant."""
    from dora.cli.running import find_running

    found: list[NodeView] = []
    for view in _running(ctx.params.get("dataflow")):
        try:
            with find_running(view.uuid) as running:
                found += running.inspection.nodes
        except DoraError:
            continue  # it has just ended
    return found


_dataflow_option = click.option(
    "-d",
    "--dataflow",
    metavar="ID_OR_NAME",
    shell_complete=running_dataflows,
    help="Which running dataflow: its UUID, the beginning of it, its name, its file or one of its nodes. "
    "Not needed while only one runs.",
)


def _set_environment(_ctx: click.Context, address: str, port: int, authority: str) -> None:
    """Put the address into the environment, from which `dora.cli.running` makes a client if needed."""
    os.environ[ADDRESS_VARIABLE] = address
    os.environ[PORT_VARIABLE] = str(port)
    os.environ[AUTHORITY_VARIABLE] = authority


def dataflow_option(function: _Function) -> _Function:
    """Declare the options for a running dataflow and for the coordinator."""
    return _dataflow_option(coordinator_address_options(_set_environment)(function))
