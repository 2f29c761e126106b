"""The coordinator that a command asks, and which of its dataflows. Imports little: most commands use it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dora._paths import (
    ADDRESS_VARIABLE,
    AUTHORITY_VARIABLE,
    DEFAULT_PORT,
    NO_TLS,
    PORT_VARIABLE,
    address_fault,
    chosen_address,
    split_addresses,
)
from dora.cli.argument_values import InputFile, ParameterValue, parse_addresses
from dora.cluster.client import Client
from dora.cluster.http_api import DataflowView
from dora.errors import DoraError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def absolute_path(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Make a path absolute; "" stays as it is."""
    return os.path.abspath(value) if value else ""


def _absolute_authority(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return value if value == NO_TLS else absolute_path(ctx, param, value)


def coordinator_address_options(
    use: Callable[[click.Context, str, int, str], None], *names: str
) -> Callable[[_Function], _Function]:
    """Declare the options; ``use`` gets the address, the port and the authority, see `Client`.

    The address may be several, with commas. ``names``: further names of its option.
    """

    def use_all(ctx: click.Context, _param: click.Parameter, value: int) -> int:
        authority = ctx.params.pop("coordinator_ca")
        use(ctx, ctx.params.pop("coordinator_addr"), value, authority)
        return value

    port = click.option(
        "--coordinator-port",
        type=click.IntRange(1, 65535),
        default=DEFAULT_PORT,
        envvar=PORT_VARIABLE,
        show_envvar=True,
        metavar="PORT",
        expose_value=False,
        callback=use_all,
        help=f"Port of the coordinator [{DEFAULT_PORT}].",
    )
    address = click.option(
        *names,
        "--coordinator-addr",
        type=ParameterValue("address", parse_addresses),
        default="127.0.0.1",
        envvar=ADDRESS_VARIABLE,
        show_envvar=True,
        metavar="IP[,IP...]",
        is_eager=True,
        help="Address of the coordinator, or several, which are tried in turn [127.0.0.1].",
    )
    authority = click.option(
        "--coordinator-ca",
        type=InputFile(),
        default="",
        callback=_absolute_authority,
        envvar=AUTHORITY_VARIABLE,
        show_envvar=True,
        metavar="FILE|none",
        is_eager=True,
        help="Certificate authority of the coordinator [it proves that it knows the token]; none: do "
        "without TLS.",
    )

    def declare(function: _Function) -> _Function:
        return address(port(authority(function)))

    return declare


def coordinator_options(function: _Function, *names: str) -> _Function:
    """Declare the options; the command gets a `Client` as ``client``.

    ``names``: see `coordinator_address_options`.
    """

    def make(ctx: click.Context, address: str, port: int, authority: str) -> None:
        ctx.params["client"] = Client(address, port, authority=authority)

    return coordinator_address_options(make, *names)(function)


def coordinator_options_of_daemon(function: _Function) -> _Function:
    """Declare the same options, with the short name that dora-rs has for its daemon only."""
    return coordinator_options(function, "-c")


def is_coordinator_named() -> bool:
    """Return whether the options of this command, or the environment, name a coordinator."""
    from click.core import ParameterSource

    named = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    context = click.get_current_context()
    options = ("coordinator_addr", "coordinator_port", "coordinator_ca")
    return any(context.get_parameter_source(option) in named for option in options)


def coordinator_client(address: str = "") -> Client:
    """Return a client of the coordinator at an address with a port, or of that in the environment."""
    host, _, port = address.rpartition(":")
    if not address:
        host, port = chosen_address()
    if not (port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise DoraError(f"DORA_COORDINATOR_PORT is `{port}`, which is not a port number")
    for each in split_addresses(host):
        if fault := address_fault(each):
            raise DoraError(f"DORA_COORDINATOR_ADDR is `{host}`, which {fault}")
    return Client(host, int(port))


def choose_dataflow(views: Sequence[DataflowView], option: str) -> DataflowView | None:
    """Return the only running dataflow, or let the user choose one on a terminal; None if none is running.

    Raises `DoraError` if there are several and no terminal; ``option`` says how to name one.
    """
    if len(views) <= 1:
        return views[0] if views else None
    if not sys.stdin.isatty():
        names = ", ".join(f"{view.name} ({view.uuid})" for view in views)
        raise DoraError(f"Multiple dataflows running. Specify one {option}: {names}")
    return views[ask_which([(view.uuid, view.name) for view in views])]


def ask_which(dataflows: Sequence[tuple[str, str]]) -> int:
    """Ask on the terminal which of these dataflows, UUIDs and names, is meant; return its index."""
    for index, (dataflow_id, name) in enumerate(dataflows, 1):
        click.echo(f"  {index} {dataflow_id}  {name}", err=True)
    number: int = click.prompt("Which dataflow", type=click.IntRange(1, len(dataflows)), err=True)
    return number - 1
