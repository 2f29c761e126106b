"""Draws the status line of a terminal, with Rich."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from dora.daemon.logs.terminal import visible

_SEPARATOR = " · "


def drawn(parts: Sequence[tuple[str, str]], width: int) -> str:
    """Return texts with their styles of Rich as one line with escape sequences, below ``width`` cells.

    Where there is no room for all, dim texts are left out.

    >>> drawn([("3 nodes", "bold"), ("none dropped", ""), ("7 s", "dim")], 14)
    '\\x1b[1m3 nodes\\x1b[0m · no…'
    """
    room = max(width - 1, 1)  # the last column would wrap
    line = _joined(parts)
    if line.cell_len > room:
        line = _joined([part for part in parts if part[1] != "dim"])
    line.truncate(room, overflow="ellipsis")
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", width=width, legacy_windows=False
    )
    with console.capture() as captured:
        console.print(line, end="", soft_wrap=True, highlight=False)
    return captured.get()


def _joined(parts: Sequence[tuple[str, str]]) -> Text:
    return Text(_SEPARATOR).join(Text(visible(text), style) for text, style in parts)


def is_foreground(descriptor: int) -> bool:
    """Return whether this process may draw on its terminal: no shell has put it into the background."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # this terminal is not the one that controls this process
        return True
