"""The process that looks into one dataflow for the dashboard: ``python -m dora.observe.preview.watcher``.

A process of its own, because what it does takes time (pictures are compressed, logs are searched) and
touches shared memory that others write: neither the server nor the dataflow is held up by it, or falls with
it. It lives while a browser looks; its standard input says at what, and ends with the server.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from dora.daemon.client import DaemonClient
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.observe.latency import LatencyMeter
from dora.observe.load import LoadMeter
from dora.observe.preview.log_search import encode_entry, search
from dora.observe.preview.protocol import (
    MAX_FRAME,
    Ended,
    FromWatcher,
    Lines,
    Picture,
    Search,
    State,
    Target,
    ToWatcher,
    Wanted,
    decode_to_watcher,
    frame,
)
from dora.observe.preview.topic import PreviewTopic
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot, RunSnapshot
from dora.observe.tap_session import TapSession
from dora.observe.topics import Topic, is_sent_here, topics_of
from dora.wire.daemon_protocol import GetGraph, GraphText, Inspection, LinkView
from dora.wire.framing import FrameBuffer

STATE_EVERY: Final = 1.0  # seconds
LOGS_EVERY: Final = 0.25
TURN: Final = 0.1  # seconds; previews are sent at the end of each turn
LOOK_EVERY: Final = 0.005
EXACT_EVERY: Final = 0.001  # the same while latencies are measured
CONNECT_EVERY: Final = 0.3
MAX_LINES: Final = 300  # log entries that are sent at a time; of more, the last ones
FIRST_LINES: Final = 1000
FIRST_BYTES: Final = 1 << 20  # of each log file, which may be very long

Tell = Callable[[FromWatcher], None]


class Watcher:
    """Watches a running dataflow until it ends, or nobody wants to know any more."""

    def __init__(self, target: Target, inbox: CommandQueue, log: LogReader, send: Tell) -> None:
        """Connect; raises `ConnectError` if the dataflow does not run."""
        self._inbox = inbox
        self._send = send
        self._target = target
        self._log = log
        self._overview = RunSnapshot(DaemonClient(target.socket), latency=False)
        self._meter = LoadMeter()
        self._meter.measure(self._overview.pids())
        self._wanted = Wanted()
        self._look: TapSession | None = None
        self._spots: dict[str, PreviewTopic] = {}
        self._transits: dict[str, list[LatencyMeter]] = {}
        self._trouble = ""  # why there are no previews

    def run(self, wanted: Wanted) -> None:
        """Watch; return when the dataflow has ended or nobody wants to know."""
        state_due = logs_due = 0.0
        try:
            self._tell_graph()
            threading.Thread(target=warm_up, name="dora-warm-up", daemon=True).start()
            self._obey(wanted)
            while not self._inbox.closed:
                for message in self._inbox.take():
                    self._obey(message)
                now = time.monotonic()
                if now >= state_due:
                    state_due = now + STATE_EVERY
                    self._tell_state()
                if now >= logs_due:
                    logs_due = now + LOGS_EVERY
                    tell_lines(self._log, MAX_LINES, self._send)
                self._watch(time.monotonic() + TURN)
                for spot in self._spots.values():
                    if (preview := spot.preview()) is not None:
                        self._send(preview)
        except ConnectError:
            tell_lines(self._log, MAX_LINES, self._send)
            self._send(Ended())
        finally:
            self._close_look()
            self._overview.close()

    # ----------------------------------------------------------------------- what is wanted

    def _obey(self, message: ToWatcher) -> None:
        if isinstance(message, Search):
            answer_search(self._target.log_directory, message, self._send)
        elif isinstance(message, Wanted) and message != self._wanted:
            self._wanted = message
            self._open_look()

    def _open_look(self) -> None:
        """Put taps where something is to be seen."""
        self._close_look()
        inspection = self._overview.inspection
        known = [
            topic
            for topic in topics_of(inspection)
            if not topic.output.text and is_sent_here(inspection, topic.node_id)
        ]
        topics = [topic for topic in known if topic.name in self._wanted.topics or self._measured(topic)]
        if not topics:
            return
        try:
            self._look = TapSession(self._overview.run, inspection, topics)
        except ConnectError:
            raise
        except DoraError as error:
            self._trouble = str(error)
            return
        self._spots = {
            topic.name: self._spots.get(topic.name) or PreviewTopic(topic)
            for topic in topics
            if topic.name in self._wanted.topics
        }
        if self._wanted.latency:
            self._transits = {
                topic.name: [
                    LatencyMeter(link, self._look.words) for link in topic.links if link.kind == "link"
                ]
                for topic in topics
            }

    def _measured(self, topic: Topic) -> bool:
        return self._wanted.latency and any(link.kind == "link" for link in topic.links)

    def _close_look(self) -> None:
        if self._look is not None:
            for spot in self._spots.values():
                spot.let_go()
            self._look.close()
        self._look = None
        self._trouble = ""
        self._spots = {name: spot for name, spot in self._spots.items() if name in self._wanted.topics}
        self._transits = {}

    # ----------------------------------------------------------------------- what is seen

    def _watch(self, deadline: float) -> None:
        """Look until the deadline, or until something else is wanted; raises `ConnectError` at the end."""
        if self._look is None:
            seconds = max(0.0, deadline - time.monotonic())
            run, inbox = self._overview.run.fileno(), self._inbox.fileno()
            ready, _, _ = select.select([run, inbox], (), (), seconds)
            if run in ready:
                raise ConnectError("the dataflow has ended")
            return
        transits = [transit for some in self._transits.values() for transit in some]
        period = TURN  # enough to see the last message of a turn
        if transits:
            period = EXACT_EVERY
        elif any(spot.follows for spot in self._spots.values()):
            period = LOOK_EVERY

        def until() -> bool:
            return time.monotonic() >= deadline or self._inbox.waiting

        for watched, message in self._look.messages(until, period):
            if message is not None:
                for transit in self._transits.get(watched.topic.name, ()):
                    transit.sent(message.sequence, message.time_ns)
                if (spot := self._spots.get(watched.topic.name)) is not None:
                    spot.take(message)
            del message
            for transit in transits:
                transit.look()
        if self._look.ended:
            raise ConnectError("the dataflow has ended")

    def _tell_state(self) -> None:
        overview = self._overview
        before = overview.inspection
        overview.ask()
        after = overview.inspection
        if shape(before) != shape(after):
            self._begin_anew()
        loads = self._meter.measure(self._overview.pids())
        nodes, links = self._overview.refresh(loads)
        latencies = {
            transit.link.slot: transit.take()
            for some in self._transits.values()
            for transit in some
            if transit.times_ns
        }
        self._send(State(state_json(nodes, links, latencies, self._trouble)))

    def _begin_anew(self) -> None:
        """Look at a dataflow that was changed while it runs."""
        self._close_look()
        self._overview.close()
        self._overview = RunSnapshot(DaemonClient(self._target.socket), latency=False)
        self._open_look()
        self._tell_graph()

    def _tell_graph(self) -> None:
        graph = self._overview.run.ask(GetGraph())
        assert isinstance(graph, GraphText)
        self._send(Picture(graph.json))


class SendFrame:
    """Writes frames to the server; waits while it takes none, which holds up nobody but us."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, message: FromWatcher) -> None:
        data = memoryview(frame(message))
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


class CommandQueue:
    """What the server says, read as it comes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._frames = FrameBuffer(MAX_FRAME)
        self._read: deque[ToWatcher] = deque()  # and not taken: several may come at once
        self.closed = False

    def fileno(self) -> int:
        return self._descriptor

    @property
    def waiting(self) -> bool:
        """Whether something is there, or the server is gone."""
        return self.closed or bool(self._read) or bool(select.select([self], (), (), 0)[0])

    def take(self) -> Iterator[ToWatcher]:
        """Yield what has come; never waits."""
        while self._read or (self.waiting and not self.closed):
            yield from self.wait()

    def wait(self) -> Iterator[ToWatcher]:
        """Wait for something; yield what can be read."""
        if not self._read:
            data = os.read(self._descriptor, 1 << 16)
            self.closed = not data
            self._frames.feed(data)
            self._read.extend(map(decode_to_watcher, self._frames))
        while self._read:
            yield self._read.popleft()


def warm_up() -> None:
    """Import what previews need, which takes a second, before somebody wants one."""
    from dora.observe.preview.images import library

    library()


def shape(inspection: Inspection) -> tuple[list[str], list[LinkView]]:
    """Return what changes when nodes or links of a running dataflow come or go."""
    return [node.id for node in inspection.nodes], inspection.links


def state_json(
    nodes: list[NodeSnapshot],
    links: list[LinkRate],
    latencies: dict[int, tuple[float, float]],
    trouble: str,
) -> bytes:
    """Return nodes and links as the page reads them."""
    state = {
        "nodes": [
            {
                "id": item.node.id,
                "status": item.node.status,
                "machine": item.node.machine,
                "pid": item.node.pid,
                "restarts": item.node.restarts,
                "cpu": None if item.load is None else round(item.load.cpu_percent, 1),
                "memory": None if item.load is None else item.load.memory,
                "sent_hz": round(item.sent_hz, 2),
                "bytes_per_second": round(item.bytes_per_second),
                "waiting": item.waiting,
                "dropped": item.dropped,
                "quiet": None if item.quiet_s is None else round(item.quiet_s, 1),
                "outputs": [
                    {"id": output.id, "type": output.type, "text": output.text}
                    for output in item.node.outputs
                ],
            }
            for item in nodes
        ],
        "links": [
            {
                "source": rate.link.producer,
                "target": rate.link.consumer,
                "hz": round(rate.hz, 2),
                "bytes_per_second": None if rate.bytes_per_second is None else round(rate.bytes_per_second),
                "waiting": rate.waiting,
                "queue_size": rate.link.queue_size,
                "policy": rate.link.policy,
                "dropped": rate.dropped,
                "dropping_hz": round(rate.dropping_hz, 2),
                "silent": rate.silent,
                "latency": latencies.get(rate.link.slot),
            }
            for rate in links
        ],
        "trouble": trouble,
    }
    return msgspec.json.encode(state)


def tell_lines(log: LogReader, limit: int, send: Tell, *, first: bool = False) -> None:
    """Send what was written to the log since the last time; of very much, the end.

    What is left out counts as skipped, but for the ``first`` time: a search finds what is older.
    """
    kept: deque[LogEntry] = deque(maxlen=limit)
    count = 0
    for entry in log.entries():
        kept.append(entry)
        count += 1
    if kept:
        send(Lines([encode_entry(entry) for entry in kept], 0 if first else count - len(kept)))


def answer_search(directory: str, wanted: Search, send: Tell) -> None:
    """Search in a thread, for logs may be long."""

    def work() -> None:
        try:
            send(search(directory, wanted))
        except OSError:
            pass  # the server is gone

    threading.Thread(target=work, name="dora-search", daemon=True).start()


def connected(
    target: Target, inbox: CommandQueue, log: LogReader, send: Tell
) -> tuple[Watcher, Wanted] | None:
    """Wait until the dataflow can be looked into: it may still be built. None if nobody waits any more.

    Who runs it tells the browser should it end before; then nobody waits.
    """
    wanted = Wanted()
    while not inbox.closed:
        try:
            return Watcher(target, inbox, log, send), wanted
        except ConnectError:
            select.select([inbox], (), (), CONNECT_EVERY)
        for message in inbox.take():
            if isinstance(message, Wanted):
                wanted = message
            elif isinstance(message, Search):
                answer_search(target.log_directory, message, send)
        tell_lines(log, MAX_LINES, send)
    return None


def watch(target: Target, inbox: CommandQueue, send: Tell) -> None:
    """Watch a dataflow, and when it has ended look through its log, as long as anybody asks."""
    log = LogReader(target.log_directory)
    log.begin_near_end(FIRST_BYTES)
    tell_lines(log, FIRST_LINES, send, first=True)
    if target.socket and (found := connected(target, inbox, log, send)) is not None:
        watcher, wanted = found
        watcher.run(wanted)
    else:
        send(Ended())
    while not inbox.closed:
        for message in inbox.wait():
            if isinstance(message, Search):
                answer_search(target.log_directory, message, send)


def main() -> None:
    """Watch what standard input says."""
    output = os.dup(1)
    os.dup2(2, 1)  # nothing but frames may get to the server
    inbox, send = CommandQueue(0), SendFrame(output)
    try:
        os.nice(5)  # what is watched goes first
        target = next(iter(inbox.wait()), None)
        if isinstance(target, Target):
            watch(target, inbox, send)
    except BrokenPipeError:
        pass  # the server is gone
    except DoraError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
