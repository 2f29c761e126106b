"""The process that watches one dataflow for the dashboard: ``python -m dora.observe.preview.watcher``.

It is a process of its own because its work takes time (it compresses images and searches logs) and reads
shared memory that others write: neither the server nor the dataflow waits for it, or fails with it. It
lives while a browser shows the dataflow; commands come on its standard input, which ends with the server.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from dora.daemon.client import DaemonClient
from dora.daemon.logs.entry import LogEntry, parse_level, passes
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.observe.load import LoadMeter
from dora.observe.preview.protocol import (
    MAX_FRAME,
    DataflowGraph,
    Ended,
    Found,
    FromWatcher,
    Lines,
    PreviewsWanted,
    Search,
    State,
    Target,
    ToWatcher,
    decode_to_watcher,
    frame,
)
from dora.observe.preview.topic import PreviewTopic
from dora.observe.snapshot import EXACT, RunSnapshot
from dora.observe.tap_session import PERIOD
from dora.observe.topics import Topic
from dora.wire.daemon_protocol import GetGraph, GraphText, Inspection, LinkView
from dora.wire.framing import FrameBuffer
from dora.wire.message import Message

STATE_EVERY: Final = 1.0  # seconds
LOGS_EVERY: Final = 0.25
TURN: Final = 0.1  # seconds; previews are sent at the end of each turn
BOXES_TURN: Final = 0.03  # while boxes are shown: the page needs the very frame that they were found in
CONNECT_EVERY: Final = 0.3
MAX_LINES: Final = 300  # log entries that are sent at a time; of more, the last ones
FIRST_LINES: Final = 1000
FIRST_BYTES: Final = 1 << 20  # of each log file, which may be very long
MAX_MESSAGE: Final = 4000  # characters of a log entry that are shown

Send = Callable[[FromWatcher], None]


class Watcher:
    """Watches a running dataflow until it ends, or the server needs nothing more."""

    def __init__(self, target: Target, commands: CommandQueue, log: LogReader, send: Send) -> None:
        """Connect; raises `ConnectError` if the dataflow does not run."""
        self._commands = commands
        self._send = send
        self._target = target
        self._log = log
        self._snapshot = RunSnapshot(DaemonClient(target.socket))
        self._meter = LoadMeter()
        self._meter.measure(self._snapshot.pids())
        self._wanted = PreviewsWanted()
        self._previews: dict[str, PreviewTopic] = {}
        self._trouble = ""  # why there are no previews

    def run(self, wanted: PreviewsWanted) -> None:
        """Watch until the dataflow ends or the server is gone."""
        state_due = logs_due = 0.0
        try:
            self._send_graph()
            threading.Thread(target=warm_up, name="dora-warm-up", daemon=True).start()
            self._handle(wanted)
            while not self._commands.closed:
                for message in self._commands.take():
                    self._handle(message)
                now = time.monotonic()
                if now >= state_due:
                    state_due = now + STATE_EVERY
                    self._send_state()
                if now >= logs_due:
                    logs_due = now + LOGS_EVERY
                    send_lines(self._log, MAX_LINES, self._send)
                self._poll()
                for topic in self._previews.values():
                    if (preview := topic.preview()) is not None:
                        self._send(preview)
        except ConnectError:
            send_lines(self._log, MAX_LINES, self._send)
            self._send(Ended())
        finally:
            self._untap()
            self._snapshot.close()

    def _handle(self, message: ToWatcher) -> None:
        if isinstance(message, Search):
            answer_search(self._target.log_directory, message, self._send)
        elif isinstance(message, PreviewsWanted) and message != self._wanted:
            self._wanted = message
            self._tap()

    # ----------------------------------------------------------------------- taps

    def _tap(self) -> None:
        """Tap the topics that previews and latencies need."""
        self._untap()
        topics = [
            topic
            for topic in self._snapshot.local_topics()
            if topic.name in self._wanted.topics or self._needs_latency(topic)
        ]
        try:
            self._snapshot.tap(topics, latency=self._wanted.latency)
        except ConnectError:
            raise
        except DoraError as error:
            self._trouble = str(error)
            return
        self._previews = {
            topic.name: self._previews.get(topic.name) or PreviewTopic(topic.name, topic.output.type)
            for topic in topics
            if topic.name in self._wanted.topics
        }

    def _needs_latency(self, topic: Topic) -> bool:
        return self._wanted.latency and any(link.kind == "link" for link in topic.links)

    def _untap(self) -> None:
        if self._snapshot.tapped:
            for topic in self._previews.values():
                topic.release()
        self._snapshot.untap()
        self._trouble = ""
        self._previews = {
            name: topic for name, topic in self._previews.items() if name in self._wanted.topics
        }

    def _poll(self) -> None:
        """Take messages for a turn or until the next command; raises `ConnectError` at the end."""
        turn = BOXES_TURN if any(topic.has_boxes for topic in self._previews.values()) else TURN
        deadline = time.monotonic() + turn
        if not self._snapshot.tapped:
            seconds = max(0.0, deadline - time.monotonic())
            run, commands = self._snapshot.run.fileno(), self._commands.fileno()
            ready, _, _ = select.select([run, commands], (), (), seconds)
            if run in ready:
                raise ConnectError("the dataflow has ended")
            return
        period = turn  # enough to see the last message of a turn
        if self._snapshot.measures_latency:
            period = EXACT
        elif any(topic.needs_all for topic in self._previews.values()):
            period = PERIOD

        def until() -> bool:
            return time.monotonic() >= deadline or self._commands.waiting

        self._snapshot.poll(until, period, self._take)

    def _take(self, topic: str, message: Message) -> None:
        if (preview := self._previews.get(topic)) is not None:
            preview.take(message)

    # ----------------------------------------------------------------------- state

    def _send_state(self) -> None:
        before = self._snapshot.inspection
        self._snapshot.ask()
        if shape(before) != shape(self._snapshot.inspection):
            self._begin_again()
        loads = self._meter.measure(self._snapshot.pids())
        self._send(State(self._snapshot.refresh(loads), self._trouble))

    def _begin_again(self) -> None:
        """Observe the dataflow in its new shape."""
        self._untap()
        self._snapshot.close()
        self._snapshot = RunSnapshot(DaemonClient(self._target.socket))
        self._tap()
        self._send_graph()

    def _send_graph(self) -> None:
        graph = self._snapshot.run.ask(GetGraph())
        assert isinstance(graph, GraphText)
        self._send(DataflowGraph(graph.json))


class SendFrame:
    """Writes frames to the server; waits while the server takes none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, message: FromWatcher) -> None:
        data = memoryview(frame(message))
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


class CommandQueue:
    """The commands of the server, read as they arrive."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._frames = FrameBuffer(MAX_FRAME)
        self._read: deque[ToWatcher] = deque()  # and not taken: several may come at once
        self.closed = False

    def fileno(self) -> int:
        return self._descriptor

    @property
    def waiting(self) -> bool:
        """Whether there is a command, or the server is gone."""
        return self.closed or bool(self._read) or bool(select.select([self], (), (), 0)[0])

    def take(self) -> Iterator[ToWatcher]:
        """Yield the commands that have arrived, without waiting."""
        while self._read or (self.waiting and not self.closed):
            yield from self.wait()

    def wait(self) -> Iterator[ToWatcher]:
        """Wait for a command; yield those that can be read."""
        if not self._read:
            data = os.read(self._descriptor, 1 << 16)
            self.closed = not data
            self._frames.feed(data)
            self._read.extend(map(decode_to_watcher, self._frames))
        while self._read:
            yield self._read.popleft()


def warm_up() -> None:
    """Import what previews need ahead of time: it takes a second."""
    from dora.observe.preview.images import library

    library()


def shape(inspection: Inspection) -> tuple[list[str], list[LinkView]]:
    """Return a value that changes when nodes or links are added or removed."""
    return [node.id for node in inspection.nodes], inspection.links


def send_lines(log: LogReader, limit: int, send: Send, *, first: bool = False) -> None:
    """Send new log entries; of more than ``limit``, the last ones.

    The others count as skipped, except the ``first`` time: a search finds older entries.
    """
    kept: deque[LogEntry] = deque(maxlen=limit)
    count = 0
    for entry in log.entries():
        kept.append(entry)
        count += 1
    if kept:
        send(Lines([encode_entry(entry) for entry in kept], 0 if first else count - len(kept)))


def encode_entry(entry: LogEntry) -> bytes:
    """Return an entry as JSON."""
    message = entry.message
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}… {len(message) - MAX_MESSAGE:,} more characters"
    record: dict[str, Any] = {
        "time": entry.timestamp_ns / 1e6,
        "level": entry.level,
        "node": entry.node_id,
        "stream": entry.stream,
        "message": message,
    }
    if entry.fields:
        record["fields"] = entry.fields
    return msgspec.json.encode(record)


def search(directory: str, wanted: Search) -> Found:
    """Return the last entries that match, and how many match in all."""
    reader = LogReader(directory, None)
    try:
        level = parse_level(wanted.level)
    except ValueError:
        level = "stdout"
    text = wanted.text.casefold()
    kept: deque[LogEntry] = deque(maxlen=max(1, min(wanted.limit, 5000)))
    total = 0
    for entry in reader.entries():
        if (
            (not wanted.node or (entry.node_id or "dora") == wanted.node)
            and passes(entry.level, level)
            and (not text or text in entry.message.casefold())
        ):
            kept.append(entry)
            total += 1
    reader.close()
    return Found(wanted.ticket, [encode_entry(entry) for entry in kept], total)


def answer_search(directory: str, wanted: Search, send: Send) -> None:
    """Search in a thread, because logs may be long."""

    def work() -> None:
        try:
            send(search(directory, wanted))
        except OSError:
            pass  # the server is gone

    threading.Thread(target=work, name="dora-search", daemon=True).start()


def connect(
    target: Target, commands: CommandQueue, log: LogReader, send: Send
) -> tuple[Watcher, PreviewsWanted] | None:
    """Wait until the dataflow runs: it may still be built. Return None if the server is gone.

    Should the dataflow end before it runs, its server tells the browser and ends this process.
    """
    wanted = PreviewsWanted()
    while not commands.closed:
        try:
            return Watcher(target, commands, log, send), wanted
        except ConnectError:
            select.select([commands], (), (), CONNECT_EVERY)
        for message in commands.take():
            if isinstance(message, PreviewsWanted):
                wanted = message
            elif isinstance(message, Search):
                answer_search(target.log_directory, message, send)
        send_lines(log, MAX_LINES, send)
    return None


def watch(target: Target, commands: CommandQueue, send: Send) -> None:
    """Watch a dataflow; after its end, answer searches of its log until the server is gone."""
    log = LogReader(target.log_directory)
    log.begin_near_end(FIRST_BYTES)
    send_lines(log, FIRST_LINES, send, first=True)
    if target.socket and (found := connect(target, commands, log, send)) is not None:
        watcher, wanted = found
        watcher.run(wanted)
    else:
        send(Ended())
    while not commands.closed:
        for message in commands.wait():
            if isinstance(message, Search):
                answer_search(target.log_directory, message, send)


def main() -> None:
    """Watch the dataflow that standard input names."""
    output = os.dup(1)
    os.dup2(2, 1)  # only frames may reach the server
    commands, send = CommandQueue(0), SendFrame(output)
    try:
        os.nice(5)  # the dataflow goes first
        target = next(iter(commands.wait()), None)
        if isinstance(target, Target):
            watch(target, commands, send)
    except BrokenPipeError:
        pass  # the server is gone
    except DoraError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
