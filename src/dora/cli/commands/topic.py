"""``dora topic``: show the messages of a running dataflow, and publish by hand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dora.cli.argument_values import MAX_COUNT
from dora.cli.options import DURATION, CommandGroup
from dora.cli.running_options import dataflow_option, running_topics
from dora.cli.select import lower_priority
from dora.cli.tables import console, format_option, print_table, rich_table, without
from dora.errors import DoraError
from dora.wire.daemon_protocol import Publish
from dora.wire.message import pack_head

if TYPE_CHECKING:
    from rich.table import Table

    from dora.cli.running import RunningDataflow
    from dora.observe.observer import Observation
    from dora.observe.queries import TopicQuery
    from dora.observe.rates import MeasuredRate
    from dora.observe.topics import Topic

MAX_MESSAGE = (1 << 20) - 4096  # bytes that fit through the daemon's socket
_REDRAW_INTERVAL = 0.5  # seconds
_BRIEF = 10.0  # seconds; a shorter query keeps its priority


@click.group(cls=CommandGroup)
def topic() -> None:
    """Show the messages of a running dataflow, and publish."""


def _duration_option(text: str) -> Callable[[Any], Any]:
    return click.option("--duration", type=DURATION, metavar="DURATION", help=text)


@topic.command("list")
@dataflow_option
@format_option("one object a line: `node`, `name`, `subscribers`, and `machine` if there are several")
@click.option(
    "--ros2",
    is_flag=True,
    help="List the topics of ROS 2 in the domain $ROS_DOMAIN_ID [0], and the nodes on both sides.",
)
def list_topics(dataflow: str | None, style: str, ros2: bool) -> None:
    """List the outputs and who receives them."""
    from dora.cli.running import find_running
    from dora.observe.topics import topics_of

    if ros2:
        if dataflow is not None:
            raise click.UsageError("--ros2 looks at a domain of ROS, and not at a dataflow")
        _list_ros_topics(style)
        return
    with find_running(dataflow) as running:
        topics = topics_of(running.inspection)
        machines = [running.machine_of(item.node_id) for item in topics]
    if style == "json":
        for item, machine in zip(topics, machines, strict=True):
            fields = {"node": item.node_id, "name": item.output.id, "subscribers": item.subscribers}
            click.echo(json.dumps({**fields, "machine": machine} if machine else fields))
        return
    rows = [
        [item.node_id, machine, item.output.id, ", ".join(item.subscribers)]
        for item, machine in zip(topics, machines, strict=True)
    ]
    needless = [] if any(machines) else ["Machine"]
    print_table(*without((["Node", "Machine", "Name", "Subscribers"], rows), *needless))


def _list_ros_topics(style: str) -> None:
    from dora.ros2.api.policies import domain_of
    from dora.ros2.topic_list import topics_of_domain

    try:
        topics = topics_of_domain(domain_of(None))
    except ValueError as error:
        raise DoraError(str(error)) from None
    if style == "json":
        for item in topics:
            click.echo(json.dumps(item._asdict()))
        return
    rows = [
        [item.name, ", ".join(item.types), ", ".join(item.publishers), ", ".join(item.subscribers)]
        for item in topics
    ]
    print_table(["Name", "Type", "Publishers", "Subscribers"], rows)


@topic.command("echo")
@click.argument("topics", metavar="[NODE/OUTPUT]...", nargs=-1, shell_complete=running_topics)
@dataflow_option
@format_option("one object a line: `timestamp`, `name`, `data`, `metadata`, and `length` of shortened data")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), metavar="N", help="End after so many messages.")
@_duration_option("End after this time.")
@click.option(
    "--full",
    is_flag=True,
    help="Show all values of long arrays and texts; on another machine, of messages up to 256 KiB.",
)
def echo(
    topics: tuple[str, ...],
    dataflow: str | None,
    style: str,
    count: int | None,
    duration: float | None,
    full: bool,
) -> None:
    """Show messages as they are sent.

    Of all outputs, if none is named. The dataflow does not wait for this command: messages for which it is
    too slow are counted and skipped. Ctrl-C ends it.
    """
    from dora.cli.running import find_running
    from dora.observe.queries import EchoQuery, Line
    from dora.observe.topics import find_tappable, node_of

    shown = 0

    def enough() -> bool:
        return count is not None and shown >= count

    def make_query(names: list[str]) -> EchoQuery:
        return EchoQuery(names, full, style == "json")

    with find_running(dataflow, node_of(topics)) as running:
        wanted = find_tappable(running.inspection, topics)
        with observing(
            running, wanted, make_query, duration, enough, brief=count is not None
        ) as observation:
            for result in observation.results():
                if isinstance(result, Line):
                    shown += 1
                    print(result.text)
                else:
                    sys.stdout.flush()
        sys.stdout.flush()


@contextmanager
def observing(
    running: RunningDataflow,
    topics: Sequence[Topic],
    make_query: Callable[[list[str]], TopicQuery],
    duration: float | None = None,
    enough: Callable[[], bool] = lambda: False,
    *,
    brief: bool = False,
) -> Iterator[Observation]:
    """Run a query on topics, in this process or on their machines; Ctrl-C ends it.

    ``make_query`` makes it of the names of topics. A process that observes for longer than 10 s lowers its
    priority below the nodes', unless the query is ``brief``. At the end, standard error says what
    was missed and whether the dataflow has ended. Raises `DoraError` if a query ended too early.
    """
    if running.run is not None and running.are_local(topic.node_id for topic in topics):
        from dora.wire.decode import warm_up

        warm_up()  # at full priority: on a busy machine it would take a minute
        if not (brief or (duration is not None and duration <= _BRIEF)):
            lower_priority()
    observation = running.observe(topics, make_query, duration, enough)
    try:
        yield observation
    except KeyboardInterrupt:
        pass  # the usual way to end it
    finally:
        observation.finish()
        for name, (missed, received) in observation.missed.items():
            click.echo(
                f"{name}: {missed:,} messages came faster than they could be read, {received:,} were read",
                err=True,
            )
    if observation.ended:
        click.echo("the dataflow has ended", err=True)
    elif observation.faults:
        raise DoraError(observation.faults[-1])


@topic.command("hz")
@click.argument("topics", metavar="[NODE/OUTPUT]...", nargs=-1, shell_complete=running_topics)
@dataflow_option
@click.option(
    "--window",
    type=DURATION,
    default="10",
    metavar="DURATION",
    help="The window over which rates are measured [10s].",
)
@_duration_option("End after this time [5s, if the output is not a terminal].")
def hz(topics: tuple[str, ...], dataflow: str | None, window: float, duration: float | None) -> None:
    """Measure how often messages are sent.

    Of all outputs, if none is named. Prints a live table on a terminal, otherwise one table at the end,
    with columns separated by tabs. It measures when messages are sent. Ctrl-C ends it.
    """
    from dora.cli.running import find_running
    from dora.observe.queries import RateQuery, Rates
    from dora.observe.topics import find_tappable, node_of

    if not window:
        raise click.UsageError("--window must be longer than 0")
    live = sys.stdout.isatty()
    if duration is None and not live:
        duration = 5.0
    with find_running(dataflow, node_of(topics)) as running:
        wanted = find_tappable(running.inspection, topics)
        rates: dict[str, MeasuredRate | None] = dict.fromkeys([item.name for item in wanted])
        with (
            observing(running, wanted, lambda names: RateQuery(names, window), duration) as observation,
            _redrawing(live, lambda: _rate_table(rates)) as redraw,
        ):
            for result in observation.results():
                if isinstance(result, Rates):
                    rates.update(result.rates)
                redraw()
        for result in observation.last:
            if isinstance(result, Rates):
                rates.update(result.rates)
    if not live:
        click.echo("topic\tavg_ms\tavg_hz\tmin_ms\tmax_ms\tstd_ms\tsamples")
        for name, rate in rates.items():
            click.echo("\t".join([name, *_rate_cells(rate)]))


@contextmanager
def _redrawing(live: bool, make: Callable[[], Table]) -> Iterator[Callable[[], None]]:
    """Yield a function that draws a table in the same place, at most twice a second, if it is ``live``."""
    if not live:
        yield lambda: None
        return
    from rich.live import Live

    due = 0.0
    with Live(
        console=console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as screen:

        def redraw() -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + _REDRAW_INTERVAL
                screen.update(make(), refresh=True)

        yield redraw


def _rate_table(rates: dict[str, MeasuredRate | None]) -> Table:
    head = ["Topic", "Avg (ms)", "Avg (Hz)", "Min (ms)", "Max (ms)", "Std (ms)", "Samples"]
    return rich_table(head, [[name, *_rate_cells(rate)] for name, rate in rates.items()])


def _rate_cells(rate: MeasuredRate | None) -> list[str]:
    if rate is None:
        return ["-", "0.000", "-", "-", "-", "0"]
    values = (rate.mean_ms, rate.hz, rate.min_ms, rate.max_ms, rate.deviation_ms)
    return [*(f"{value:.3f}" for value in values), str(rate.samples)]


@topic.command("info")
@click.argument("name", metavar="NODE/OUTPUT", shell_complete=running_topics)
@dataflow_option
@_duration_option("How long to measure [5s].")
def info(name: str, dataflow: str | None, duration: float | None) -> None:
    """Show type, shape, sender, receivers, rate and latencies of an output."""
    from dora.cli.running import find_running
    from dora.observe.queries import InfoQuery, TextResult
    from dora.observe.topics import find_tappable, node_of

    seconds = 5.0 if duration is None else duration
    text = ""
    with find_running(dataflow, node_of([name])) as running:
        wanted = find_tappable(running.inspection, [name])
        with observing(
            running, wanted, lambda _: InfoQuery(name, seconds), brief=seconds <= _BRIEF
        ) as observation:
            for result in observation.results():
                if isinstance(result, TextResult):
                    text = result.text
    if text:
        click.echo(text)


@topic.command("pub", context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="NODE/OUTPUT", shell_complete=running_topics)
@click.argument("text", metavar="[JSON]", required=False)
@dataflow_option
@click.option("--file", "path", metavar="FILE", help="Read the JSON from a file; - is standard input.")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N", help="How often [1].")
def pub(name: str, text: str | None, dataflow: str | None, path: str | None, count: int) -> None:
    """Make a node send a message.

    A JSON list is the array, anything else an array of one value. The node sends it among its own
    messages when it polls for its next event, so it is numbered, counted and subject to back-pressure like
    any other. It has at most 1 MiB.
    """
    from dora.cli.running import find_running
    from dora.observe.topics import find_tappable, node_of

    if (text is None) == (path is None):
        raise click.UsageError("give the message either as JSON or with --file")
    message = _message(text if path is None else _read(path))
    with find_running(dataflow, node_of([name])) as running:
        (wanted,) = find_tappable(running.inspection, [name])
        for done in range(count):
            try:
                running.ask(Publish(wanted.node_id, wanted.output.id, message))
            except DoraError as error:
                raise DoraError(f"{error} ({done} of {count} sent)" if count > 1 else str(error)) from None
    times = "" if count == 1 else f" {count} times"
    click.echo(f"Published to `{name}`{times}")


def _read(path: str) -> str:
    from dora.dataflow.yaml.files import NotAFile, TooLarge, read_bytes

    try:
        return read_bytes("/dev/stdin" if path == "-" else path).decode()
    except NotAFile as error:
        raise DoraError(f"{path} is {error}, not a file") from None
    except TooLarge:
        raise DoraError(f"{path} is too large for a message") from None
    except OSError as error:
        raise DoraError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DoraError(f"{path} is not a text in UTF-8, which JSON is") from None


def _message(text: str | None) -> bytes:
    from dora.observe.formatting import parse_data
    from dora.wire.encode import encode

    try:
        payload = encode(parse_data(text or ""))
    except ValueError as error:
        raise DoraError(f"the message {error}") from None
    head = pack_head(payload.encoding, payload.schema, b"", payload.size, 0, 0)
    size = len(head) + payload.size
    if size > MAX_MESSAGE:
        raise DoraError(f"the message has {size:,} bytes; at most {MAX_MESSAGE:,} can be published")
    return head + payload.to_bytes()
