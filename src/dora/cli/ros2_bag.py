"""Write a recording as a bag of ROS 2, and tell what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dora.cli.progress_bar import Mode, reading
from dora.cli.tables import counted

if TYPE_CHECKING:
    from dora.recording.mcap.recording import Recording


def write_bag(
    recording: Recording, folder: str, topics: list[str] | None, mode: Mode, *, force: bool
) -> None:
    """Write the folder, and print what is in it. Raises as `export_ros2` does."""
    from dora.recording.export_ros2 import export_ros2

    with reading(mode, "writing a bag", recording):
        exported = export_ros2(recording, folder, topics, force=force)
    click.echo(f"{folder}: {counted(exported.messages, 'message')}")
    for topic, count in sorted(exported.left_out.items()):
        click.echo(f"left out: {counted(count, 'message')} of {topic}, which are none of ROS", err=True)
