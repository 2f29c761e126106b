"""``dora foxglove``: show a running dataflow or a recording in Foxglove."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dora.cli.argument_values import InputFile
from dora.cli.process import termination_as_interrupt
from dora.cli.running_options import dataflow_option
from dora.cli.select import lower_priority
from dora.nodes.foxglove.address import DEFAULT_ADDRESS, VARIABLE

if TYPE_CHECKING:
    from dora.cli.running import RunningDataflow


@click.command()
@dataflow_option
@click.option(
    "--recording",
    type=InputFile(),
    metavar="RECORDING",
    help="Show a recording instead; Foxglove plays it, and jumps in it.",
)
@click.option(
    "--address",
    default=DEFAULT_ADDRESS,
    envvar=VARIABLE,
    show_envvar=True,
    metavar="HOST:PORT",
    help=f"Where to listen; port 0 is a free one [{DEFAULT_ADDRESS}].",
)
@click.option(
    "--control",
    is_flag=True,
    help="Let Foxglove publish messages and set parameters. Everybody who reaches the address may do so.",
)
def foxglove(dataflow: str | None, recording: str | None, address: str, control: bool) -> None:
    """Show a running dataflow, or a recording, in Foxglove.

    Serves Foxglove's WebSocket protocol: open a connection to the printed address in Foxglove. Nothing in
    the nodes changes, and no node waits for it: a topic is tapped while a panel shows it. Outputs of other
    machines come over the coordinator.
    """
    from dora.cli.running import find_running
    from dora.nodes.installed import check_installed

    if recording is not None and (dataflow is not None or control):
        raise click.UsageError("--recording goes without --dataflow and --control")
    check_installed("dora-foxglove")
    lower_priority()
    with termination_as_interrupt():
        try:
            if recording is not None:
                _play(recording, address)
            else:
                _show(find_running(dataflow), address, control)
        except KeyboardInterrupt:
            pass


def _show(running: RunningDataflow, address: str, control: bool) -> None:
    from dora.nodes.foxglove.beside import announce
    from dora.nodes.foxglove.live import LiveView

    view = LiveView(running, address, running.log_directory, control=control)
    try:
        announce(view.server.address)
        view.run()
    finally:
        view.close()


def _play(path: str, address: str) -> None:
    from dora.nodes.foxglove.beside import announce
    from dora.nodes.foxglove.player import RecordingPlayer
    from dora.recording.opening import open_recording

    with open_recording(path) as recording:
        player = RecordingPlayer(recording, os.path.basename(path), address)
        try:
            announce(player.server.address)
            player.run()
        finally:
            player.close()
