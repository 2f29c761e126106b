"""Options of a run on the command line, made of their declarations in `dora.daemon.options`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import click

from dora.cli.argument_values import ParameterValue, parse_duration, parse_environment
from dora.cli.options import DURATION, all_of
from dora.daemon.options import Option, RunOptions, options_of

_Function = TypeVar("_Function", bound=Callable[..., Any])


class RunCommand(click.Command):
    """A command whose ``--exit-when-nodes-finish`` needs no value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        bare = "--exit-when-nodes-finish"
        options = [f"{bare}=true" if argument == bare else argument for argument in args[:end]]
        return super().parse_args(ctx, options + args[end:])


def run_options(kind: type[RunOptions], **refused: str) -> Callable[[_Function], _Function]:
    """Declare the options of a kind of run; the command gets them as ``options``, of this class.

    ``refused``: option → why it makes no sense for the command. It is an error to give it then.
    """

    def declare(function: _Function) -> _Function:
        options = options_of(kind)

        @wraps(function)
        def command(*args: Any, **values: Any) -> Any:
            given = {option.name: values.pop(option.name) for option in options if option.name in values}
            return function(*args, options=kind(**given), **values)

        declarations = (
            _refused(option, refused[option.name]) if option.name in refused else click_option(option)
            for option in options
        )
        return cast("_Function", all_of(*declarations)(command))

    return declare


def click_option(option: Option) -> Callable[[_Function], _Function]:
    """Declare one option; its type decides how it is written."""
    form: dict[str, Any]
    flag = option.flag
    if get_origin(option.type) is Literal:
        form = {"type": click.Choice(get_args(option.type)), "default": None}
    elif option.may_be_off:
        form = {"type": ParameterValue("duration", _seconds_or_off), "metavar": "DURATION"}
    elif option.type is float:
        form = {"type": DURATION, "metavar": "DURATION"}
    elif option.type is not bool:
        form = {"multiple": True, "metavar": "KEY=VALUE", "callback": _environment}
    elif option.value:
        form = {"type": click.BOOL, "default": None, "metavar": option.value}
    elif option.no_flag:
        flag, form = f"{flag}/{option.no_flag}", {"default": None}
    else:
        form = {"is_flag": True}
    if option.variable:
        form |= {"envvar": option.variable, "show_envvar": True}
    return click.option(flag, option.name, help=option.help, **form)


def _seconds_or_off(text: str) -> float:
    if text.strip().lower() == "off":
        return 0.0
    if not (seconds := parse_duration(text)):
        raise ValueError(f"`{text}` is no time to keep: write for example 60s, or off")
    return seconds


def _refused(option: Option, why: str) -> Callable[[_Function], _Function]:
    def refuse(ctx: click.Context, param: click.Parameter, value: object) -> None:  # noqa: ARG001
        if value:
            raise click.UsageError(f"{option.flag} makes no sense here: {why}", ctx)

    is_flag = option.type is bool and not option.value
    return click.option(option.flag, is_flag=is_flag, hidden=True, expose_value=False, callback=refuse)


def _environment(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    try:
        return parse_environment(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
