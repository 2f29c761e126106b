"""The dataflows on open pages: one watcher process for each, shared by all browsers."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from dora.cluster.dashboard.remote import RemoteObservers, merged
from dora.observe.conflate import ConflatedQueue
from dora.observe.preview.protocol import (
    MAX_FRAME,
    Ended,
    Found,
    FromWatcher,
    Lines,
    Search,
    Target,
    ToWatcher,
    decode_from_watcher,
    frame,
    page_query,
)
from dora.observe.queries import Preview
from dora.observe.snapshot import Snapshot
from dora.observe.snapshot_json import MAX_SAMPLES, LastMinute, as_json
from dora.wire.daemon_protocol import GraphText

# The page asks for a delivery once it has drawn the one before. Until then newer data replaces older data,
# so a slow browser costs bounded memory, and sees less instead of later.

MAX_LINES: Final = 1000  # log entries that wait for a browser
MAX_WAITING_PREVIEWS: Final = 20  # previews that go on where others ended, as curves do, and wait
MAX_ANSWERS: Final = 8  # of searches
LISTS: Final = ("lines", "samples", "found")  # kinds of which several values go together
HEAD_SIZE: Final = 4  # bytes of the length in front of a preview

Message = str | bytes


class Outbox:
    """Messages that wait for one browser."""

    def __init__(self) -> None:
        # JSON by its kind, and previews by their topic, which has a slash in it.
        self._waiting: ConflatedQueue[bytes | Preview] = ConflatedQueue()
        self._skipped = 0  # log entries that the watcher has left out
        self._something = asyncio.Event()
        self._taken: set[str] = set()  # kinds of the delivery that is being sent

    def put(self, message: FromWatcher) -> None:
        """Add a message; never waits."""
        match message:
            case GraphText(json=graph):
                self.set("graph", graph)
            case Ended():
                self.set("ended", b"true")
            case Lines(entries=entries, skipped=skipped):
                self._skipped += skipped
                self._add("lines", entries, MAX_LINES)
            case Found(ticket=ticket, total=total, entries=entries):
                found = b'{"ticket":%d,"total":%d,"entries":[%s]}' % (ticket, total, b",".join(entries))
                self._add("found", [found], MAX_ANSWERS)
            case Preview(topic=topic, adds=adds):
                self._add(topic, [message], MAX_WAITING_PREVIEWS if adds else 1)

    def set(self, kind: str, json: bytes) -> None:
        """Set a JSON value; a newer one replaces it."""
        self._add(kind, [json], 1)

    def add_samples(self, samples: Iterable[bytes]) -> None:
        """Add samples of the last minute; a browser that is hidden gets them all when it is shown."""
        self._add("samples", samples, MAX_SAMPLES)

    def _add(self, key: str, items: Iterable[bytes | Preview], keep: int) -> None:
        for item in items:
            self._waiting.put(key, item, keep=keep)
        self._something.set()

    def sent(self) -> None:
        """Note that the messages that were taken are sent."""
        self._taken = set()

    def holds(self, kind: str) -> bool:
        """Return whether a JSON value is not sent yet."""
        return kind in self._waiting or kind in self._taken

    async def take(self) -> list[Message]:
        """Wait for messages, and return all: texts are JSON objects, bytes are previews."""
        await self._something.wait()
        self._something.clear()
        skipped = self._skipped + self._waiting.lost["lines"]
        self._skipped = 0
        self._waiting.lost.clear()
        values: dict[str, list[bytes]] = {"lines": []} if skipped else {}
        previews: list[Preview] = []
        for key, item in self._waiting.take():
            if isinstance(item, Preview):
                previews.append(item)
            else:
                values.setdefault(key, []).append(item)
        parts = [
            b'"%s":%s' % (kind.encode(), b"[%s]" % b",".join(found) if kind in LISTS else found[-1])
            for kind, found in values.items()
        ]
        if "lines" in values:
            parts.append(b'"skipped":%d' % skipped)
        self._taken = set(values)
        return [*([f"{{{b','.join(parts).decode()}}}"] if parts else []), *map(_packed, previews)]


def _packed(preview: Preview) -> bytes:
    """Return a preview as one binary message: the length of its head, the head, the body."""
    name = preview.topic.replace("\\", "\\\\").replace('"', '\\"').encode()
    head = b'{"topic":"%s",%s' % (name, preview.head[1:])
    return len(head).to_bytes(HEAD_SIZE, "little") + head + preview.body


LINGER_TIME: Final = 10.0  # seconds that a watcher outlives its last browser: a page that is loaded again
END_TIMEOUT: Final = 2.0  # seconds; a watcher that takes longer to end is killed
FINISH_TIMEOUT: Final = 1.5  # seconds; less than the run waits for its server
MAX_TOPICS: Final = 16  # that one browser may look at
RECENT_LINES: Final = 1000  # log entries that a browser gets when it opens the page

log = logging.getLogger("dora.dashboard")


class Viewer:
    """One browser on the page of a dataflow."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.query = page_query()
        self.tickets: dict[int, int] = {}  # of the watcher → of the browser
        self.ready = asyncio.Event()  # for the next delivery
        self.ready.set()


class Watch:
    """One dataflow, its watcher process, and its browsers."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.viewers: set[Viewer] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._newest: dict[type, FromWatcher] = {}
        self._lines: deque[bytes] = deque(maxlen=RECENT_LINES)
        self._query = page_query()
        self._last_ticket = 0
        self._ended = asyncio.Event()
        self.remote: RemoteObservers | None = None  # observers on other machines
        self._here: Snapshot | None = None  # of this machine
        self._state: bytes | None = None  # the state on all machines, as JSON
        self._minute = LastMinute()

    async def start(self) -> None:
        """Start the watcher."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dora.observe.preview.watcher"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C does not end it
        )
        self._send(self.target)
        self._reader = asyncio.create_task(self._read(self._process))

    async def end(self) -> None:
        """End the watcher."""
        if self.remote is not None:
            await self.remote.close()
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_TIMEOUT)
        except TimeoutError:
            self._process.kill()
        if self._reader is not None:
            self._reader.cancel()

    async def finish(self, outcome: bytes) -> None:
        """Send all browsers how the dataflow ended, after the last it has logged."""
        await self._ended.wait()
        for viewer in self.viewers:
            viewer.outbox.set("outcome", outcome)
            viewer.ready.set()  # a hidden page asks for nothing
        while any(viewer.outbox.holds("outcome") for viewer in self.viewers):
            await asyncio.sleep(0.01)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def add(self, viewer: Viewer) -> None:
        """Add a browser, and send it the present state and the last minute."""
        self.viewers.add(viewer)
        viewer.outbox.add_samples(self._minute.samples)
        for message in self._newest.values():
            viewer.outbox.put(message)
        if self._state is not None:
            viewer.outbox.set("state", self._state)
        if self._lines:
            viewer.outbox.put(Lines(list(self._lines)))

    def remove(self, viewer: Viewer) -> None:
        self.viewers.discard(viewer)
        self.update_query()

    def update_query(self) -> None:
        """Send the watcher the query of all browsers together."""
        topics = {topic for viewer in self.viewers for topic in viewer.query.previews}
        latency = any(viewer.query.latency for viewer in self.viewers)
        query = page_query(tuple(sorted(topics)), latency=latency)
        if query != self._query:
            self._query = query
            self._send(query)
            if self.remote is not None:
                self.remote.change_query(query)

    def search(self, viewer: Viewer, wanted: Search) -> None:
        """Search the whole log; the answer goes to the outbox of the viewer."""
        self._last_ticket += 1
        viewer.tickets[self._last_ticket] = wanted.ticket
        self._send(msgspec.structs.replace(wanted, ticket=self._last_ticket))

    def send_state(self) -> None:
        """Send all browsers the state on all machines."""
        remote = self.remote
        if remote is None:
            snapshot = merged(self._here, {}, {}, {})
        else:
            snapshot = merged(self._here, remote.snapshots, remote.faults, remote.placed)
        self._state = as_json(snapshot)
        sample = self._minute.add(time.time(), snapshot)
        for viewer in self.viewers:
            viewer.outbox.set("state", self._state)
            if sample is not None:
                viewer.outbox.add_samples([sample])

    def receive_remote(self, message: FromWatcher) -> None:
        """Forward a message of another machine; a graph only if this machine has none."""
        if not isinstance(message, GraphText) or self._here is None:
            self._receive(message)

    def _send(self, message: ToWatcher) -> None:
        if (
            self._process is not None
            and self._process.stdin is not None
            and not self._process.stdin.is_closing()
        ):
            self._process.stdin.write(frame(message))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while True:
                size = int.from_bytes(await process.stdout.readexactly(4), "little")
                if size > MAX_FRAME:
                    raise ValueError(f"a frame claims {size} bytes")
                self._receive(decode_from_watcher(await process.stdout.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it has ended
        except ValueError as error:
            log.warning(
                "the watcher of dataflow %s sent an invalid message: %s", self.target.dataflow_id, error
            )
            process.kill()
        code = await process.wait()
        if code:
            log.warning("the watcher of dataflow %s ended with status %d", self.target.dataflow_id, code)
        for viewer in self.viewers:
            viewer.outbox.set("lost", b"true")

    def _receive(self, message: FromWatcher) -> None:
        if isinstance(message, Found):
            for viewer in self.viewers:
                ticket = viewer.tickets.pop(message.ticket, None)
                if ticket is not None:
                    viewer.outbox.put(Found(ticket, message.entries, message.total))
            return
        if isinstance(message, Snapshot):
            self._here = message
            self.send_state()
            return
        if isinstance(message, Ended):
            self._ended.set()
        if isinstance(message, GraphText | Ended):
            self._newest[type(message)] = message
        elif isinstance(message, Lines):
            self._lines.extend(message.entries)
        for viewer in self.viewers:
            topic = getattr(message, "topic", None)
            if topic is None or topic in viewer.query.previews:
                viewer.outbox.put(message)


class Watches:
    """The watches of all dataflows on open pages."""

    def __init__(self) -> None:
        self._watches: dict[str, Watch] = {}
        # The lock is held while a watcher starts: without it, two browsers of one dataflow would start one
        # each.
        self._lock = asyncio.Lock()
        # Those that no browser looks at, with the tasks that end them.
        self._end_tasks: dict[Watch, asyncio.Task[None]] = {}

    async def join(
        self, target: Target, viewer: Viewer, make_remote: Callable[[Watch], RemoteObservers] | None = None
    ) -> Watch:
        """Add a browser to the watch of a dataflow. ``make_remote`` makes its remote observers."""
        async with self._lock:
            watch = self._watches.get(target.dataflow_id)
            if watch is None or not watch.alive or watch.target != target:
                watch = Watch(target)
                await watch.start()
                if make_remote is not None:
                    watch.remote = make_remote(watch)
                self._watches[target.dataflow_id] = watch
            # The time begins anew when this browser leaves.
            if (task := self._end_tasks.pop(watch, None)) is not None:
                task.cancel()
            watch.add(viewer)
            return watch

    def leave(self, watch: Watch, viewer: Viewer) -> None:
        """Remove a browser; the watch of the last one ends a little later."""
        watch.remove(viewer)
        if not watch.viewers:
            self._end_tasks[watch] = asyncio.create_task(self._end_later(watch))

    async def _end_later(self, watch: Watch) -> None:
        await asyncio.sleep(LINGER_TIME)
        async with self._lock:
            if self._watches.get(watch.target.dataflow_id) is watch:
                del self._watches[watch.target.dataflow_id]
        await watch.end()
        del self._end_tasks[watch]

    async def finish(self, dataflow_id: str, outcome: bytes) -> None:
        """Send the browsers of a dataflow how it ended, as JSON; give up after `FINISH_TIMEOUT`."""
        watch = self._watches.get(dataflow_id)
        if watch is not None and watch.viewers:
            try:
                await asyncio.wait_for(watch.finish(outcome), FINISH_TIMEOUT)
            except TimeoutError:
                log.warning("a page of dataflow %s did not get how it ended", dataflow_id)

    async def close(self) -> None:
        """End all watchers."""
        for task in self._end_tasks.values():
            task.cancel()
        await asyncio.gather(*(watch.end() for watch in self._watches.values()))
        self._watches.clear()
