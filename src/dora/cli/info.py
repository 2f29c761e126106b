"""``dora info``: what is in a recording."""

from __future__ import annotations

from typing import Any

import click

from dora.cli.tables import fields, file_size, object_style_option, table
from dora.cli.values import InputFile


@click.command()
@click.argument("recording", metavar="RECORDING", type=InputFile())
@object_style_option
def info(recording: str, style: str) -> None:
    """Tell what is in a recording.

    Topics with their types, counts and rates, the dataflow that was recorded, and whether anything is
    missing. A file that was cut off, by a crash say, is read up to there.
    """
    from dora.recording.info import facts
    from dora.recording.reader import Recording

    with Recording(recording) as opened:
        found = facts(opened)
    if style == "json":
        from dora.recording.compare import as_json

        click.echo(as_json(found))
        return
    click.echo(_text(found))


def _text(found: dict[str, Any]) -> str:
    dataflow = found["dataflow"]
    named = " ".join(
        part for part in (dataflow["name"], f"({dataflow['file']})" if dataflow["file"] else "") if part
    )
    kept = f"the last {found['last_seconds']:g} s that were kept" if found["last_seconds"] else ""
    pairs = [
        ("Recording", f"{found['file']}, {file_size(found['size'])}"),
        ("Dataflow", named or dataflow["id"]),
        ("Nodes", ", ".join(dataflow["nodes"])),
        ("Started", f"{found['started']} on {found['host']}" if found["host"] else found["started"]),
        ("Duration", f"{found['duration']:.3f} s" + (f", {kept}" if kept else "")),
        ("Messages", f"{found['messages']:,} in {len(found['topics'])} topics"),
        ("Complete", f"no: {found['trouble']}" if found["trouble"] else "yes"),
        ("Replay", _replay(found)),
        *([("Failed", ", ".join(found["failed"]))] if found["failed"] else []),
        *([("Silent", ", ".join(found["silent"]))] if found["silent"] else []),
        ("Written by", f"dora {found['dora']}, Python {found['python']}"),
    ]
    rows = [
        [
            topic["name"],
            _type(topic),
            f"{topic['messages']:,}",
            f"{topic['rate']:.2f} Hz" if topic["rate"] is not None else "-",
            "?" if topic["lost"] is None else f"{topic['lost']:,}",
        ]
        for topic in found["topics"]
    ]
    head = ["TOPIC", "TYPE", "MESSAGES", "RATE", "LOST"]
    return "\n".join([fields(pairs), "", table(head, rows)] if rows else [fields(pairs)])


def _type(topic: dict[str, Any]) -> str:
    types = ", ".join(topic["types"]) or "?"
    return f"{types} ({topic['declared']})" if topic["declared"] else types


def _replay(found: dict[str, Any]) -> str:
    if not found["order"]:
        return "nodes take their inputs as they come: the order of events is not in the file"
    return "in recorded order" + ("" if found["together"] else ", from the middle of a run")
