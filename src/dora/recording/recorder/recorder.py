"""A recorder: taps the outputs of a running dataflow and stores all messages.

Like `dora topic echo`, it stands outside the dataflow: no node waits for it or knows of it. So it has to be
fast (`dora.recording.recorder.chunk_filler`). Messages that it misses are counted: their sequence numbers
are gaps, and the board has the last number.
"""

from __future__ import annotations

import os
import platform
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from dora._version import __version__
from dora.daemon.client import DaemonClient, name_of
from dora.dataflow.model import Dataflow
from dora.observe.tap_session import inspect
from dora.recording.mcap.channels import ChannelTable
from dora.recording.mcap.chunk import HIGH_PRIORITY, ChunkPool, prepare, set_priority
from dora.recording.mcap.format import Reason, RecordingStart
from dora.recording.recorder.chunk_filler import ChunkFiller, RecordedTopic
from dora.recording.recorder.context import RecordingContext, fingerprints
from dora.recording.recorder.control import (
    ControlClient,
    ControlSocket,
    RecorderAnswer,
    RecorderRequest,
    RecorderStatus,
)
from dora.recording.recorder.options import MEMORY, RecordingOptions, Saved
from dora.recording.recorder.sinks import Expected, FileSink, RingSink
from dora.recording.recorder.taps import RecorderTaps
from dora.wire.daemon_protocol import DataflowText, GetDataflow, GetModel, Model
from dora.wire.decode import warm_up
from dora.wire.decoders import from_plain

_MIN_PAUSE: Final = 0.0002  # seconds between two polls of the taps
# While little arrives. It is far below the 32 ms that a short tap holds at 1 kHz (`RECORDER_QUEUE`).
_MAX_PAUSE: Final = 0.002
_HOUSEKEEPING: Final = 0.25  # seconds between two rounds of everything else
_AFTER_FAILURE: Final = 1.0  # seconds after a node's failure that are saved with it
# Seconds without a message, after which missing ones are given up. A busy machine delays messages, so a few
# milliseconds would lose some. The daemon waits longer than this for its recorders (`RECORDERS_TIMEOUT`).
_LAST_PATIENCE: Final = 1.0
_LAST_PAUSE: Final = 0.002  # seconds between two polls at the end


class Recorder:
    """Records one dataflow; `run` returns at the end. For one thread, except `stop` and `save`."""

    def __init__(
        self,
        run: DaemonClient,
        settings: RecordingOptions,
        on_saved: Callable[[Saved], None] = lambda _: None,
    ) -> None:
        """Open the taps and create the file; raises `DoraError` if either fails.

        ``on_saved`` is called for each file that a ring has written, in another thread.
        """
        warm_up()  # not while messages come
        prepare(settings.compression)
        set_priority(HIGH_PRIORITY)
        self._run = run
        self._settings = settings
        self._on_saved = on_saved
        self._inspection = inspect(run)
        self._saved_failures = 0  # of nodes
        self._next_save = 0.0  # when the next failure is saved at the earliest: files do not overlap
        self._save_due: float | None = None  # after a failure
        self._started = time.time_ns()
        self._stop = self._save = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._clients: list[ControlClient] = []
        self._stopping: list[ControlClient] = []  # they asked for the end
        text = run.ask(GetDataflow())
        assert isinstance(text, DataflowText)
        self._control = ControlSocket(self._inspection.run_dir)
        with ExitStack() as failed:
            failed.callback(self._close)
            self._taps = RecorderTaps(
                run,
                self._inspection,
                settings.topics,
                together=settings.together,
                begun_ns=self._started,
            )
            failed.callback(self._taps.close)
            self._begin(text, failed)
            failed.pop_all()

    def _begin(self, text: DataflowText, failed: ExitStack) -> None:
        settings = self._settings
        pool, channels = ChunkPool(MEMORY), ChannelTable()
        start = self._start(text.working_dir)
        make_sink = FileSink if settings.last_seconds is None else RingSink
        self._sink: FileSink | RingSink = make_sink(settings, channels, pool, start, text.json)
        failed.callback(self._sink.discard)
        # A ring drops its oldest chunks, and with them the start of the event order.
        self._context = RecordingContext(
            self._inspection,
            f"{text.working_dir}/out/{self._inspection.dataflow_id}",
            self._started,
            order=settings.last_seconds is None,
            ring_buffers=self._taps.ring_buffer_folder,
        )
        self._filler = ChunkFiller(channels, pool, self._sink.write_thread.put)
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
            sources=fingerprints(self._model()),
        )

    def _model(self) -> Dataflow:
        model = self._run.ask(GetModel())
        assert isinstance(model, Model)
        return from_plain(model.dataflow, Dataflow)

    # ----------------------------------------------------------------------- from outside

    def stop(self) -> None:
        """Make `run` return; callable from any thread and from signal handlers."""
        self._stop = True
        self._wake()

    def save(self) -> None:
        """Write the ring to a file; callable from any thread and from signal handlers."""
        self._save = True
        self._wake()

    def status(self) -> RecorderStatus:
        """Return what has been recorded so far."""
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
            pass  # it is awake, or ending

    # ----------------------------------------------------------------------- the loop

    def run(self) -> Saved | None:
        """Record until the dataflow ends, `stop` is called or the file cannot be written.

        Return what came of it; None for a ring, which may have saved any number of files.
        """
        try:
            reason = self._record()
            expected = self._drain()
            return self._finish(reason, expected)
        finally:
            self._close()

    def _record(self) -> Reason:
        pause = _MIN_PAUSE
        due = 0.0
        while True:
            fullest = self._filler.poll()
            now = time.monotonic()
            self._filler.flush_old(now)
            self._taps.renew()
            if now >= due:
                due = now + _HOUSEKEEPING
                self._do_housekeeping(now)
                # Here as well: while a tap stays half full, there is no pause in which clients are served.
                if self._wait(0.0):
                    return "dataflow ended"
            if self._stop or self._sink.write_thread.failure is not None:
                return "asked"
            # A tap that is half full gets no pause. A filler that waits for memory does, for it would spin.
            if fullest >= 0.5 and not self._filler.waits_for_memory:
                pause = _MIN_PAUSE
                continue
            pause = max(_MIN_PAUSE, pause / 2) if fullest > 0.1 else min(_MAX_PAUSE, pause * 1.2)
            if self._wait(pause):
                return "dataflow ended"

    def _wait(self, seconds: float) -> bool:
        """Wait for messages and serve clients; return whether the dataflow has ended."""
        if self._run.ended is not None:  # the answer to another question said so
            return True
        # Clients are asked instead: `select` knows the first 1024 files only, and taps may be those.
        sources: list[Any] = [self._run, self._control, self._wake_read]
        ready, _, _ = select.select(sources, (), (), seconds)
        if self._control in ready and (client := self._control.accept()) is not None:
            self._clients.append(client)
        if self._wake_read in ready:
            self._drain_wake()
        for client in self._clients[:]:
            self._serve(client)
        if self._save:
            self._save = False
            self._save_ring()
        return self._run in ready and self._run.look_for_end()

    def _drain_wake(self) -> None:
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            pass

    def _serve(self, client: ControlClient) -> None:
        try:
            request = client.read()
        except ConnectionError:
            self._clients.remove(client)
            client.close()
            return
        if request is not None:
            self._clients.remove(client)
            self._answer(client, request)

    def _answer(self, client: ControlClient, request: RecorderRequest) -> None:
        match request.do:
            case "status":
                client.answer(self.status())
            case "save" if isinstance(self._sink, RingSink):
                self._save_ring(client)
            case "save":
                client.answer(
                    RecorderAnswer(error=f"{self._sink.path} is being written, and needs no saving")
                )
            case "stop":
                self._stop = True
                self._stopping.append(client)

    def _do_housekeeping(self, now: float) -> None:
        self._filler.add_context(self._context.take())
        if not self._settings.topics and self._run.ended is None:
            self._taps.follow(self._context.inspection)
        if isinstance(self._sink, RingSink):
            self._sink.drop_old()
            if self._context.failures > self._saved_failures and self._save_due is None:
                self._save_due = max(now + _AFTER_FAILURE, self._next_save)
            if self._save_due is not None and now >= self._save_due:
                self._save_due = None
                self._saved_failures = self._context.failures
                self._next_save = now + (self._settings.last_seconds or 0.0)
                self._save_ring()

    def _save_ring(self, client: ControlClient | None = None) -> None:
        if not isinstance(self._sink, RingSink):
            return
        self._filler.poll()
        self._filler.flush()

        def report(saved: Saved) -> None:
            self._on_saved(saved)
            if client is not None:
                client.answer(RecorderAnswer(saved.path, saved.messages, saved.lost, saved.problem))

        expected = _expected(((topic, topic.seen) for topic in self._taps.topics), self._taps.untapped())
        self._sink.save(expected, self._context.failed, report)

    # ----------------------------------------------------------------------- the end

    def _drain(self) -> dict[str, Expected]:
        """Take everything that was sent so far, close the taps, and return what each topic should have."""
        topics = self._taps.topics
        last = {topic: topic.sent for topic in topics}  # fixed now: the nodes may go on sending
        missing = _missing(last)
        since = time.monotonic()
        while time.monotonic() - since < _LAST_PATIENCE and self._sink.write_thread.failure is None:
            self._filler.poll()
            before, missing = missing, _missing(last)
            if missing < before:
                since = time.monotonic()
                continue
            if self._filler.waits_for_memory and self._filler.memory_in_use:
                since = time.monotonic()  # a slow disk is no reason to give up: chunks become free
            elif not missing:
                break
            time.sleep(_LAST_PAUSE)
        self._filler.drop_held()
        failed = self._context.failed | set(self._run.ended.failed if self._run.ended is not None else ())
        for topic in topics:
            if topic.node_id in failed and last[topic] == topic.seen + 1:
                topic.unsent.append(topic.seen + 1)  # counted, but the node was killed before it sent it
        expected = _expected(
            ((topic, max(topic.seen, last[topic])) for topic in topics), self._taps.untapped()
        )
        self._context.close()  # first: the run's directory, which it reads, may go when the taps are closed
        self._taps.close()
        is_unsaved = bool(failed - self._context.failed)
        self._context.failed |= failed
        # Without a chunk in use, no memory becomes free: a wait for it would not end.
        while not self._filler.add_context(self._context.take()) and self._filler.memory_in_use:
            time.sleep(_LAST_PAUSE)
        self._filler.flush()
        if isinstance(self._sink, RingSink) and (
            is_unsaved or self._context.failures > self._saved_failures
        ):
            self._sink.save(expected, failed, self._on_saved)
        return expected

    def _finish(self, reason: Reason, expected: dict[str, Expected]) -> Saved | None:
        if isinstance(self._sink, RingSink):
            self._sink.close()
            if self._sink.write_thread.failure is not None:
                raise self._sink.write_thread.failure
            answer, saved = RecorderAnswer(), None
        else:
            saved = self._sink.finish(reason, expected, self._context.failed)
            answer = RecorderAnswer(saved.path, saved.messages, saved.lost, saved.problem)
        for client in self._stopping:
            client.answer(answer)
        self._stopping.clear()
        return saved

    def _close(self) -> None:
        self._control.close()
        for client in (*self._clients, *self._stopping):
            client.close()
        self._wake_read.close()
        self._wake_write.close()


def _missing(last: Mapping[RecordedTopic, int]) -> int:
    """Return how many messages up to these numbers are still to be taken; none from before a tap opened."""
    return sum(max(number - max(topic.seen, topic.before), 0) for topic, number in last.items())


def _expected(
    topics: Iterable[tuple[RecordedTopic, int]], untapped: Mapping[str, int]
) -> dict[str, Expected]:
    """Return what each topic should have, from topics and their last sequence numbers.

    ``untapped``: how many messages outputs without a tap have sent.
    An output that was removed and added again counts from 1 again, so there are two topics with its name.
    """
    found: dict[str, Expected] = {}
    for topic, last in topics:
        item = Expected(topic.before, last, tuple(topic.unsent))
        known = found.get(topic.name)
        if known is not None:
            item = Expected(known.before + item.before, known.last + item.last, known.unsent + item.unsent)
        found[topic.name] = item
    for name, sent in untapped.items():
        item = found.get(name, Expected(0, 0))
        found[name] = Expected(item.before, item.last + sent, item.unsent, untapped=True)
    return found
