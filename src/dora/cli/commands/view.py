"""``dora view``: look at recordings in the browser. `dora.recording.history.answers` has what is shown."""

from __future__ import annotations

import os

import click

from dora.cli.argument_values import InputFile
from dora.cli.process import termination_as_interrupt
from dora.errors import DoraError

MOST_FILES = 4


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=InputFile())
@click.option("--open/--no-open", "open_page", default=True, help="Open the page in the browser [open].")
def view(files: tuple[str, ...], open_page: bool) -> None:
    """Look at recordings in the browser, at any moment.

    Shows a recording of dora, also one that was cut off, an MCAP file of ROS 2, of Foxglove or of another
    program, or the folder of a bag. Nothing is run. With several files, for example a run and its replay,
    they are shown side by side, from their beginnings on, and where the second differs from the first is
    marked. Ends with Ctrl-C.
    """
    if len(files) > MOST_FILES:
        raise click.UsageError(f"{MOST_FILES} recordings fit side by side, and there are {len(files)}")
    for file in files:
        if not os.path.exists(file):
            raise DoraError(f"there is no file `{file}`")
    from dora.recording.history.worker import start_worker

    paths = [os.path.abspath(file) for file in files]
    process = start_worker(paths)  # it opens them while the server is imported
    from dora.cluster.dashboard.local_server import serve_view

    def announce(address: str) -> None:
        click.echo(f"The page is at {address}", err=True)
        if open_page:
            from dora.cli.command_run import open_in_browser

            open_in_browser(address)

    with termination_as_interrupt():
        try:
            serve_view(paths, process, announce)
        except KeyboardInterrupt:
            pass
