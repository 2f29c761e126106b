"""What ``dora topic`` shows of nodes on other machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from dora.cli.afar import RemoteObserver
from dora.cli.whole import RunningDataflow
from dora.errors import DoraError
from dora.inspection.afar import Query
from dora.inspection.topics import Topic


@contextmanager
def looking_afar(
    whole: RunningDataflow,
    topics: Sequence[Topic],
    make: Callable[[list[str]], Query],
    duration: float | None,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[RemoteObserver]:
    """Look at topics on all their machines, until the count, the time, the dataflow or Ctrl-C ends it.

    ``make`` makes a look of names. Says at the end, on standard error, what was missed and whether the
    dataflow has ended; raises `DoraError` if a look ended before its time.
    """
    names: dict[str, list[str]] = {}
    for topic in topics:
        names.setdefault(whole.machine_of(topic.node_id), []).append(topic.name)
    looks = RemoteObserver(
        whole.sessions(topic.node_id for topic in topics),
        lambda machine: make(names[machine]),
        duration,
        enough,
    )
    try:
        yield looks
    except KeyboardInterrupt:
        pass  # the usual way to end it
    looks.rest()
    for name, (missed, received) in looks.missed.items():
        click.echo(
            f"{name}: {missed:,} messages came faster than they could be looked at, {received:,} were seen",
            err=True,
        )
    if looks.ended:
        click.echo("the dataflow has ended", err=True)
    elif looks.faults:
        raise DoraError(looks.faults[-1])
