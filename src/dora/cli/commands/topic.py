"""``dora topic``: look at what the outputs of a running dataflow carry, and publish by hand."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dora.cli.output import MAX_COUNT, ParameterValue, parse_duration, style_option, table
from dora.cli.running import RunningDataflow
from dora.cli.select import dataflow_option, give_way
from dora.cluster.remote_observer import RemoteObserver
from dora.daemon.logs.terminal import control
from dora.errors import DoraError
from dora.observe.remote.protocol import Query
from dora.observe.topics import Topic

if TYPE_CHECKING:
    from dora.cli.running import RunningDataflow
    from dora.observe.rates import MeasuredRate
    from dora.observe.tap_session import AdaptiveTap
    from dora.observe.topics import Topic
    from dora.wire.message import Message

_DURATION = ParameterValue("duration", parse_duration)
MAX_MESSAGE = (1 << 20) - 4096  # bytes that fit through the daemon's socket
_PUBLISH_PATIENCE = 3.0  # seconds


@click.group(invoke_without_command=True)
@click.pass_context
def topic(ctx: click.Context) -> None:
    """Look at what the outputs of a running dataflow carry."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def _duration_option(text: str) -> Callable[[Any], Any]:
    return click.option("--duration", type=_DURATION, metavar="DURATION", help=text)


# ------------------------------------------------------------------ list


@topic.command("list")
@dataflow_option
@style_option
def list_topics(dataflow: str | None, style: str) -> None:
    """List the outputs and who receives them."""
    from dora.cli.running import find_running
    from dora.observe.topics import topics_of

    with find_running(dataflow) as whole:
        topics = topics_of(whole.inspection)
        machines = [whole.machine_of(item.node_id) for item in topics]
    if style == "json":
        for item, machine in zip(topics, machines, strict=True):
            fields = {"node": item.node_id, "name": item.output.id, "subscribers": item.subscribers}
            click.echo(json.dumps({**fields, "machine": machine} if machine else fields))
        return
    head = ["Node", "Name", "Subscribers"]
    rows = [[item.node_id, item.output.id, ", ".join(item.subscribers)] for item in topics]
    if any(machines):
        head.insert(1, "Machine")
        rows = [[row[0], machine, *row[1:]] for row, machine in zip(rows, machines, strict=True)]
    click.echo(table(head, rows))


# ------------------------------------------------------------------ echo


@topic.command("echo")
@click.argument("topics", metavar="[NODE/OUTPUT]...", nargs=-1)
@dataflow_option
@style_option
@click.option("--count", type=click.IntRange(1, MAX_COUNT), metavar="N", help="End after so many messages.")
@_duration_option("End after this time.")
@click.option("--full", is_flag=True, help="Show all values of long arrays and texts.")
def echo(
    topics: tuple[str, ...],
    dataflow: str | None,
    style: str,
    count: int | None,
    duration: float | None,
    full: bool,
) -> None:
    """Show messages as they are sent.

    Of all outputs, if none is named. The dataflow does not notice: nobody waits for this command.
    Messages for which it is too slow are counted and left out. Ctrl-C ends it.
    """
    from dora.cli.running import find_running
    from dora.observe.format_values import FormattedValue
    from dora.observe.remote.protocol import EchoQuery, Line
    from dora.observe.topics import find_tappable
    from dora.wire.decode import warm_up

    shown = 0

    def enough() -> bool:
        return count is not None and shown >= count

    with find_running(dataflow) as whole:
        wanted = find_tappable(whole.inspection, topics)
        if not whole.are_here(topic.node_id for topic in wanted):

            def make(names: list[str]) -> EchoQuery:
                return EchoQuery(names, full, style == "json")

            with looking_afar(whole, wanted, make, duration, enough) as looks:
                for seen in looks.items():
                    if isinstance(seen, Line):
                        shown += 1
                        print(seen.text)
                    else:
                        sys.stdout.flush()
            sys.stdout.flush()
            return
        with _Looking(whole, wanted, duration, enough) as looking:
            warm_up()  # not while messages come
            for watched, message in looking:
                if message is None:
                    sys.stdout.flush()
                    continue
                item = FormattedValue(message, full=full)
                del message
                shown += 1
                name = watched.topic.name
                print(item.as_json(name) if style == "json" else f"{name}\t {item.as_line()}")
            sys.stdout.flush()


class _Looking:
    """Messages of some topics until something ends it: the count, the time, the dataflow or Ctrl-C.

    Says at the end, on standard error, what was missed and whether the dataflow has ended.
    """

    def __init__(
        self,
        whole: RunningDataflow,
        topics: Sequence[Topic],
        duration: float | None,
        enough: Callable[[], bool] = lambda: False,
        period: float | None = None,
    ) -> None:
        from dora.observe.tap_session import TapSession

        assert whole.run is not None
        self.inspection = whole.inspection
        _stay_awake(self.inspection.engine)
        give_way()
        self.look = TapSession(whole.run, self.inspection, topics)
        self.watched = list(self.look.watched)
        self._enough = enough
        self._duration = duration
        self._deadline: float | None = None  # begins with the first look
        options = {} if period is None else {"period": period}
        self._messages = self.look.messages(self.over, **options)

    def over(self) -> bool:
        """Tell whether the count or the time is reached."""
        if self._deadline is None and self._duration is not None:
            self._deadline = time.monotonic() + self._duration
        return self._enough() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def __iter__(self) -> Iterator[tuple[AdaptiveTap, Message | None]]:
        return self._messages

    def __enter__(self) -> _Looking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        ended = self.look.ended
        self._messages.close()  # it may hold a message, which must not outlive its tap
        self.look.close()
        for watched in self.watched:
            if watched.missed:
                click.echo(_missed(watched), err=True)
        if ended and kind is None:
            click.echo("the dataflow has ended", err=True)
        return kind is KeyboardInterrupt  # the usual way to end it


def _missed(watched: AdaptiveTap) -> str:
    return (
        f"{watched.topic.name}: {watched.missed:,} messages came faster than they could be looked at, "
        f"{watched.received:,} were seen"
    )


def _stay_awake(engine: str) -> None:
    """Ignore Ctrl-Z over Zenoh: whoever does not take what the network brings holds up its senders."""
    import signal

    if engine == "zenoh" and hasattr(signal, "SIGTSTP"):
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)


# ------------------------------------------------------------------ hz


@topic.command("hz")
@click.argument("topics", metavar="[NODE/OUTPUT]...", nargs=-1)
@dataflow_option
@click.option(
    "--window",
    type=_DURATION,
    default="10",
    metavar="DURATION",
    help="Over how long the figures are taken [10s].",
)
@_duration_option("End after this time [5s, if the output is no terminal].")
def hz(topics: tuple[str, ...], dataflow: str | None, window: float, duration: float | None) -> None:
    """Measure how often messages are sent.

    Of all outputs, if none is named. On a terminal a live table, else one table at the end, its columns
    separated by tabs. The times are those of sending. Ctrl-C ends it.
    """
    from dora.cli.running import find_running
    from dora.observe.rates import RateMeter
    from dora.observe.remote.protocol import RateQuery, Rates
    from dora.observe.topics import find_tappable

    if not window:
        raise click.UsageError("--window is longer than 0")
    live = sys.stdout.isatty()
    if duration is None and not live:
        duration = 5.0
    drawing = _Drawing(live)
    with find_running(dataflow) as whole:
        wanted = find_tappable(whole.inspection, topics)
        beats: dict[str, MeasuredRate | None] = dict.fromkeys([item.name for item in wanted])
        if not whole.are_here(topic.node_id for topic in wanted):

            def make(names: list[str]) -> RateQuery:
                return RateQuery(names, window)

            with looking_afar(whole, wanted, make, duration) as looks:
                for seen in looks.items():
                    if isinstance(seen, Rates):
                        beats.update(seen.beats)
                    drawing.draw(beats)
                for seen in looks.rest():
                    if isinstance(seen, Rates):
                        beats.update(seen.beats)
        else:
            meters = {item.name: RateMeter(window) for item in wanted}
            with _Looking(whole, wanted, duration) as looking:
                for watched, message in looking:
                    if message is not None:
                        meters[watched.topic.name].add(message.sequence, message.time_ns, message.body_size)
                        del message
                    if drawing.is_due():
                        for meter in meters.values():
                            meter.forget_before(time.time_ns() - int(window * 1e9))
                        drawing.draw({name: meter.beat() for name, meter in meters.items()})
            beats.update({name: meter.beat() for name, meter in meters.items()})
    if not live:
        click.echo("topic\tavg_ms\tavg_hz\tmin_ms\tmax_ms\tstd_ms\tsamples")
        for name, beat in beats.items():
            click.echo("\t".join([name, *_beat_cells(beat)]))


class _Drawing:
    """A table on a terminal, drawn again and again in the same place; elsewhere nothing is drawn."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._due = 0.0
        self._lines = 0

    def is_due(self) -> bool:
        return self._live and time.monotonic() >= self._due

    def draw(self, beats: dict[str, MeasuredRate | None]) -> None:
        """Draw if it is time."""
        if not self.is_due():
            return
        self._due = time.monotonic() + 0.5
        text = _cut(_beat_table(beats))
        if self._lines:
            control(sys.stdout, f"\x1b[{self._lines}A\x1b[J")
        click.echo(text)
        self._lines = len(text.splitlines())


def _beat_table(beats: dict[str, MeasuredRate | None]) -> str:
    head = ["Topic", "Avg (ms)", "Avg (Hz)", "Min (ms)", "Max (ms)", "Std (ms)", "Samples"]
    return table(head, [[name, *_beat_cells(beat)] for name, beat in beats.items()])


def _cut(text: str) -> str:
    """Shorten lines to the width of the terminal, so that they can be drawn over."""
    width = shutil.get_terminal_size().columns
    return "\n".join(line[:width] for line in text.splitlines())


def _beat_cells(beat: MeasuredRate | None) -> list[str]:
    if beat is None:
        return ["-", "0.000", "-", "-", "-", "0"]
    values = (beat.mean_ms, beat.hz, beat.min_ms, beat.max_ms, beat.deviation_ms)
    return [*(f"{value:.3f}" for value in values), str(beat.samples)]


# ------------------------------------------------------------------ info


@topic.command("info")
@click.argument("name", metavar="NODE/OUTPUT")
@dataflow_option
@_duration_option("How long to look [5s].")
def info(name: str, dataflow: str | None, duration: float | None) -> None:
    """Show type, sender, receivers, rate and waiting times of an output."""
    from dora.cli.running import find_running
    from dora.observe.describe_topic import describe
    from dora.observe.remote.protocol import InfoQuery, TextResult
    from dora.observe.topics import find_tappable

    seconds = 5.0 if duration is None else duration
    text = ""
    with find_running(dataflow) as whole:
        (wanted,) = find_tappable(whole.inspection, [name])
        if whole.are_here([wanted.node_id]):
            with _Looking(whole, [wanted], seconds, period=0.0002) as looking:
                text = describe(looking.inspection, looking.look, looking)
        else:
            with looking_afar(whole, [wanted], lambda _: InfoQuery(name, seconds), None) as looks:
                for seen in looks.items():
                    if isinstance(seen, TextResult):
                        text = seen.text
    if text:
        click.echo(text)


# ------------------------------------------------------------------ pub


@topic.command("pub", context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="NODE/OUTPUT")
@click.argument("text", metavar="[JSON]", required=False)
@dataflow_option
@click.option("--file", "path", metavar="FILE", help="Take the JSON from a file; - is standard input.")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N", help="How often [1].")
def pub(name: str, text: str | None, dataflow: str | None, path: str | None, count: int) -> None:
    """Let a node send a message.

    A JSON list is the array, anything else an array of one value. The node sends it among its own
    messages, as soon as it looks for its next event; so it is numbered, counted and subject to
    back-pressure like any other.
    """
    from dora.cli.running import find_running
    from dora.observe.topics import find_tappable
    from dora.wire.daemon_protocol import Publish

    if (text is None) == (path is None):
        raise click.UsageError("give the message either as JSON or with --file")
    message = _message(text if path is None else _read(path))
    with find_running(dataflow) as whole:
        (wanted,) = find_tappable(whole.inspection, [name])
        for done in range(count):
            try:
                publish = Publish(wanted.node_id, wanted.output.id, message)
                whole.ask(wanted.node_id, publish, _PUBLISH_PATIENCE)
            except TimeoutError:
                raise DoraError(
                    f"node `{wanted.node_id}` has not looked for events for {_PUBLISH_PATIENCE:g} s, so it "
                    f"has not sent the message yet ({done} of {count} sent)"
                ) from None
    times = "" if count == 1 else f" {count} times"
    click.echo(f"Published to `{name}`{times}")


def _read(path: str) -> str:
    from dora.dataflow.parser.files import NotAFile, TooLarge, read_bytes

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
    from dora.observe.format_values import parse_data
    from dora.wire.encode import encode
    from dora.wire.message import pack_head

    try:
        payload = encode(parse_data(text or ""))
    except ValueError as error:
        raise DoraError(f"the message {error}") from None
    head = pack_head(payload.encoding, payload.schema, b"", payload.size, 0, 0)
    size = len(head) + payload.size
    if size > MAX_MESSAGE:
        raise DoraError(f"the message has {size:,} bytes; at most {MAX_MESSAGE:,} can be published")
    return head + payload.to_bytes()


# What ``dora topic`` shows of nodes on other machines.


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
