"""Options and kinds of commands that several modules share, and the argument FILE."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dora.cli.argument_values import ParameterValue, parse_duration
from dora.cli.compat import hub_option, ignored_option
from dora.cli.completion import dataflow_files, node_levels
from dora.daemon.logs.entry import parse_filter, parse_level
from dora.daemon.logs.formats import LOG_FORMATS

if TYPE_CHECKING:
    from dora.daemon.build.lockfile import Lock
    from dora.recording.mcap.recording import Recording

_Function = TypeVar("_Function", bound=Callable[..., Any])

DURATION = ParameterValue("duration", parse_duration)


class CommandGroup(click.Group):
    """A group of commands that prints its help and exits with status 2 if no command is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


def all_of(*declarations: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    """Return a decorator that declares several options, in this order in the help."""

    def declare(function: _Function) -> _Function:
        for declaration in reversed(declarations):
            function = declaration(function)
        return function

    return declare


debug_option = ignored_option(
    "--debug", is_flag=True, hidden=False, why="`dora topic` can look into every dataflow"
)


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

images_option = click.option(
    "--images",
    is_flag=True,
    help="Of a bag of ROS 2: give images as flat bytes with `width`, `height` and `encoding`, as cameras "
    "send them, instead of structs.",
)


def check_bag_options(recording: Recording, *options: object) -> None:
    """Raise a usage error if options for bags are set, and the recording is none."""
    if any(options) and recording.ros2 is None:
        raise click.UsageError("--images and --topic are for bags of ROS 2; dora wrote this recording")


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


# --------------------------------------------------------------------------- a dataflow file


DEFAULT_FILE: Final = "dataflow.yml"


def chosen_file(path: str | None) -> str:
    """Return the dataflow file to use; raises ``ClickException`` for a program, or if there is none."""
    if path is None:
        if not os.path.exists(DEFAULT_FILE):
            raise click.UsageError(
                f"there is no {DEFAULT_FILE} in this folder; give the file of a dataflow, "
                "or make one with `dora new`"
            )
        return DEFAULT_FILE
    if path.endswith(".py") and os.path.isfile(path):
        raise click.ClickException(_what_to_do(path))
    return path


dataflow_argument: Callable[[_Function], _Function] = click.argument(
    "path",
    metavar="[FILE]",
    required=False,
    callback=lambda _ctx, _param, path: chosen_file(path),
    shell_complete=dataflow_files,
)
"""Declare ``path``, which is never None: a dataflow file or its URL."""


def _what_to_do(program: str) -> str:
    """Return an error message for a Python program that was given instead of a dataflow file."""
    folder, name = os.path.split(program)
    stem = name.removesuffix(".py")
    text = f"{program} is a Python program; dora runs dataflow files, which name their programs"
    if (found := _naming(folder, name)) is not None:
        return f"{text}\n\n  hint: {found} has this one: `dora run {found}`"
    return (
        f"{text}\n\n  hint: write {os.path.join(folder, DEFAULT_FILE)}, then run that:\n\n"
        f"nodes:\n  - id: {stem}\n    path: {name}\n"
    )


def _naming(folder: str, program: str) -> str | None:
    """Return a dataflow file of a folder that names a program."""
    for file in sorted(os.listdir(folder or ".")):
        path = os.path.join(folder, file)
        if file.endswith((".yml", ".yaml")) and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as opened:
                if program in opened.read(1 << 20):
                    return path
    return None
