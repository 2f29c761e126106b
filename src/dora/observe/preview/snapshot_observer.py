"""Answer a `SnapshotQuery`: snapshots, and for a page the graph and previews of the topics on the screen.

The watcher runs it for the nodes of this machine, `dora.observe.remote` for a client on another machine.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final

import msgspec

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.observe.preview.topic import PreviewTopic
from dora.observe.queries import SnapshotQuery, SnapshotResult
from dora.observe.snapshot import EXACT, RunSource, SnapshotSources
from dora.observe.tap_session import PERIOD
from dora.observe.topics import Topic
from dora.wire.daemon_protocol import GetGraph, GraphText
from dora.wire.message import Message

TURN: Final = 0.1  # seconds; previews are given out at the end of each turn
BOXES_TURN: Final = 0.03  # while boxes are shown: the page needs the very frame that they were found in


class SnapshotObserver:
    """Observes a dataflow of this machine, in the thread that iterates over `results`."""

    counts: dict[str, tuple[int, int]] = {}  # as `Observer` has; a snapshot does not say what it misses

    def __init__(
        self,
        run: DaemonClient,
        newest_query: Callable[[], SnapshotQuery],
        *,
        enough: Callable[[], bool],
        wake: int | None = None,
    ) -> None:
        """Connect; raises `ConnectError` if the dataflow has just ended.

        ``newest_query`` and ``enough`` are called once a turn. A turn ends early when the descriptor
        ``wake`` is readable.
        """
        self.ended = False
        self._newest_query = newest_query
        self._enough = enough
        self._wake = wake
        self._query = newest_query()
        self._previews: dict[str, PreviewTopic] = {}
        self._source = RunSource(run, release=self._release)
        self._trouble = ""  # why previews or latencies are missing
        self._shape_changes = 0  # that the page knows of

    def results(self) -> Generator[SnapshotResult | None, None, None]:
        """Yield results, and None after each turn, until the dataflow ends or there are enough."""
        due = time.monotonic()
        with SnapshotSources([self._source], lambda source: source) as sources:
            try:
                if self._query.graph:
                    yield self._graph()
                    threading.Thread(target=warm_up, name="dora-warm-up", daemon=True).start()
                else:
                    due += self._query.every
                self._tap()
                while not self._enough():
                    if (query := self._newest_query()) != self._query:
                        self._query = query
                        self._tap()
                    if (now := time.monotonic()) >= due:
                        due = now + self._query.every
                        yield from self._snapshot(sources)
                    self._poll(due)
                    self._source.detect_activity()
                    yield from (found for topic in self._previews.values() if (found := topic.preview()))
                    yield None
            except ConnectError:
                self.ended = True

    def _snapshot(self, sources: SnapshotSources) -> Iterator[SnapshotResult]:
        try:
            found = sources.refresh()
        except ConnectError:
            raise
        except DoraError as error:  # of taps on what has been added
            self._trouble = str(error)
            return
        if not found:
            raise ConnectError("the dataflow has ended")
        has_changed = self._source.shape_changes != self._shape_changes
        if self._trouble or has_changed:
            self._tap()  # commands that looked may have ended, and topics may have come
        if has_changed:
            self._shape_changes = self._source.shape_changes
            if self._query.graph:
                yield self._graph()
        yield msgspec.structs.replace(found[0][1], trouble=self._trouble)

    def _graph(self) -> GraphText:
        graph = self._source.run.ask(GetGraph())
        assert isinstance(graph, GraphText)
        return graph

    # ----------------------------------------------------------------------- taps

    def _tap(self) -> None:
        """Tap the topics that previews and latencies need, as far as there is room for one more tap."""
        try:
            self._trouble = self._source.tap_possible(self._needs, latency=self._query.latency)
        except ConnectError:
            raise
        except DoraError as error:
            self._trouble = str(error)
        self._choose_previews()

    def _needs(self, topic: Topic) -> bool:
        measured = self._query.latency and any(link.kind == "link" for link in topic.links)
        return topic.name in self._query.previews or measured

    def _choose_previews(self) -> None:
        """Keep the previews of what is wanted and tapped; a curve goes on where it was."""
        self._previews = {
            topic.name: self._previews.get(topic.name) or PreviewTopic(topic.name, topic.output.type)
            for topic in self._source.tapped_topics
            if topic.name in self._query.previews
        }

    def _release(self) -> None:
        for topic in self._previews.values():
            topic.release()

    def _poll(self, due: float) -> None:
        """Take messages for a turn, which ends at the time ``due`` at the latest.

        Raises `ConnectError` at the end of the dataflow.
        """
        turn = BOXES_TURN if any(topic.has_boxes for topic in self._previews.values()) else TURN
        turn = min(turn, max(due - time.monotonic(), 0.0))
        deadline = time.monotonic() + turn
        woken = [] if self._wake is None else [self._wake]
        if not self._source.tapped_topics:
            run = self._source.run.fileno()
            ready, _, _ = select.select([run, *woken], (), (), turn)
            if run in ready:
                raise ConnectError("the dataflow has ended")
            return
        period = turn  # enough to see the last message of a turn
        if self._source.measures_latency:
            period = EXACT
        elif any(topic.needs_all for topic in self._previews.values()):
            period = PERIOD

        def until() -> bool:
            return time.monotonic() >= deadline or bool(woken and select.select(woken, (), (), 0)[0])

        self._source.poll(until, period, self._take)

    def _take(self, topic: str, message: Message) -> None:
        if (preview := self._previews.get(topic)) is not None:
            preview.take(message)


def warm_up() -> None:
    """Import what previews need ahead of time: it takes a second."""
    from dora.observe.preview.images import library

    library()
