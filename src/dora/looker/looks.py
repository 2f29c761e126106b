"""What is looked at for somebody on another machine, as the commands here would look at it."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from dora.cli.topic_info import describe
from dora.daemon.runs import DaemonClient
from dora.dashboard.frames import Ended, FromWatcher, Picture, Preview, State, Target, Wanted, frame
from dora.dashboard.watcher import CommandQueue, Watcher
from dora.errors import ConnectError, DoraError
from dora.inspection.afar import (
    MOST_FULL,
    Ask,
    Begun,
    EchoQuery,
    Frame,
    InfoQuery,
    Line,
    PageQuery,
    QueryEnded,
    QueryStatus,
    RateQuery,
    Rates,
    SnapshotQuery,
    Snapshots,
    TextResult,
)
from dora.inspection.afar import Query as Wish
from dora.inspection.beat import RateMeter
from dora.inspection.look import TapSession, inspect
from dora.inspection.overview import RunSnapshot, RunSnapshots
from dora.inspection.topics import find_tappable
from dora.inspection.values import FormattedValue
from dora.inspection.watched import AdaptiveTap
from dora.logs.reader import LogReader
from dora.looker.session import ObserverServer
from dora.wire.decode import warm_up
from dora.wire.message import Message

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
