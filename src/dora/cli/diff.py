"""``dora diff``: whether two recordings say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dora.cli.incomplete import allow_incomplete_option, tell_cut, warn_of_lost
from dora.cli.tables import style_option, table
from dora.cli.values import InputFile, ParameterValue, shortened
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.recording.compare import Tolerance
    from dora.recording.diff import TopicDiff


def _tolerance(text: str) -> Tolerance:
    from dora.recording.compare import parse_tolerance

    if len(text) > 100:  # nobody writes so much, and looking at it takes quadratic time
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
    help="How far numbers may differ: 0.001, or 0.1% of the first. May be given twice: the larger counts.",
)
@click.option("--topics", metavar="NODE/OUTPUT,...", help="Compare these only [all topics of both].")
@click.option("--metadata", is_flag=True, help="Compare the metadata of messages too, except time stamps.")
@allow_incomplete_option
@style_option
def diff(
    first: str,
    second: str,
    tolerances: tuple[Tolerance, ...],
    topics: str | None,
    metadata: bool,
    allow_incomplete: bool,
    style: str,
) -> int:
    """Compare two recordings, message by message.

    Of each topic, the first message of one is compared with the first of the other, and so on: types,
    values, counts. When messages were sent does not matter. NaN equals NaN. The exit status is 0 if they
    are equal, 1 if not, 2 if they could not be compared, or one was cut off and the rest is equal.
    """
    from dora.recording.compare import Tolerance
    from dora.recording.diff import compare
    from dora.recording.info import cut
    from dora.recording.reader import Recording

    both = Tolerance(
        max((each.absolute for each in tolerances), default=0.0),
        max((each.relative for each in tolerances), default=0.0),
    )
    try:
        with Recording(first) as one, Recording(second) as two:
            wanted = [name.strip() for name in topics.split(",") if name.strip()] if topics else None
            found = compare(one, two, wanted, both, metadata=metadata)
            cut_off = 0
            for recording in (one, two):  # what is damaged is known now
                warn_of_lost(recording)
                cut_off |= tell_cut(recording.path, cut(recording), allow_incomplete)
    except DoraError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    if style == "json":
        _print_json(found)
    else:
        click.echo(_text(found))
    if not all(topic.equal for topic in found):
        return 1
    return 2 if cut_off else 0


def _text(found: list[TopicDiff]) -> str:
    if not found:
        return "Both recordings are empty."
    total = sum(topic.first_count for topic in found)
    if all(topic.equal for topic in found):
        return f"The recordings are equal: {total:,} messages in {len(found)} topics."
    rows = [
        [
            topic.topic,
            f"{topic.first_count:,}"
            if topic.first_count == topic.second_count
            else f"{topic.first_count:,} / {topic.second_count:,}",
            f"{topic.different:,}",
            _place(topic),
        ]
        for topic in found
    ]
    differing = sum(not topic.equal for topic in found)
    return (
        table(["TOPIC", "MESSAGES", "DIFFERENT", "FIRST DIFFERENCE"], rows)
        + f"\n\nThe recordings differ in {differing} of {len(found)} topics."
    )


def _place(topic: TopicDiff) -> str:
    place = topic.first
    return "-" if place is None else f"message {place.message:,} at {place.time:.3f} s: {place.what}"


def _print_json(found: list[TopicDiff]) -> None:
    from dora.recording.compare import as_json

    for topic in found:
        place = topic.first
        click.echo(
            as_json(
                {
                    "topic": topic.topic,
                    "equal": topic.equal,
                    "messages": [topic.first_count, topic.second_count],
                    "different": topic.different,
                    "first": None
                    if place is None
                    else {"message": place.message, "time": place.time, "what": place.what},
                }
            )
        )
