"""A recorder: attached to a running dataflow, it takes all messages and stores them.

It stands beside the dataflow as `dora topic echo` does: nobody waits for it, and no node knows of it. The
price is that it has to be quick, see `dora.recording.recorder.chunk_filler`. What it misses all the same is
counted: the numbers of the messages show it, and the board tells the last number.
"""

from __future__ import annotations

import os
import platform
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from dora._version import __version__
from dora.daemon.client import DaemonClient, name_of
from dora.errors import DoraError
from dora.observe.tap_session import inspect
from dora.recording.mcap.channels import ChannelTable
from dora.recording.mcap.format import RecordingStart
from dora.recording.recorder.chunk import ChunkPool, prepare
from dora.recording.recorder.context import LogTail, RecordingContext
from dora.recording.recorder.control import (
    ControlSocket,
    ControlClient,
    RecorderAnswer,
    RecorderRequest,
    RecorderStatus,
)
from dora.recording.recorder.chunk_filler import RecordedTopic, ChunkFiller
from dora.recording.recorder.options import RecordingOptions, Saved
from dora.recording.recorder.system import raise_priority
from dora.recording.recorder.taps import RecorderTaps
from dora.recording.recorder.sinks import Expected, FileSink, Reason, RingSink
from dora.wire.daemon_protocol import DataflowText, GetDataflow
from dora.wire.decode import warm_up

_SHORTEST: Final = 0.0002  # seconds between looks at the taps
_LONGEST: Final = 0.002
_HOUSEKEEPING: Final = 0.25  # seconds between looks at all else
_AFTER_FAILURE: Final = 1.0  # seconds after the failure of a node that belong to it
_LAST_PATIENCE: Final = 1.0  # seconds in which nothing comes of what was sent, before it is given up
_LAST_PAUSE: Final = 0.002  # seconds between looks


class Recorder:
    """Records one dataflow; `run` returns when that is over. For one thread, except `stop` and `save`."""

    def __init__(
        self,
        run: DaemonClient,
        settings: RecordingOptions,
        on_saved: Callable[[Saved], None] = lambda _: None,
    ) -> None:
        """Attach, and create the file; raises `DoraError` if either cannot be.

        ``on_saved`` is told of each file that a ring has written, in another thread.
        """
        warm_up()  # not while messages come
        prepare(settings.compression)
        raise_priority()
        self._run = run
        self._settings = settings
        self._on_saved = on_saved
        self._inspection = inspect(run)
        self._saved_for: set[str] = set()  # nodes that failed
        self._save_due: float | None = None  # because of a failure
        self._started = time.time_ns()
        self._stop = self._save = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._peers: list[ControlClient] = []
        self._waiting: list[ControlClient] = []  # those that asked for the end
        text = run.ask(GetDataflow())
        assert isinstance(text, DataflowText)
        self._control = ControlSocket(self._inspection.run_dir)
        try:
            self._taps = RecorderTaps(
                run, self._inspection, settings.topics, settings.memory, together=settings.together
            )
            try:
                self._begin(text)
            except BaseException:
                self._taps.close()
                raise
        except BaseException:
            self._close()
            raise

    def _begin(self, text: DataflowText) -> None:
        settings = self._settings
        pool, channels = ChunkPool(settings.memory), ChannelTable()
        start = self._start(text.working_dir)
        self._sink: FileSink | RingSink
        if settings.last_seconds is None:
            self._sink = FileSink(settings, channels, pool, start, text.json)
        else:
            self._sink = RingSink(settings, channels, pool, start, text.json)
        logs = LogTail(text.working_dir, self._inspection.dataflow_id, self._started)
        # The order of events begins with what a ring forgets first.
        self._context = RecordingContext(
            self._inspection,
            logs,
            order=settings.last_seconds is None,
            ring_buffers=self._taps.ring_buffer_folder,
        )
        self._filler = ChunkFiller(channels, pool, self._sink.store.put)
        self._filler.topics = self._taps.topics

    def _start(self, working_dir: str) -> RecordingStart:
        return RecordingStart(
            dora=__version__,
            dataflow_id=self._inspection.dataflow_id,
            name=name_of(self._run.description),
            file=self._inspection.file,
            working_dir=working_dir,
            started=self._started,
            together=self._settings.together,
            last_seconds=self._settings.last_seconds,
            nodes=[node.id for node in self._inspection.nodes],
            topics=[topic.name for topic in self._taps.topics],
            host=platform.node(),
            python=platform.python_version(),
        )

    # ----------------------------------------------------------------------- from outside

    def stop(self) -> None:
        """Let `run` end; from any thread, and from signal handlers."""
        self._stop = True
        self._wake()

    def save(self) -> None:
        """Let a ring write what it has; from any thread, and from signal handlers."""
        self._save = True
        self._wake()

    def status(self) -> RecorderStatus:
        return RecorderStatus(
            pid=os.getpid(),
            path=os.path.abspath(self._sink.path),
            started=self._started,
            topics=[topic.name for topic in self._taps.topics],
            messages=self._filler.messages,
            bytes=self._filler.bytes,
            last_seconds=self._settings.last_seconds,
        )

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:
            pass  # it is awake, or at its end

    # ----------------------------------------------------------------------- the loop

    def run(self) -> Saved | None:
        """Record until the dataflow ends, `stop` is called or the file cannot be written.

        Return what came of it; None for a ring, which may have saved any number of files.
        """
        try:
            reason = self._record()
            expected = self._drain(reason)
            return self._finish(reason, expected)
        finally:
            self._close()

    def _record(self) -> Reason:
        pause = _SHORTEST
        due = 0.0
        while True:
            fullest = self._filler.poll()
            now = time.monotonic()
            self._filler.flush_old(now)
            self._taps.renew()
            if now >= due:
                due = now + _HOUSEKEEPING
                self._do_housekeeping(now)
            if self._stop or self._sink.store.failure is not None:
                return "asked"
            if fullest >= 0.5 and not self._filler.waits_for_memory:
                pause = _SHORTEST
                continue
            pause = max(_SHORTEST, pause / 2) if fullest > 0.1 else min(_LONGEST, pause * 1.2)
            if self._wait(pause):
                return "dataflow ended"

    def _wait(self, seconds: float) -> bool:
        """Wait for messages, and see to what comes meanwhile; tell whether the dataflow has ended."""
        if self._run.ended is not None:  # told while something was asked
            return True
        sources: list[Any] = [self._run, self._control, self._wake_read, *self._peers]
        ready, _, _ = select.select(sources, (), (), seconds)
        for source in ready:
            if isinstance(source, ControlClient):
                self._serve(source)
            elif source is self._control:
                if (peer := self._control.accept()) is not None:
                    self._peers.append(peer)
            elif source is self._wake_read:
                self._empty_wake()
        if self._save:
            self._save = False
            self._save_ring()
        return self._run in ready and self._run.look_for_end()

    def _empty_wake(self) -> None:
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            pass

    def _serve(self, peer: ControlClient) -> None:
        try:
            request = peer.read()
        except ConnectionError:
            self._peers.remove(peer)
            peer.close()
            return
        if request is not None:
            self._peers.remove(peer)
            self._answer(peer, request)

    def _answer(self, peer: ControlClient, request: RecorderRequest) -> None:
        match request.do:
            case "status":
                peer.answer(self.status())
            case "save" if isinstance(self._sink, RingSink):
                self._save_ring(peer)
            case "save":
                peer.answer(
                    RecorderAnswer(error=f"{self._sink.path} is being written, and needs no saving")
                )
            case "stop":
                self._stop = True
                self._waiting.append(peer)

    def _do_housekeeping(self, now: float) -> None:
        self._filler.add_context(self._context.take())
        if not self._settings.topics and self._run.ended is None:
            try:
                self._taps.follow(self._context.inspection)
            except DoraError:
                pass  # it has just ended
        if isinstance(self._sink, RingSink):
            self._sink.forget()
            if self._context.failed - self._saved_for and self._save_due is None:
                self._save_due = now + _AFTER_FAILURE
            if self._save_due is not None and now >= self._save_due:
                self._save_due = None
                self._saved_for |= self._context.failed
                self._save_ring()

    def _save_ring(self, peer: ControlClient | None = None) -> None:
        if not isinstance(self._sink, RingSink):
            return
        self._filler.poll()
        self._filler.flush()

        def tell(saved: Saved) -> None:
            self._on_saved(saved)
            if peer is not None:
                peer.answer(RecorderAnswer(saved.path, saved.messages, saved.lost, saved.problem))

        expected = _expected((topic, topic.seen) for topic in self._taps.topics)
        self._sink.save(expected, self._context.failed, tell)

    # ----------------------------------------------------------------------- the end

    def _drain(self, reason: Reason) -> dict[str, Expected]:
        """Take what was sent until now, leave the dataflow alone, and return what should be there."""
        topics = self._taps.topics
        last = {topic: topic.sent for topic in topics}
        since = time.monotonic()
        while time.monotonic() - since < _LAST_PATIENCE and self._sink.store.failure is None:
            before = self._filler.messages
            self._filler.poll()
            if self._filler.messages > before:
                since = time.monotonic()
                continue
            if self._filler.waits_for_memory and self._filler.memory_in_use:
                since = time.monotonic()
            elif all(topic.seen >= last[topic] for topic in topics):
                break
            time.sleep(_LAST_PAUSE)
        self._filler.let_go()
        failed = self._context.failed | set(self._run.ended.failed if self._run.ended is not None else ())
        for topic in topics:
            if topic.node_id in failed and last[topic] == topic.seen + 1:
                topic.unsent.append(topic.seen + 1)  # counted, and killed before it was sent
        expected = _expected((topic, max(topic.seen, last[topic])) for topic in topics)
        self._taps.close()
        self._context.close()
        self._context.failed |= failed
        while not self._filler.add_context(self._context.take()) and self._filler.memory_in_use:
            time.sleep(_LAST_PAUSE)
        self._filler.flush()
        if isinstance(self._sink, RingSink) and reason == "dataflow ended" and failed - self._saved_for:
            self._sink.save(expected, failed, self._on_saved)
        return expected

    def _finish(self, reason: Reason, expected: dict[str, Expected]) -> Saved | None:
        if isinstance(self._sink, RingSink):
            self._sink.close()
            if self._sink.store.failure is not None:
                raise self._sink.store.failure
            answer, saved = RecorderAnswer(), None
        else:
            saved = self._sink.finish(reason, expected, self._context.failed)
            answer = RecorderAnswer(saved.path, saved.messages, saved.lost, saved.problem)
        for peer in self._waiting:
            peer.answer(answer)
        self._waiting.clear()
        return saved

    def _close(self) -> None:
        self._control.close()
        for peer in (*self._peers, *self._waiting):
            peer.close()
        self._wake_read.close()
        self._wake_write.close()


def _expected(topics: Iterable[tuple[RecordedTopic, int]]) -> dict[str, Expected]:
    """Return what should be there, from topics and the last numbers of their messages.

    An output that was taken away and came back counts anew, so it is two topics with one name.
    """
    found: dict[str, Expected] = {}
    for topic, last in topics:
        item = Expected(topic.before, last, tuple(topic.unsent))
        known = found.get(topic.name)
        if known is not None:
            item = Expected(known.before + item.before, known.last + item.last, known.unsent + item.unsent)
        found[topic.name] = item
    return found
