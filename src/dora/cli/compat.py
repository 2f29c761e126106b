"""Commands and options of dora-rs that this version does not have.

They are hidden and refuse with a sentence that names the replacement, or warn that they have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dora.errors import DoraError

COMMANDS: dict[str, str] = {
    "runtime": "operators are started by `dora run FILE`",
    "hub": "install node packages with pip, and name their command as the `path` of a node",
    "self": "use pip: `pip install --upgrade dora-dataflow`",
}
"""Command → what to use instead, the second half of a sentence."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def refused_command(name: str) -> click.Command | None:
    """Return a command that refuses all arguments; None if dora-rs has no such command either."""
    if name not in COMMANDS:
        return None

    def refuse(**_: object) -> None:
        raise DoraError(f"this version of dora does not have `dora {name}` yet; {COMMANDS[name]}")

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )


def refused_option(*names: str, instead: str, is_flag: bool = False) -> Callable[[_Function], _Function]:
    """Declare a hidden option that is refused; ``instead`` names the replacement."""

    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value:
            name = param.opts[0]
            raise click.UsageError(f"this version of dora does not have {name} yet; {instead}", ctx)

    return click.option(*names, is_flag=is_flag, hidden=True, expose_value=False, callback=refuse)


def ignored_option(
    *names: str, why: str, is_flag: bool = False, hidden: bool = True, warn: bool = False
) -> Callable[[_Function], _Function]:
    """Declare an option that has no effect; ``warn``: it says so when it is given."""

    def report(_ctx: click.Context, param: click.Parameter, value: object) -> None:
        if warn and value is not None:
            click.echo(f"warning: {param.opts[0]} has no effect: {why}", err=True)

    return click.option(
        *names,
        is_flag=is_flag,
        hidden=hidden,
        expose_value=False,
        callback=report,
        help=f"Has no effect: {why}.",
    )


hub_option = refused_option("--hub-override", instead="give the node a `path` to your checkout")
