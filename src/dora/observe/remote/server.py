"""Observe a dataflow of this machine for a client on another one: ``python -m dora.observe.remote.server``.

The daemon of the machine writes the `StartMessage` to standard input; the process ends with that daemon. It
is a process of its own because queries take time and read memory that others write: neither the daemon nor
the dataflow waits for it, or fails with it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.observe.conflate import MOST_BYTES, ConflatedQueue, rest_after
from dora.observe.observer import MessageObserver, Observer
from dora.observe.preview.snapshot_observer import SnapshotObserver
from dora.observe.queries import (
    Line,
    MessageCopy,
    MessageQuery,
    Preview,
    ReplaceableQuery,
    SnapshotQuery,
)
from dora.observe.remote.protocol import (
    DeliveryTaken,
    EndQuery,
    Item,
    Query,
    QueryEnded,
    StartMessage,
    decode_to_process,
    encode,
)
from dora.transport.proof import proven_socket
from dora.transport.tokens import Token
from dora.wire.decoders import from_json

MAX_FRAME: Final = 16 << 20
_Replaceable = TypeVar("_Replaceable", SnapshotQuery, MessageQuery)
ANSWER_PATIENCE: Final = 4.0  # seconds that the coordinator may take to answer a ping
CLOSING_TIME: Final = 2.0  # seconds for the last deliveries; a client that takes none is not waited for
_LINGER: Final = 2.0  # seconds that a query may take to end after its client is gone


class ObserverServer:
    """Sends one delivery at a time, and meanwhile keeps the newest results. ``with`` closes it."""

    def __init__(self, start: StartMessage) -> None:
        headers = {"Authorization": f"Bearer {start.token}"}
        place = urlsplit(start.url)
        assert place.hostname is not None and place.port is not None
        token = Token(start.token, "the daemon's")
        try:
            proven = proven_socket(place.hostname, place.port, token, start.authority)
            self._connection: ClientConnection = connect(
                start.url,
                sock=proven,
                additional_headers=headers,
                max_size=MAX_FRAME,
                compression=None,
                proxy=None,
                open_timeout=5.0,
                ping_interval=ANSWER_PATIENCE / 2,
                ping_timeout=ANSWER_PATIENCE,
                close_timeout=0.5,
            ).__enter__()  # a connection without `with` is deprecated; `close` ends it
        except (OSError, HTTPException, WebSocketException) as error:
            raise DoraError(f"the coordinator cannot be reached by the observer: {error}") from None
        self._machine = start.machine
        self._waiting: ConflatedQueue[bytes] = ConflatedQueue(MOST_BYTES)
        # The query's thread puts items, one thread reads what the client says, one sends. It guards the
        # queue and the two words below. Without it, `take` would meet a queue that changes.
        self._changed = threading.Condition()
        self._may_send = True
        self._ending: QueryEnded | None = None  # goes out after everything else
        self._closed = threading.Event()  # everything was sent, or the client is gone
        self._query: Query | None = None  # replaced as a whole by the thread that reads
        self._asked = threading.Event()  # there is a query, or the client is gone
        self._enough = False
        for work in (self._read, self._write, self._watch_daemon):
            threading.Thread(target=work, name=f"dora{work.__name__}", daemon=True).start()

    def query(self) -> Query | None:
        """Wait for the client's query; return None if it is gone before. A later query may replace it."""
        self._asked.wait()
        return self._query

    def is_over(self) -> bool:
        """Return whether the client has enough or is gone."""
        return self._enough

    @property
    def lost(self) -> dict[str, int]:
        """How many items of each key were not sent, because newer ones came."""
        with self._changed:
            return dict(self._waiting.lost)

    def put(self, key: str, item: Item, keep: int = 1) -> None:
        """Queue an item; of those that wait under a key, the newest ``keep`` stay."""
        with self._changed:
            if self._ending is None:
                self._put(key, item, keep)
                self._changed.notify_all()

    def _put(self, key: str, item: Item, keep: int = 1) -> None:
        data = encode(item)
        self._waiting.put(key, data, keep=keep, size=len(data))

    def finish(self, ending: QueryEnded) -> None:
        """Send how the query ended after all that waits; return when it is sent or the client is gone."""
        with self._changed:
            self._ending = self._ending or ending
            self._changed.notify_all()
        self._closed.wait(CLOSING_TIME)

    def __enter__(self) -> ObserverServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    # ----------------------------------------------------------------------- threads

    def _read(self) -> None:
        try:
            for data in self._connection:
                match decode_to_process(data if isinstance(data, bytes) else data.encode()):
                    case DeliveryTaken():
                        with self._changed:
                            self._may_send = True
                            self._changed.notify_all()
                    case EndQuery():
                        self._end()
                    case query:
                        if self._query is None or self._replaces(query):
                            self._query = query
                            self._asked.set()
        except (WebSocketException, ValueError):
            pass  # it is gone, or of another version
        self._closed.set()
        self._end()
        self._exit_late()

    def _replaces(self, query: Query) -> bool:
        return isinstance(query, ReplaceableQuery) and type(query) is type(self._query)

    def _end(self) -> None:
        self._enough = True
        self._asked.set()

    def _exit_late(self) -> None:
        time.sleep(_LINGER)  # so that a query ends cleanly
        os._exit(0)

    def _write(self) -> None:
        begun = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_send or self._ending is not None)
                took = time.monotonic() - begun if begun else 0.0
                self._changed.wait_for(lambda: self._ending is not None, rest_after(took))
                self._changed.wait_for(lambda: not self._waiting.is_empty or self._ending is not None)
                if self._ending is not None:
                    self._put("ending", self._ending)
                last = self._ending is not None
                deliveries: list[bytes] = []
                while not self._waiting.is_empty and (last or not deliveries):
                    deliveries.append(encode([msgspec.Raw(data) for _, data in self._waiting.take()]))
                self._may_send = False
            try:
                begun = time.monotonic()  # without the lock: meanwhile newer items replace older ones
                for data in deliveries:
                    self._connection.send(data)
            except WebSocketException:
                last = True
            if last:
                self._closed.set()
                return

    def _watch_daemon(self) -> None:
        while os.read(sys.stdin.fileno(), 1 << 10):
            pass
        self.finish(QueryEnded(f"the daemon of machine `{self._machine}` has ended"))
        self._end()
        self._exit_late()


# Running queries for the client.

MAX_LINES: Final = 1000  # or messages of a topic, that wait; older ones count as missed
MAX_PARTS: Final = 20  # previews that go on where others ended, and wait


def run_query(session: ObserverServer, run: DaemonClient, query: Query) -> QueryEnded:
    """Run a query until the client has enough, or the dataflow has ended; raises `DoraError`."""
    observer: Observer | SnapshotObserver | MessageObserver
    match query:
        case SnapshotQuery():
            observer = SnapshotObserver(run, _newest(session, SnapshotQuery), enough=session.is_over)
        case MessageQuery():
            observer = MessageObserver(run, _newest(session, MessageQuery), enough=session.is_over)
        case _:
            observer = Observer(run, query, enough=session.is_over, bounded=True)
    for result in observer.results():
        match result:
            case None:
                pass
            case Line(topic=topic) | MessageCopy(topic=topic):
                session.put(topic, result, keep=MAX_LINES)
            case Preview(topic=topic, adds=adds):
                session.put(topic, result, keep=MAX_PARTS if adds else 1)
            case _:
                session.put(type(result).__name__, result)
    return QueryEnded(ended=observer.ended, missed=_missed(observer.counts, session.lost))


def _newest(session: ObserverServer, kind: type[_Replaceable]) -> Callable[[], _Replaceable]:
    """Return a function that returns the client's newest query, which is of this kind."""

    def newest() -> _Replaceable:
        query = session.query()
        assert isinstance(query, kind)
        return query

    return newest


def _missed(counts: dict[str, tuple[int, int]], lost: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Add lines that newer ones replaced on their way to the messages that were not seen here."""
    total = {
        topic: (missed + lost.get(topic, 0), received - lost.get(topic, 0))
        for topic, (missed, received) in counts.items()
    }
    return {topic: both for topic, both in total.items() if both[0]}


def main() -> None:
    """Serve the client that standard input names."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    os.nice(5)  # the dataflow goes first
    start = from_json(line, StartMessage)
    with ObserverServer(start) as session:
        try:
            run = DaemonClient(start.socket)
        except ConnectError:
            session.finish(QueryEnded("the dataflow is not running yet, or has just ended"))
            return
        try:
            with run:
                run.set_patience(None)  # on a busy machine the dataflow may answer late
                if (query := session.query()) is not None:
                    session.finish(run_query(session, run, query))
        except ConnectError:
            session.finish(QueryEnded(ended=True))
        except DoraError as error:
            session.finish(QueryEnded(str(error)))


if __name__ == "__main__":
    main()
