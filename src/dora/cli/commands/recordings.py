"""``dora info``, ``diff`` and ``export``: show, compare and convert recordings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from msgspec import json, structs

from dora.cli.argument_values import NAMES, InputFile, ParameterValue, shortened
from dora.cli.options import allow_incomplete_option, check_bag_options, images_option
from dora.cli.progress_bar import progress_mode, progress_option, reading
from dora.cli.reports import report_truncation, warn_about_losses, write_bag
from dora.cli.tables import counted, format_option, print_table
from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError
from dora.observe.formatting import fields, file_size

if TYPE_CHECKING:
    from dora.recording.compare import Tolerance, TopicDiff


@click.command()
@click.argument("recording", metavar="RECORDING", type=InputFile())
@click.option(
    "--paths", is_flag=True, help="Also read all messages, and show how long data took to each output."
)
@format_option("one object, with `complete`, `messages`, `duration`, `topics` and more")
def info(recording: str, paths: bool, style: str) -> None:
    """Show what is in a recording, or in a bag of ROS 2.

    Shows topics with their types, counts and rates, the recorded dataflow, and whether anything is
    missing. A truncated file, for example after a crash, is read as far as possible.
    """
    from dora.recording.mcap.info import facts, path_times
    from dora.recording.opening import open_recording

    with open_recording(recording) as opened:
        found = facts(opened)
        if paths:
            found["paths"] = [structs.asdict(path) for path in path_times(opened)]
    if style == "json":
        click.echo(json.encode(found).decode())
        return
    _print_info(found)


def _print_info(found: dict[str, Any]) -> None:
    dataflow = found["dataflow"]
    named = " ".join(
        part for part in (dataflow["name"], f"({dataflow['file']})" if dataflow["file"] else "") if part
    )
    kept = f"the last {found['last_seconds']:g} s that were kept" if found["last_seconds"] else ""
    ros2 = found["ros2"]
    of_dataflow = [("Dataflow", named or dataflow["id"]), ("Nodes", ", ".join(dataflow["nodes"]))]
    pairs = [
        ("Bag of ROS 2" if ros2 else "Recording", f"{found['file']}, {file_size(found['size'])}"),
        *([] if ros2 else of_dataflow),
        ("Started", f"{found['started']} on {found['host']}" if found["host"] else found["started"]),
        ("Duration", f"{found['duration']:.3f} s" + (f", {kept}" if kept else "")),
        ("Messages", f"{found['messages']:,} in {len(found['topics'])} topics"),
        ("Complete", f"no: {found['trouble']}" if found["trouble"] else "yes"),
        *([] if ros2 else [("Replay", _replay(found))]),
        *([("Failed", ", ".join(found["failed"]))] if found["failed"] else []),
        *([("Silent", ", ".join(found["silent"]))] if found["silent"] else []),
        *(_of_bag(ros2) if ros2 else [("Written by", f"dora {found['dora']}, Python {found['python']}")]),
    ]
    click.echo(fields(pairs))
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
    if rows:
        click.echo()
        print_table(["TOPIC", "TYPE", "MESSAGES", "RATE", "LOST"], rows)
    if found.get("paths"):
        click.echo()
        print_table(
            ["FROM", "TO", "MESSAGES", "MEDIAN", "99 %", "WORST"], list(map(_path_row, found["paths"]))
        )


def _of_bag(ros2: dict[str, Any]) -> list[tuple[str, str]]:
    left_out = ", ".join(
        f"{topic} ({encoding or 'no encoding'})" for topic, encoding in ros2["left_out"].items()
    )
    return [
        *([("Distribution", ros2["distribution"])] if ros2["distribution"] else []),
        *([("Not readable", left_out)] if left_out else []),
    ]


def _path_row(path: dict[str, Any]) -> list[str]:
    times = (f"{path[name]:.1f} ms" for name in ("median_ms", "p99_ms", "worst_ms"))
    return [path["source"], path["sink"], f"{path['messages']:,}", *times]


def _type(topic: dict[str, Any]) -> str:
    types = ", ".join(topic["types"] or topic["schemas"]) or "?"
    return f"{types} ({topic['declared']})" if topic["declared"] else types


def _replay(found: dict[str, Any]) -> str:
    if not found["order"]:
        return "nodes take their inputs as they come: the order of events is not in the file"
    return "in recorded order" + ("" if found["together"] else ", from the middle of a run")


def _tolerance(text: str) -> Tolerance:
    from dora.recording.compare import parse_tolerance

    if len(text) > 100:  # parsing takes quadratic time
        raise ValueError(f"`{shortened(text)}` is not a tolerance: write for example 0.001, 1e-6 or 0.1%")
    return parse_tolerance(text)


@click.command()
@click.argument("first", metavar="FIRST", type=InputFile())
@click.argument("second", metavar="SECOND", type=InputFile())
@click.option(
    "--tolerance",
    "tolerances",
    type=ParameterValue("tolerance", _tolerance),
    multiple=True,
    metavar="NUMBER|PERCENT",
    help="Accepted difference of numbers: 0.001, or 0.1% of the first. Repeatable; the larger counts.",
)
@click.option("--topics", type=NAMES, metavar="NODE/OUTPUT,...", help="Compare only these topics [all].")
@click.option("--metadata", is_flag=True, help="Also compare the metadata of messages, except time stamps.")
@allow_incomplete_option
@progress_option
@format_option("one object a topic")
def diff(
    first: str,
    second: str,
    tolerances: tuple[Tolerance, ...],
    topics: list[str] | None,
    metadata: bool,
    allow_incomplete: bool,
    progress: str,
    style: str,
) -> int:
    """Compare two recordings, message by message.

    For each topic, compares types, values and counts: the first message with the first, the second with
    the second, and so on. Times are ignored. NaN equals NaN. Topics that differ come first. The exit status
    is 0 if the recordings are equal, 1 if they differ, and 2 if they could not be compared, or one is
    truncated and the rest is equal.
    """
    from dora.recording.compare import Tolerance, compare
    from dora.recording.mcap.info import cut
    from dora.recording.opening import open_recording

    both = Tolerance(
        max((each.absolute for each in tolerances), default=0.0),
        max((each.relative for each in tolerances), default=0.0),
    )
    try:
        with open_recording(first) as one, open_recording(second) as two:
            with reading(progress_mode(progress), "comparing", one):
                found = compare(one, two, topics or None, both, metadata=metadata)
            cut_off = 0
            for recording in (one, two):  # damage is known after reading
                warn_about_losses(recording)
                cut_off |= report_truncation(recording.path, cut(recording), allow_incomplete)
    except DoraError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    if style == "json":
        _print_json(found)
    else:
        _print_diff(found)
    if not all(topic.equal for topic in found):
        return 1
    return 2 if cut_off else 0


def _print_diff(found: list[TopicDiff]) -> None:
    if not found:
        click.echo("Both recordings are empty.")
        return
    total = sum(topic.first_count for topic in found)
    if all(topic.equal for topic in found):
        click.echo(f"The recordings are equal: {total:,} messages in {len(found)} topics.")
        return
    rows = [
        [
            topic.topic,
            f"{topic.first_count:,}"
            if topic.first_count == topic.second_count
            else f"{topic.first_count:,} / {topic.second_count:,}",
            f"{topic.different:,}",
            _first_difference(topic),
        ]
        for topic in found
    ]
    print_table(["TOPIC", "MESSAGES", "DIFFERENT", "FIRST DIFFERENCE"], rows)
    differing = sum(not topic.equal for topic in found)
    click.echo(f"\nThe recordings differ in {differing} of {len(found)} topics.")


def _first_difference(topic: TopicDiff) -> str:
    place = topic.first
    return "-" if place is None else f"message {place.message:,} at {place.time:.3f} s: {place.what}"


def _print_json(found: list[TopicDiff]) -> None:
    for topic in found:
        line = {
            "topic": topic.topic,
            "equal": topic.equal,
            "messages": [topic.first_count, topic.second_count],
            "different": topic.different,
            "first": topic.first,
        }
        click.echo(json.encode(line).decode())


@click.command()
@click.argument("recording", metavar="RECORDING", type=InputFile())
@click.option(
    "--parquet",
    metavar="FOLDER",
    help="Write FOLDER/<node>/<output>.parquet for each topic, and <output>.2.parquet if its type changes.",
)
@click.option("--rerun", metavar="PATH", help="Write a .rrd file for Rerun (needs the extra `rerun`).")
@click.option("--ros2", metavar="FOLDER", help="Write a bag of ROS 2 (needs the extra `ros2`).")
@images_option
@click.option("--topics", type=NAMES, metavar="NODE/OUTPUT,...", help="Export only these topics [all].")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@allow_incomplete_option
@progress_option
def export(
    recording: str,
    parquet: str | None,
    rerun: str | None,
    ros2: str | None,
    images: bool,
    topics: list[str] | None,
    force: bool,
    allow_incomplete: bool,
    progress: str,
) -> int:
    """Write a recording as Parquet files, or for Rerun or ROS 2.

    In Parquet, each row is a message: its time, its number, its metadata as JSON, the shape of a NumPy
    array, its values as a list (bytes for uint8). In Rerun, messages look as the node
    `dora-rerun` shows them; without a declared form, a few numbers become curves, and texts become logs.
    The bag of ROS 2 has the messages of ROS, which nodes with `ros2` and replayed bags send, and images. A
    truncated file is exported as far as it can be read; the exit status is 1 then, except with
    --allow-incomplete.
    """
    from dora.recording.mcap.info import cut
    from dora.recording.opening import open_recording

    if not (parquet or rerun or ros2):
        raise click.UsageError("choose a format: --parquet FOLDER, --rerun PATH or --ros2 FOLDER")
    for target in (rerun, ros2):
        if target and os.path.realpath(target) == os.path.realpath(recording):
            raise DoraError(f"{target} is the recording itself; choose another name")
    mode = progress_mode(progress)
    # Rerun knows dora's form of images.
    with open_recording(recording, images=images or bool(rerun)) as opened:
        check_bag_options(opened, images)
        _check_topics(topics or [], list(opened.topics))
        if parquet:
            from dora.recording.export_parquet import export_parquet

            with reading(mode, "writing Parquet", opened):
                files = export_parquet(opened, parquet, topics, force=force)
            for written in files:
                click.echo(f"{written.path}: {counted(written.messages, 'message')}")
        if rerun:
            from dora.nodes.installed import check_installed

            check_installed("dora-rerun")
            from dora.nodes.rerun.convert import export_rerun

            with reading(mode, "writing for Rerun", opened):
                drawn, not_drawn = export_rerun(opened, rerun, topics, force=force)
            click.echo(f"{rerun}: {counted(drawn, 'message')}")
            for topic, count in not_drawn.items():
                click.echo(f"warning: {counted(count, 'message')} of {topic} cannot be drawn", err=True)
        if ros2:
            write_bag(opened, ros2, topics, mode, force=force)
        warn_about_losses(opened)
        return report_truncation(recording, cut(opened), allow_incomplete)  # damage is known after reading


def _check_topics(wanted: list[str], there: list[str]) -> None:
    """Raise `DoraError` for a topic that is not there."""
    for name in wanted:
        if name not in there:
            hint = did_you_mean(name, there) or f"it has {listed(there)}"
            raise DoraError(f"the recording has no topic `{name}`; {hint}")
