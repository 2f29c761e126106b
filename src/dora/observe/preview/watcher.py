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
from contextlib import closing
from typing import Any, Final

import msgspec

from dora.daemon.client import DaemonClient
from dora.daemon.logs.entry import LogEntry, parse_level, passes
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.observe.preview.protocol import (
    MAX_FRAME,
    Ended,
    Found,
    FromWatcher,
    Lines,
    Search,
    Target,
    ToWatcher,
    decode_to_watcher,
    frame,
    page_query,
)
from dora.observe.preview.snapshot_observer import SnapshotObserver
from dora.observe.queries import SnapshotQuery
from dora.wire.framing import FrameBuffer

LOGS_EVERY: Final = 0.25  # seconds
CONNECT_EVERY: Final = 0.3
MAX_LINES: Final = 300  # log entries that are sent at a time; of more, the last ones
FIRST_LINES: Final = 1000
MAX_FOUND: Final = 1000  # log entries of one search
FIRST_BYTES: Final = 1 << 20  # of each log file, which may be very long
MAX_MESSAGE: Final = 4000  # characters of a log entry that are shown

Send = Callable[[FromWatcher], None]


class SendFrame:
    """Writes frames to the server; waits while the server takes none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()  # searches answer in threads: no frame may begin inside another

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
    except ValueError:  # there is no such level: no entry is left out
        level = "stdout"
    text = wanted.text.casefold()
    kept: deque[LogEntry] = deque(maxlen=MAX_FOUND)
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


class Watcher:
    """Watches a dataflow for the server, until this needs nothing more."""

    def __init__(self, target: Target, commands: CommandQueue, send: Send) -> None:
        self._target = target
        self._commands = commands
        self._send = send
        self._log = LogReader(target.log_directory)
        self._query = page_query()

    def run(self) -> None:
        """Watch the dataflow; after its end, answer searches of its log until the server is gone."""
        self._log.begin_near_end(FIRST_BYTES)
        send_lines(self._log, FIRST_LINES, self._send, first=True)
        if self._target.socket and (page := self._connect()) is not None:
            logs_due = 0.0
            with closing(page.results()) as results:
                for result in results:
                    if result is not None:
                        self._send(result)
                    self._handle_all()
                    if (now := time.monotonic()) >= logs_due:
                        logs_due = now + LOGS_EVERY
                        send_lines(self._log, MAX_LINES, self._send)
            send_lines(self._log, MAX_LINES, self._send)
        if not self._commands.closed:
            self._send(Ended())
        while not self._commands.closed:
            for message in self._commands.wait():
                self._handle(message)

    def _connect(self) -> SnapshotObserver | None:
        """Wait until the dataflow runs: it may still be built. Return None if the server is gone.

        Should the dataflow end before it runs, its server tells the browser and ends this process.
        """
        while not self._commands.closed:
            try:
                return SnapshotObserver(
                    DaemonClient(self._target.socket),
                    lambda: self._query,
                    enough=lambda: self._commands.closed,
                    wake=self._commands.fileno(),
                )
            except ConnectError:
                select.select([self._commands], (), (), CONNECT_EVERY)
            self._handle_all()
            send_lines(self._log, MAX_LINES, self._send)
        return None

    def _handle_all(self) -> None:
        for message in self._commands.take():
            self._handle(message)

    def _handle(self, message: ToWatcher) -> None:
        if isinstance(message, Search):
            answer_search(self._target.log_directory, message, self._send)
        elif isinstance(message, SnapshotQuery):
            self._query = message


def main() -> None:
    """Watch the dataflow that standard input names."""
    output = os.dup(1)
    os.dup2(2, 1)  # only frames may reach the server
    commands, send = CommandQueue(0), SendFrame(output)
    try:
        os.nice(5)  # the dataflow goes first
        target = next(iter(commands.wait()), None)
        if isinstance(target, Target):
            Watcher(target, commands, send).run()
    except BrokenPipeError:
        pass  # the server is gone
    except DoraError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
