"""Tables on standard output, and the option that chooses between a table and JSON.

Rich draws the tables; it is imported for the first one. Names and values of other programs are made
`visible` and become `Text`: neither control characters nor Rich's markup in them have an effect.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from dora.daemon.logs.formats import wants_colour
from dora.daemon.logs.terminal import control, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Cell = TypeVar("_Cell")

_UNLIMITED: Final = 1_000_000  # columns of what is not a terminal: no value is shortened or wrapped


def format_option(json: str) -> Callable[[_Function], _Function]:
    """Declare ``style``, "table" or "json"; ``json`` describes the objects for the help text."""
    return click.option(
        "-f",
        "--format",
        "style",
        type=click.Choice(["table", "json"]),
        default="table",
        help=f"Output format [table]; json is {json}.",
    )


class RichOutput(io.StringIO):
    """A standard stream for Rich, whose escape sequences must reach the terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str, /) -> int:
        control(self._stream, text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "node"), counted(1200, "message")
    ('1 node', '1,200 messages')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def console() -> Console:
    """Return a console on standard output: without colours and limits of width unless it is a terminal."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(
        file=RichOutput(sys.stdout),
        force_terminal=is_terminal,
        color_system="auto" if wants_colour(is_terminal, os.environ) else None,
        width=None if is_terminal else _UNLIMITED,
        markup=False,
        emoji=False,
        highlight=False,
    )


def rich_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return columns under their names, as wide as needed; a narrow terminal gets several lines a cell."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(Text(visible(name), style="bold"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def without(
    table: tuple[Sequence[str], Sequence[Sequence[_Cell]]], *columns: str
) -> tuple[list[str], list[tuple[_Cell, ...]]]:
    """Return names and rows without the columns of these names.

    >>> without((["NODE", "PID"], [["camera", "7"]]), "PID")
    (['NODE'], [('camera',)])
    """
    head, rows = table
    kept = [index for index, name in enumerate(head) if name not in columns]
    return [head[index] for index in kept], [tuple(row[index] for index in kept) for row in rows]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns under their names, without spaces at the ends of lines.

    >>> print_table(["NODE", "PID"], [["camera", "7"], ["arm", "12"]])
    NODE    PID
    camera  7
    arm     12
    """
    drawing = console()
    with drawing.capture() as captured:
        drawing.print(rich_table(head, rows))
    for line in captured.get().splitlines():
        control(sys.stdout, f"{line.rstrip()}\n")
