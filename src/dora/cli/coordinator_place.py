"""The options that say where the coordinator is. Imports little: most commands have them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dora.cli.values import InputFile, ParameterValue, parse_address
from dora.coordinator.address import ADDRESS_VARIABLE, AUTHORITY_VARIABLE, DEFAULT_PORT, PORT_VARIABLE

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
