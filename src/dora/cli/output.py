"""Tables, and the option that chooses between a table and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _style_option(json: str) -> Callable[[_Function], _Function]:
    return click.option(
        "-f",
        "--format",
        "style",
        type=click.Choice(["table", "json"]),
        default="table",
        help=f"Output format [table]; json is {json}.",
    )


style_option: Callable[[_Function], _Function] = _style_option("one object a line")
object_style_option: Callable[[_Function], _Function] = _style_option("one object")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns under their names, as wide as needed; the last one has no padding.

    >>> print(table(["NODE", "PID"], [["camera", "7"], ["arm", "12"]]))
    NODE    PID
    camera  7
    arm     12
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
