"""A progress bar for work on a file that takes more than a second, on a terminal only, drawn with Rich."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from dora.cli.tables import RichOutput
from dora.daemon.logs.formats import wants_colour

if TYPE_CHECKING:
    from dora.recording.mcap.reader import Recording

DELAY: Final = 1.0  # seconds; what is quicker needs no bar, and no import of Rich
_INTERVAL: Final = 0.25  # seconds


@contextmanager
def reading(what: str, recording: Recording) -> Iterator[None]:
    """Show how much of a recording has been read in this block, with rate and time left.

    The part is that of the recorded time; nothing may be written to the terminal in the block.
    """

    def done() -> int:
        if not (span := recording.last_ns - recording.first_ns):
            return 0
        part = (recording.reached_ns - recording.first_ns) / span
        return int(recording.size * min(max(part, 0.0), 1.0))

    if os.environ.get("DORA_PROGRESS", "auto") != "auto" or not wants_colour(
        sys.stderr.isatty(), os.environ
    ):
        yield
        return
    recording.reached_ns = 0  # it may have been read before
    ended = threading.Event()
    thread = threading.Thread(target=_draw, args=(what, done, recording.size, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _draw(what: str, done: Callable[[], int], total: int, ended: threading.Event) -> None:
    if ended.wait(DELAY):
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(file=RichOutput(sys.stderr), force_terminal=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task(what, total=total)
        while True:
            progress.update(task, completed=done(), refresh=True)
            if ended.wait(_INTERVAL):
                return
