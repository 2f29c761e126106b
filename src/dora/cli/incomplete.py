"""What commands that read recordings do with one that was cut off, or has a damaged part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dora.recording.mcap.reader import Recording

allow_incomplete_option = click.option(
    "--allow-incomplete",
    is_flag=True,
    help="Accept a recording that cannot be read to its end, as one of a recorder that was killed.",
)


def warn_of_lost(recording: Recording) -> None:
    """Warn of a recording that is whole, and in which messages are missing."""
    from dora.recording.info import trouble

    if not recording.damage and (text := trouble(recording)):
        click.echo(f"warning: {recording.path}: {text}", err=True)


def tell_cut(path: str, cut: str, allowed: bool) -> int:
    """Say up to where a recording could be read, unless to its end; return the exit status."""
    if not cut:
        return 0
    hint = "" if allowed else "; --allow-incomplete accepts that"
    click.echo(f"{'warning' if allowed else 'error'}: {path}: {cut}{hint}", err=True)
    return 0 if allowed else 1
