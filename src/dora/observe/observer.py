"""The observer of topics of a running dataflow: a query in, results out.

A command runs it in its own process for nodes of this machine. For a client on another machine, a process
on the machine of the nodes runs it (`dora.observe.remote`), and `dora.cluster.remote_observer` merges the
results of several machines. Either way the client gets an `Observation`, and only renders its results.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterator
from ctypes import string_at
from typing import Any, Final, Protocol

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError
from dora.observe.describe_topic import TopicDescription
from dora.observe.formatting import FormattedValue
from dora.observe.queries import (
    RATES_EVERY,
    EchoQuery,
    InfoQuery,
    Line,
    MessageCopy,
    MessageQuery,
    QueryBegun,
    RateQuery,
    Rates,
    Result,
    TopicQuery,
)
from dora.observe.rates import RateMeter
from dora.observe.snapshot import RunSource
from dora.observe.tap_session import PERIOD, AdaptiveTap, TapSession, inspect
from dora.observe.topics import Topic, find_tappable
from dora.wire.decode import warm_up
from dora.wire.message import Message

# Limits of a `Line` that goes to another machine.
MAX_FULL: Final = 256 << 10  # bytes of a message that is shown with all its values
MAX_LINE: Final = 1 << 20  # characters
_EXACT: Final = 0.0002  # seconds between two polls where latencies are measured
LARGEST: Final = 7 << 20  # bytes of a message; with it, a delivery stays below what the relay accepts
_TURN: Final = 0.03  # seconds; copies are given out at the end of each turn
_EVERY: Final = 1.0  # seconds between two looks whether nodes have come or gone


class Observation(Protocol):
    """A query that runs, in this process or elsewhere."""

    ended: bool
    """Whether the dataflow has ended."""
    faults: list[str]
    """Why the query ended too early, if it did."""
    last: list[Any]
    """The results that `finish` found."""

    @property
    def missed(self) -> dict[str, tuple[int, int]]:
        """Topic → messages that came too fast to be seen, and that were seen."""
        ...

    def results(self) -> Iterator[Any]:
        """Yield results, and None after each turn, until the query is over."""
        ...

    def finish(self) -> None:
        """End the query, and keep its last results in ``last``."""
        ...


class Observer:
    """Runs one query about topics of this machine, in the thread that iterates over `results`."""

    def __init__(
        self,
        run: DaemonClient,
        query: TopicQuery,
        *,
        duration: float | None = None,
        enough: Callable[[], bool] = lambda: False,
        bounded: bool = False,
    ) -> None:
        """Prepare; the query ends after ``duration`` seconds, or when ``enough`` returns True.

        ``bounded`` limits the length of lines, for a client on another machine.
        """
        self.ended = False
        self.faults: list[str] = []
        self.last: list[Result] = []
        self._run = run
        self._query = query
        self._duration = query.seconds if isinstance(query, InfoQuery) else duration
        self._enough = enough
        self._bounded = bounded
        self._deadline: float | None = None  # begins with the first poll
        self._taps: list[AdaptiveTap] = []
        self._results = self._observe(query)

    @property
    def missed(self) -> dict[str, tuple[int, int]]:
        """Topic → messages that were not seen, and that were; only topics of which some were missed."""
        return {name: counts for name, counts in self.counts.items() if counts[0]}

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Topic → messages that were not seen, and that were."""
        return {tap.topic.name: (tap.missed, tap.received) for tap in self._taps}

    def results(self) -> Iterator[Result | None]:
        """Yield results, and None after each poll; raises `DoraError` if a topic cannot be observed."""
        return self._results

    def finish(self) -> None:
        """End the query; results that are complete only now are in ``last``."""
        self._results.close()

    def is_over(self) -> bool:
        """Return whether the query has got what it asked for, or its time has passed."""
        if self._deadline is None and self._duration is not None:
            self._deadline = time.monotonic() + self._duration
        return self._enough() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _observe(self, query: TopicQuery) -> Generator[Result | None, None, None]:
        inspection = inspect(self._run)
        names = [query.topic] if isinstance(query, InfoQuery) else query.topics
        topics = find_tappable(inspection, names)
        warm_up()  # not while messages come
        with TapSession(self._run, inspection, topics) as taps:
            self._taps = list(taps.taps)
            collector: _Collector
            match query:
                case EchoQuery():
                    collector = _Echo(query, self._bounded)
                case RateQuery():
                    collector = _Rates(query, [topic.name for topic in topics])
                case InfoQuery():
                    collector = TopicDescription(inspection, topics[0], taps.words)
            yield QueryBegun()
            if isinstance(query, EchoQuery):
                yield from self._latched(taps, collector, inspection.board)
            messages = taps.messages(self.is_over, _EXACT if isinstance(query, InfoQuery) else PERIOD)
            message = None
            complete = False
            try:
                for tap, message in messages:
                    result = collector.add(tap.topic.name, message)
                    if message is None or result is not None:
                        message = None  # it must not outlive its tap
                        yield result
                    message = None
                complete = True
            finally:
                message = None
                messages.close()  # it may hold a message, too
                self.ended = taps.ended
                self.last = collector.last()
        if complete:
            last, self.last = self.last, []
            yield from last

    def _latched(self, taps: TapSession, collector: _Collector, board: str) -> Iterator[Result | None]:
        """Yield the messages that latched outputs keep for receivers that join late."""
        for tap in taps.taps:
            for message in tap.take_latched(board):
                if self.is_over():
                    return
                yield collector.add(tap.topic.name, message)


class _Collector(Protocol):
    """Makes results of messages, for one kind of query."""

    def add(self, topic: str, message: Message | None) -> Result | None:
        """Add a message, or None after each poll; return a result if there is one."""
        ...

    def last(self) -> list[Result]:
        """Return the results that are complete at the end; the board is still mapped."""
        ...


class _Echo:
    def __init__(self, query: EchoQuery, bounded: bool) -> None:
        self._query = query
        self._bounded = bounded

    def add(self, topic: str, message: Message | None) -> Line | None:
        if message is None:
            return None
        if self._bounded:
            return Line(topic, bounded_line(topic, message, self._query))
        return Line(topic, _line(topic, FormattedValue(message, full=self._query.full), self._query))

    def last(self) -> list[Result]:
        return []


def bounded_line(topic: str, message: Message, query: EchoQuery) -> str:
    """Return a message as text of at most `MAX_LINE` characters."""
    for full in (True, False) if query.full and message.body_size <= MAX_FULL else (False,):
        value = FormattedValue(message, full=full)
        text = _line(topic, value, query)
        if len(text) <= MAX_LINE:
            return text
    value.data, value.metadata = [], {}
    value.problem = "it is too large to be shown from another machine"
    return _line(topic, value, query)


def _line(topic: str, value: FormattedValue, query: EchoQuery) -> str:
    return value.as_json(topic) if query.as_json else f"{topic}\t {value.as_line()} time={value.clock()}"


class _Rates:
    def __init__(self, query: RateQuery, topics: list[str]) -> None:
        self._window_ns = int(query.window * 1e9)
        self._meters = {topic: RateMeter(query.window) for topic in topics}
        self._due = time.monotonic() + RATES_EVERY

    def add(self, topic: str, message: Message | None) -> Rates | None:
        if message is not None:
            self._meters[topic].add(message.sequence, message.time_ns, message.body_size)
        if time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + RATES_EVERY
        return self._measure()

    def _measure(self) -> Rates:
        for meter in self._meters.values():
            meter.forget_before(time.time_ns() - self._window_ns)
        return Rates({topic: meter.rate() for topic, meter in self._meters.items()})

    def last(self) -> list[Result]:
        return [self._measure()]


class MessageObserver:
    """Answers a `MessageQuery`: the messages of some topics as they are, for a viewer elsewhere.

    It copies them in the thread that iterates over `results`.
    """

    counts: dict[str, tuple[int, int]] = {}  # as `Observer` has; a viewer shows the newest, and misses some

    def __init__(
        self, run: DaemonClient, newest_query: Callable[[], MessageQuery], *, enough: Callable[[], bool]
    ) -> None:
        """Connect; raises `ConnectError` if the dataflow has just ended.

        ``newest_query`` and ``enough`` are called once a turn.
        """
        self.ended = False
        self._newest_query = newest_query
        self._enough = enough
        self._query = MessageQuery(())
        self._source = RunSource(run)
        self._copies: list[MessageCopy] = []

    def results(self) -> Generator[QueryBegun | MessageCopy | None, None, None]:
        """Yield copies, and None after each turn, until the dataflow ends or there are enough."""
        due = 0.0
        try:
            yield QueryBegun()
            while not self._enough():
                if (now := time.monotonic()) >= due:
                    due = now + _EVERY
                    self._source.ask()
                if (query := self._newest_query()) != self._query:
                    self._query = query
                    self._source.tap(self._needs, latency=False)
                self._poll()
                yield from self._copies
                self._copies.clear()
                yield None
        except ConnectError:
            self.ended = True
        finally:
            self._source.close()

    def _needs(self, topic: Topic) -> bool:
        return topic.name in self._query.topics

    def _poll(self) -> None:
        """Copy the messages of a turn; raises `ConnectError` at the end of the dataflow."""
        if not self._source.tapped_topics:
            run = self._source.run.fileno()
            if run in select.select([run], (), (), _TURN)[0]:
                raise ConnectError("the dataflow has ended")
            return
        deadline = time.monotonic() + _TURN
        self._source.poll(lambda: time.monotonic() >= deadline, PERIOD, self._copy)

    def _copy(self, topic: str, message: Message) -> None:
        size = message.size
        data = b""
        if size <= LARGEST:
            data = message.head if message.owner is None else string_at(message.address, size)
        self._copies.append(MessageCopy(topic, size, data))
