"""Answer a `MessageQuery`: the messages of some topics as they are, for a viewer on another machine."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator
from ctypes import string_at
from typing import Final

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError
from dora.observe.queries import MessageCopy, MessageQuery, QueryBegun
from dora.observe.snapshot import RunSource
from dora.observe.tap_session import PERIOD
from dora.observe.topics import Topic
from dora.wire.message import Message

LARGEST: Final = 7 << 20  # bytes of a message; with it, a delivery stays below what the relay accepts
_TURN: Final = 0.03  # seconds; copies are given out at the end of each turn
_EVERY: Final = 1.0  # seconds between two looks whether nodes have come or gone


class MessageObserver:
    """Copies messages of topics of this machine, in the thread that iterates over `results`."""

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
