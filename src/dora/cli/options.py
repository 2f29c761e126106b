"""Options and kinds of commands that several modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dora._strict import STRICT_VARIABLE
from dora.cli.argument_values import ParameterValue, parse_duration, parse_environment
from dora.cli.compat import hub_option, ignored_option
from dora.cli.completion import node_levels
from dora.daemon.logs.entry import parse_filter, parse_level
from dora.daemon.logs.formats import LOG_FORMATS

if TYPE_CHECKING:
    from dora.daemon.build.lockfile import Lock

_Function = TypeVar("_Function", bound=Callable[..., Any])

DURATION = ParameterValue("duration", parse_duration)


class CommandGroup(click.Group):
    """A group of commands that prints its help and exits with status 2 if no command is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class RunCommand(click.Command):
    """A command whose ``--exit-when-nodes-finish`` needs no value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        bare = "--exit-when-nodes-finish"
        options = [f"{bare}=true" if argument == bare else argument for argument in args[:end]]
        return super().parse_args(ctx, options + args[end:])


def _environment(
    ctx: click.Context,
    param: click.Parameter,
    value: tuple[str, ...],
) -> dict[str, str]:
    try:
        return parse_environment(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def all_of(*declarations: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    """Return a decorator that declares several options, in this order in the help."""

    def declare(function: _Function) -> _Function:
        for declaration in reversed(declarations):
            function = declaration(function)
        return function

    return declare


trace_option = click.option(
    "--trace",
    is_flag=True,
    envvar="DORA_TRACE",
    show_envvar=True,
    help="Record which message led to which, for `dora trace`.",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(["iceoryx2", "shm", "zenoh"]),
    default=None,
    help="Transport of messages between nodes [iceoryx2 where it is installed, else shm].",
)

strict_option = click.option(
    "--strict",
    is_flag=True,
    envvar=STRICT_VARIABLE,
    show_envvar=True,
    help="Fail if a node sends to an undeclared output, if a link drops more than half of its messages, or "
    "if a node does not end at STOP.",
)

hot_reload_option = click.option(
    "--hot-reload", is_flag=True, help="Reload nodes and operators when their Python files are saved."
)

shell_nodes_option = click.option(
    "--allow-shell-nodes", is_flag=True, help="Allow nodes with `path: shell`."
)

preload_option = click.option(
    "--preload/--no-preload",
    default=None,
    help="Start nodes as copies of a process that has imported NumPy, pyarrow and named packages [where it "
    "saves time].",
)

uv_option = click.option("--uv", is_flag=True, help="Build and run nodes with uv.")

debug_option = ignored_option(
    "--debug", is_flag=True, hidden=False, why="`dora topic` can look into every dataflow"
)

environment_option = click.option(
    "--env",
    "env",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_environment,
    help="Environment variable for all nodes; the `env` of a node overrides it. Repeatable.",
)

exit_option = click.option(
    "--exit-when-nodes-finish",
    type=click.BOOL,
    default=None,
    metavar="[=BOOL]",
    help="Whether a node finishes once all its inputs except timers are closed; overrides the file.",
)

dataflow_options = all_of(environment_option, exit_option)
"""The options that override the dataflow file: ``env`` and ``exit_when_nodes_finish``."""


def display_options(*level: str) -> Callable[[_Function], _Function]:
    """Declare ``log_level``, with these names, ``log_format`` and ``log_filter``."""
    return all_of(
        click.option(
            *level,
            type=ParameterValue("level", parse_level),
            default="stdout",
            envvar="DORA_LOG_LEVEL",
            show_envvar=True,
            metavar="LEVEL",
            help="Least severe level to show: error, warn, info, debug, trace, or stdout for all.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(LOG_FORMATS, case_sensitive=False),
            default="pretty",
            envvar="DORA_LOG_FORMAT",
            show_envvar=True,
            help="Format of log entries; json is one object per line.",
        ),
        click.option(
            "--log-filter",
            type=ParameterValue("filter", parse_filter),
            envvar="DORA_LOG_FILTER",
            show_envvar=True,
            metavar="NODE=LEVEL,...",
            shell_complete=node_levels,
            help="Levels of single nodes; they override --log-level.",
        ),
    )


allow_incomplete_option = click.option(
    "--allow-incomplete",
    is_flag=True,
    help="Accept a recording that cannot be read to its end, for example because its recorder was killed.",
)

lock_options = all_of(
    click.option("--locked", is_flag=True, help="Use the commits of the lockfile for nodes with `git`."),
    click.option(
        "--write-lockfile", is_flag=True, help="Write the commits of nodes with `git` to the lockfile."
    ),
    click.option(
        "--lockfile",
        metavar="PATH",
        default="",
        help="Path of the lockfile [<name of FILE>.dora-lock.yaml beside it].",
    ),
    hub_option,
)
"""The arguments of `lock_of`: ``locked``, ``write_lockfile`` and ``lockfile``."""


def lock_of(locked: bool, write_lockfile: bool, lockfile: str) -> Lock | None:
    """Return the lock that the options ask for, None for none; raises ``UsageError``."""
    if locked and write_lockfile:
        raise click.UsageError("--locked and --write-lockfile contradict each other")
    if not (locked or write_lockfile):
        if lockfile:
            raise click.UsageError("--lockfile goes with --locked or --write-lockfile")
        return None
    from dora.daemon.build.lockfile import Lock

    return Lock(locked, write_lockfile, lockfile)
