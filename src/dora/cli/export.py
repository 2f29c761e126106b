"""``dora export``: a recording as Parquet files, or for Rerun."""

from __future__ import annotations

import os

import click

from dora.cli.incomplete import allow_incomplete_option, tell_cut, warn_of_lost
from dora.cli.values import InputFile
from dora.errors import DoraError


@click.command()
@click.argument("recording", metavar="RECORDING", type=InputFile())
@click.option("--parquet", metavar="FOLDER", help="Write FOLDER/<node>/<output>.parquet for each topic.")
@click.option(
    "--rerun", metavar="PATH", help="Write a .rrd file, which Rerun opens (needs the extra `rerun`)."
)
@click.option("--topics", metavar="NODE/OUTPUT,...", help="These only [all].")
@click.option("--force", is_flag=True, help="Write over files that exist.")
@allow_incomplete_option
def export(
    recording: str,
    parquet: str | None,
    rerun: str | None,
    topics: str | None,
    force: bool,
    allow_incomplete: bool,
) -> int:
    """Write a recording as Parquet files, or for Rerun.

    In Parquet, a row is a message: when it was sent, its number, its metadata as JSON, its values as a list
    (bytes, if they are of uint8). In Rerun, messages look as the node `dora-rerun` shows them; those that
    do not tell how to be drawn are curves if they are a few numbers, and texts. Of a file that was cut off,
    what can be read is written; the exit status is 1 then, except with --allow-incomplete.
    """
    from dora.recording.info import cut
    from dora.recording.reader import Recording

    if not (parquet or rerun):
        raise click.UsageError("say what to write: --parquet FOLDER or --rerun PATH")
    if rerun and os.path.realpath(rerun) == os.path.realpath(recording):
        raise DoraError(f"{rerun} is the recording itself; choose another file")
    with Recording(recording) as opened:
        wanted = _wanted(topics, list(opened.topics))
        if parquet:
            from dora.recording.parquet import export_parquet

            for written in export_parquet(opened, parquet, wanted, force=force):
                click.echo(f"{written.path}: {_messages(written.messages)}")
        if rerun:
            from dora.viewer.installed import check_rerun

            check_rerun()
            from dora.viewer.export import export_rerun

            drawn, not_drawn = export_rerun(opened, rerun, wanted, force=force)
            click.echo(f"{rerun}: {_messages(drawn)}")
            for topic, count in not_drawn.items():
                click.echo(f"warning: {_messages(count)} of {topic} cannot be drawn", err=True)
        warn_of_lost(opened)
        return tell_cut(recording, cut(opened), allow_incomplete)  # what is damaged is known now


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"


def _wanted(topics: str | None, there: list[str]) -> list[str] | None:
    if topics is None:
        return None
    from dora.dataflow.report import did_you_mean, listed

    wanted = [name.strip() for name in topics.split(",") if name.strip()]
    for name in wanted:
        if name not in there:
            hint = did_you_mean(name, there) or f"it has {listed(there)}"
            raise DoraError(f"the recording has no topic `{name}`; {hint}")
    return wanted
