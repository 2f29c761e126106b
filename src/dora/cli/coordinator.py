"""The options that say where the coordinator is. Imports little: most commands have them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dora._paths import ADDRESS_VARIABLE, AUTHORITY_VARIABLE, DEFAULT_PORT, PORT_VARIABLE
from dora.cli.output import InputFile, ParameterValue, parse_address
from dora.cluster.client import Client
from dora.cluster.protocol import (
    DataflowView,
)
from dora.errors import DoraError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def absolute(ctx: click.Context, param: click.Parameter, value: str) -> str:  # noqa: ARG001
    """Return a path that means the same in every folder; "" stays as it is."""
    return os.path.abspath(value) if value else ""


def place_options(take: Callable[[click.Context, str, int, str], None]) -> Callable[[_Function], _Function]:
    """Declare the options; ``take`` gets the address, the port and the authority ("" without TLS)."""

    def take_all(ctx: click.Context, param: click.Parameter, value: int) -> int:  # noqa: ARG001
        authority = ctx.params.pop("coordinator_ca")
        take(ctx, ctx.params.pop("coordinator_addr"), value, authority)
        return value

    port = click.option(
        "--coordinator-port",
        type=click.IntRange(1, 65535),
        default=DEFAULT_PORT,
        envvar=PORT_VARIABLE,
        show_envvar=True,
        metavar="PORT",
        expose_value=False,
        callback=take_all,
        help=f"Port of the coordinator [{DEFAULT_PORT}].",
    )
    address = click.option(
        "--coordinator-addr",
        type=ParameterValue("address", parse_address),
        default="127.0.0.1",
        envvar=ADDRESS_VARIABLE,
        show_envvar=True,
        metavar="IP",
        is_eager=True,
        help="Address of the coordinator [127.0.0.1].",
    )
    authority = click.option(
        "--coordinator-ca",
        type=InputFile(),
        default="",
        callback=absolute,
        envvar=AUTHORITY_VARIABLE,
        show_envvar=True,
        metavar="FILE",
        is_eager=True,
        help="Authority of a coordinator with TLS.",
    )

    def declare(function: _Function) -> _Function:
        return address(port(authority(function)))

    return declare


def coordinator_options(function: _Function) -> _Function:
    """Declare where the coordinator is; the command gets a `Client` as ``client``."""

    def make(ctx: click.Context, address: str, port: int, authority: str) -> None:
        ctx.params["client"] = Client(address, port, authority=authority)

    return place_options(make)(function)


def choose(views: Sequence[DataflowView], option: str) -> DataflowView | None:
    """Return the only one of the running dataflows, or the one that is chosen on a terminal.

    None if nothing runs. Raises `DoraError` if there are several and nobody can be asked; ``option`` says
    how to name one.
    """
    if len(views) <= 1:
        return views[0] if views else None
    if not sys.stdin.isatty():
        names = ", ".join(f"{view.name} ({view.uuid})" for view in views)
        raise DoraError(f"Multiple dataflows running. Specify one {option}: {names}")
    for index, view in enumerate(views, 1):
        click.echo(f"  {index} {view.uuid}  {view.name}", err=True)
    number: int = click.prompt("Which dataflow", type=click.IntRange(1, len(views)), err=True)
    return views[number - 1]


def why_failed(view: DataflowView) -> str:
    """Return in one sentence why a dataflow failed; "" if it did not."""
    from dora.daemon.report import first_cause

    if view.status != "failed":
        return ""
    cause = (first_cause(view.result) if view.result is not None else "") or view.reason
    return f"dataflow {view.name} ({view.uuid}) failed: {cause}"


def report_end(view: DataflowView) -> int:
    """Tell on standard error how a dataflow ended, if something is worth it; return the exit status."""
    from dora.daemon.report import failure_report, loss_report

    directory = view.log_directory if os.path.isdir(view.log_directory) else None
    if view.result is not None:
        for report in (loss_report(view.result), failure_report(view.result, directory)):
            if report:
                click.echo(f"\n{report}", err=True)
    elif view.status == "failed":
        click.echo(f"\nDataflow {view.uuid} failed: {view.reason}", err=True)
        if directory is not None:
            click.echo(f"\nLogs: {directory}", err=True)
    return 1 if view.status == "failed" else 0
