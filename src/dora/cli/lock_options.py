"""The options about the lock of a dataflow, of `dora run` and `dora build`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dora.cli.later import hub_option

if TYPE_CHECKING:
    from dora.building.lockfile import Lock

_Function = TypeVar("_Function", bound=Callable[..., Any])


def lock_options(function: _Function) -> _Function:
    """Declare them; the command gets ``locked``, ``write_lockfile`` and ``lockfile``, for `lock_of`."""
    for declare in (
        hub_option,
        click.option(
            "--lockfile",
            metavar="PATH",
            default="",
            help="The lockfile [<name of FILE>.dora-lock.yaml beside it].",
        ),
        click.option(
            "--write-lockfile", is_flag=True, help="Write the commits of nodes with `git` to the lockfile."
        ),
        click.option(
            "--locked", is_flag=True, help="Take the commits of the lockfile for nodes with `git`."
        ),
    ):
        function = declare(function)
    return function


def lock_of(locked: bool, write_lockfile: bool, lockfile: str) -> Lock | None:
    """Return what is wanted, None for nothing; raises ``UsageError``."""
    if locked and write_lockfile:
        raise click.UsageError("--locked and --write-lockfile contradict each other")
    if not (locked or write_lockfile):
        if lockfile:
            raise click.UsageError("--lockfile goes with --locked or --write-lockfile")
        return None
    from dora.building.lockfile import Lock

    return Lock(locked, write_lockfile, lockfile)
