"""The dataflow that ``dora stop`` and ``dora restart`` mean without a name: one of this folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dora.cli.coordinator import ask_which
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.cluster.protocol import DataflowView


def choose_here(views: Sequence[DataflowView]) -> DataflowView | None:
    """Return the only running dataflow whose file is in this folder or below; None if ``views`` is empty.

    If there is none or more than one, asks on a terminal, and raises `DoraError` with a list elsewhere:
    what runs may be the robot of another window.
    """
    if not views:
        return None
    here = [view for view in views if _is_here(view.file)]
    if len(here) == 1:
        return here[0]
    found = here or views
    if sys.stdin.isatty():
        if not here:
            click.echo("No dataflow of this folder is running, but others are:", err=True)
        return found[ask_which([(view.uuid, named(view.name, view.file)) for view in found])]
    which = "Multiple dataflows running" if here else "No dataflow of this folder is running"
    lines = "".join(f"\n  {view.uuid}  {named(view.name, view.file)}" for view in found)
    raise DoraError(f"{which}. Specify one by NAME_OR_UUID:{lines}")


def named(name: str, file: str | None) -> str:
    """Return a dataflow as a user knows it: its name, and the folder of its file.

    >>> named("arm", "/home/me/robot/arm.yml")
    'arm in /home/me/robot'
    >>> named("arm", None)
    'arm'
    """
    where = os.path.dirname(file) if file and "://" not in file else file
    return f"{name} in {where}" if where else name


def stopped(uuid: str, name: str, file: str | None) -> str:
    """Return the line about a dataflow that was stopped; scripts look for its beginning and the UUID."""
    return f"dataflow stopped: {uuid} ({named(name, file)})"


def _is_here(file: str | None) -> bool:
    if not file or "://" in file:
        return False
    # Without links: a shell may have come to this folder through one.
    here, folder = os.path.realpath(os.curdir), os.path.realpath(os.path.dirname(file))
    return os.path.commonpath([here, folder]) == here
