"""The argument FILE of commands about a dataflow file: its default, and help for a program."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from dora.cli.completion import dataflow_files

_Function = TypeVar("_Function", bound=Callable[..., Any])

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
