"""The connection of a process that looks with the one it looks for."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from dora.daemon.client import DaemonClient
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.observe.describe_topic import describe
from dora.observe.format_values import FormattedValue
from dora.observe.preview.protocol import Ended, FromWatcher, Picture, Preview, State, Target, Wanted, frame
from dora.observe.preview.watcher import CommandQueue, Watcher
from dora.observe.rates import RateMeter
from dora.observe.remote.conflate import ConflatedQueue, rest_after
from dora.observe.remote.protocol import (
    MOST_FULL,
    Ask,
    Begun,
    EchoQuery,
    Enough,
    Frame,
    InfoQuery,
    Item,
    Line,
    More,
    PageQuery,
    Query,
    QueryEnded,
    QueryStatus,
    RateQuery,
    Rates,
    SnapshotQuery,
    Snapshots,
    TextResult,
    decode_to_process,
)
from dora.observe.remote.protocol import Query as Wish
from dora.observe.remote.start_message import StartMessage
from dora.observe.snapshot import RunSnapshot, RunSnapshots
from dora.observe.tap_session import AdaptiveTap, TapSession, inspect
from dora.observe.topics import find_tappable
from dora.transport.proof import proven_socket
from dora.transport.tls import duplex_client_context
from dora.transport.tokens import Token
from dora.wire.decode import warm_up
from dora.wire.message import Message

MAX_FRAME: Final = 16 << 20
ANSWER_PATIENCE: Final = 4.0  # seconds that the coordinator may take to answer a ping
LAST_WORDS: Final = 2.0  # seconds for what was said last
_LINGER: Final = 2.0  # seconds that a look may take to end once nobody waits for it


class ObserverServer:
    """``with`` closes it. Sends one delivery at a time, and meanwhile keeps what is newest."""

    def __init__(self, order: StartMessage) -> None:
        headers = {"Authorization": f"Bearer {order.token}"}
        encryption = duplex_client_context(order.authority)
        place = urlsplit(order.url)
        assert place.hostname is not None and place.port is not None
        token = Token(order.token, "that of the daemon")
        try:
            proven = None if encryption is not None else proven_socket(place.hostname, place.port, token)
            self._connection: ClientConnection = connect(
                order.url,
                sock=proven,
                ssl=encryption,
                additional_headers=headers,
                max_size=MAX_FRAME,
                compression=None,
                proxy=None,
                open_timeout=5.0,
                ping_interval=ANSWER_PATIENCE / 2,
                ping_timeout=ANSWER_PATIENCE,
                close_timeout=0.5,
            )
        except (OSError, HTTPException, WebSocketException) as error:
            raise DoraError(f"the coordinator cannot be reached for a look: {error}") from None
        self._machine = order.machine
        self._thinned = ConflatedQueue()
        self._changed = threading.Condition()
        self._may_send = True
        self._over: QueryEnded | None = None  # to be said when all else was
        self._done = threading.Event()  # everything is said, or nobody hears it
        self._wishes: queue.SimpleQueue[Ask | Query | None] = queue.SimpleQueue()
        self.frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # of a dashboard; None: no more
        self._enough = False
        for work in (self._read, self._write, self._watch_daemon):
            threading.Thread(target=work, name=f"dora{work.__name__}", daemon=True).start()

    def wishes(self) -> Iterator[Ask | Query]:
        """Yield what is asked for, until nobody asks any more."""
        while (wish := self._wishes.get()) is not None:
            yield wish

    def over(self) -> bool:
        """Tell whether nobody wants to see more."""
        return self._enough

    @property
    def lost(self) -> dict[str, int]:
        """What was put and is not sent, because newer things came: by key."""
        with self._changed:
            return dict(self._thinned.lost)

    def put(self, key: str, item: Item, keep: int = 1) -> None:
        """Send an item when there is room; of those that wait under a key, the newest ``keep`` stay."""
        with self._changed:
            if self._over is None:
                self._thinned.put(key, item, keep)
                self._changed.notify_all()

    def finish(self, over: QueryEnded) -> None:
        """Say why it is over, after all that waits; returns when it is said, or nobody hears it."""
        with self._changed:
            self._over = self._over or over
            self._changed.notify_all()
        self._done.wait(LAST_WORDS)

    def __enter__(self) -> ObserverServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    # ----------------------------------------------------------------------- threads

    def _read(self) -> None:
        try:
            for data in self._connection:
                match decode_to_process(data if isinstance(data, bytes) else data.encode()):
                    case More():
                        with self._changed:
                            self._may_send = True
                            self._changed.notify_all()
                    case Enough():
                        self._end()
                    case Frame(body=body):
                        self.frames.put(body)
                    case wish:
                        self._wishes.put(wish)
        except (WebSocketException, ValueError):
            pass  # gone, or nobody that we understand
        self._done.set()
        self._end()
        self._end_for_good()

    def _end(self) -> None:
        self._enough = True
        self._wishes.put(None)
        self.frames.put(None)

    def _end_for_good(self) -> None:
        time.sleep(_LINGER)  # for what is under way to end in order
        os._exit(0)

    def _write(self) -> None:
        begun = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_send or self._over is not None)
                under_way = time.monotonic() - begun if begun else 0.0
            if self._over is None:
                time.sleep(rest_after(under_way))
            with self._changed:
                self._changed.wait_for(lambda: not self._thinned.is_empty or self._over is not None)
                if self._over is not None:
                    self._thinned.put("over", self._over)
                last = self._over is not None
                deliveries: list[bytes] = []
                while not self._thinned.is_empty and (last or not deliveries):
                    deliveries.append(self._thinned.take())
                self._may_send = False
            try:
                begun = time.monotonic()
                for data in deliveries:
                    self._connection.send(data)
            except WebSocketException:
                last = True
            if last:
                self._done.set()
                return

    def _watch_daemon(self) -> None:
        while os.read(sys.stdin.fileno(), 1 << 10):
            pass
        self.finish(QueryEnded(f"the daemon of machine `{self._machine}` has ended"))
        self._end()
        self._end_for_good()


# What is looked at for somebody on another machine, as the commands here would look at it.

MOST_LINES: Final = 1000  # of a topic, that wait
MAX_LINE: Final = 1 << 20  # characters
MOST_PARTS: Final = 20  # previews that go on where others ended, and wait
BEATS_EVERY: Final = 0.5  # seconds
_STEP: Final = 0.1  # seconds between looks whether somebody is still there


def look(session: ObserverServer, run: DaemonClient, wish: Wish) -> QueryEnded:
    """Look until nobody wants to see more, or the dataflow has ended; raises `DoraError`."""
    match wish:
        case SnapshotQuery():
            return _glance(session, run, wish)
        case PageQuery():
            return _watch(session, run)
    inspection = inspect(run)
    topics = find_tappable(inspection, [wish.topic] if isinstance(wish, InfoQuery) else wish.topics)
    warm_up()  # not while messages come
    with TapSession(run, inspection, topics) as taps:
        watched = list(taps.watched)
        session.put("begun", Begun())
        match wish:
            case EchoQuery():
                _echo(session, taps, wish)
            case RateQuery():
                _measure(session, taps, wish)
            case InfoQuery():
                deadline = time.monotonic() + wish.seconds
                messages = taps.messages(
                    lambda: session.over() or time.monotonic() >= deadline, period=0.0002
                )
                session.put("text", TextResult(describe(inspection, taps, messages)))
                messages.close()
        ended = taps.ended
    return QueryEnded(ended=ended, missed=_missed(session, watched))


def answer(session: ObserverServer, run: DaemonClient, message: Ask) -> None:
    """Answer a question; raises `ConnectError` if the dataflow ends."""
    try:
        told = QueryStatus(run.ask(message.question), "", message.ticket)
    except ConnectError:
        raise
    except DoraError as error:
        told = QueryStatus(None, str(error), message.ticket)
    session.put(f"told {message.ticket}", told)


def _missed(session: ObserverServer, watched: list[AdaptiveTap]) -> dict[str, tuple[int, int]]:
    """Return what was not seen, of topics that came too fast, here or on the way."""
    lost = session.lost
    found = {}
    for item in watched:
        on_the_way = lost.get(item.topic.name, 0)
        if missed := item.missed + on_the_way:
            found[item.topic.name] = missed, item.received - on_the_way
    return found


def _echo(session: ObserverServer, taps: TapSession, wish: EchoQuery) -> None:
    for watched, message in taps.messages(session.over):
        if message is not None:
            name = watched.topic.name
            session.put(name, Line(name, line_of(name, message, wish)), keep=MOST_LINES)
        del message


def line_of(name: str, message: Message, wish: EchoQuery) -> str:
    """Return a message as text, of bounded length."""
    for full in (True, False) if wish.full and message.body_size <= MOST_FULL else (False,):
        shown = FormattedValue(message, full=full)
        text = shown.as_json(name) if wish.as_json else f"{name}\t {shown.as_line()}"
        if len(text) <= MAX_LINE:
            return text
    shown.data, shown.metadata = [], {}
    shown.problem = "it is too large to be shown from another machine"
    return shown.as_json(name) if wish.as_json else f"{name}\t {shown.as_line()}"


def _measure(session: ObserverServer, taps: TapSession, wish: RateQuery) -> None:
    meters = {watched.topic.name: RateMeter(wish.window) for watched in taps.watched}

    def tell() -> None:
        for meter in meters.values():
            meter.forget_before(time.time_ns() - int(wish.window * 1e9))
        session.put("beats", Rates({name: meter.beat() for name, meter in meters.items()}))

    due = time.monotonic() + BEATS_EVERY
    for watched, message in taps.messages(session.over):
        if message is not None:
            meters[watched.topic.name].add(message.sequence, message.time_ns, message.body_size)
        del message
        if time.monotonic() >= due:
            due = time.monotonic() + BEATS_EVERY
            tell()
    tell()


def _glance(session: ObserverServer, run: DaemonClient, wish: SnapshotQuery) -> QueryEnded:
    with RunSnapshots([run], lambda run: RunSnapshot(run, latency=wish.latency)) as overviews:
        session.put("begun", Begun())
        while not session.over():
            due = time.monotonic() + wish.every
            while not session.over() and (left := due - time.monotonic()) > 0:
                overviews.watch(min(left, _STEP))
            found = overviews.refresh()
            if not found:
                return QueryEnded(ended=True)
            (overview, nodes, links), *_ = found
            session.put("glances", Snapshots(overview.inspection, nodes, links))
    return QueryEnded()


# ----------------------------------------------------------------------- dashboard


def _watch(session: ObserverServer, run: DaemonClient) -> QueryEnded:
    """Be the watcher of a dashboard: what it says comes and goes as frames."""
    ended = False

    def send(message: FromWatcher) -> None:
        nonlocal ended
        match message:
            case Preview(topic=topic, adds=adds):
                session.put(topic, _framed(message), keep=MOST_PARTS if adds else 1)
            case Picture() | State():
                session.put(type(message).__name__, _framed(message))
            case Ended():
                ended = True

    source, sink = os.pipe()

    def pass_on() -> None:
        for body in iter(session.frames.get, None):
            os.write(sink, len(body).to_bytes(4, "little") + body)
        os.close(sink)

    def answer_all() -> None:
        try:
            with DaemonClient(run.path) as own:
                own.set_patience(None)
                for message in session.wishes():
                    if isinstance(message, Ask):
                        answer(session, own, message)
        except DoraError:
            pass  # the dataflow has ended, which the watcher notices

    for work in (pass_on, answer_all):
        threading.Thread(target=work, name=f"dora-{work.__name__}", daemon=True).start()
    target = Target(run.description.dataflow_id, run.path, "")
    Watcher(target, CommandQueue(source), LogReader(os.devnull), send).run(Wanted())
    return QueryEnded(ended=ended)


def _framed(message: FromWatcher) -> Frame:
    return Frame(frame(message)[4:])
