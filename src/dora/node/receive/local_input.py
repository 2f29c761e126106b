"""The ports of inputs that are fed within the process: by text of the daemon, or by an operator."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque

from dora.node.events import (
    Content,
    Event,
    Input,
    InputClosed,
    InputRecovered,
    Reference,
    Text,
)
from dora.node.receive.deadline import deadline_monitor
from dora.node.receive.input_port import InputPort
from dora.node.receive.path_meter import InputMeter
from dora.transport.board import CLOSED as LINK_CLOSED
from dora.transport.board import (
    CONNECTED,
    DROPPED,
    RECEIVED,
    REPEATED,
    STATE,
    WORDS,
    Board,
)
from dora.wire.correlation import MAX_KEPT, kept_metadata
from dora.wire.counters import FLUSHED
from dora.wire.message import Message
from dora.wire.node_config import InputConfig

_monotonic = time.monotonic_ns


class LocalInput(InputPort):
    """An input fed from within this process: text that the daemon delivered, or an operator's output
    to another operator of the same runtime.

    Holds the newest ``queue_size`` contents, and those that are kept (`dora.wire.correlation`). For a
    declared pattern, and under back-pressure, it holds all: the sender shares the receiver's thread and
    cannot wait for it.
    """

    def __init__(self, config: InputConfig, board: Board, meter: InputMeter | None = None) -> None:
        self.id = config.id
        self.open = True
        self.detached = False
        self._meter = meter
        self._source_node = config.source.partition("/")[0]
        self._template = Input.template(config.id)
        self._queue: deque[Content] = deque()
        keeps_all = config.queue_policy == "backpressure" or config.engine_queue_size
        self._size = sys.maxsize if keeps_all else config.queue_size
        self._is_kept_metadata = kept_metadata(config.keep)
        # Only to drop: two threads at once would drop one message too many. Else a deque needs no lock.
        self._lock = threading.Lock()
        self._words = board.words
        self._base = config.slot * WORDS
        self._words[self._base + STATE] = CONNECTED
        self._sample_at = self._words[self._base + RECEIVED] + 1  # the number of the message to sample next
        self._deadline = deadline_monitor(config, board)
        self._source_closed = False

    def put(self, content: Content) -> None:
        """Append a content; a full queue drops, and counts, its oldest one. Safe from any thread."""
        if not self.open:
            return
        self._queue.append(content)
        if len(self._queue) > self._size:
            with self._lock:
                while len(self._queue) > self._size and self._drop():
                    self._words[self._base + DROPPED] += 1

    def _is_kept(self, content: Content) -> bool:
        return isinstance(content, Reference) and self._is_kept_metadata(content.metadata())

    def _drop(self) -> bool:
        """Drop the oldest content that may be dropped, not the newest one; return whether there was one."""
        kept = len(self._queue) <= self._size + MAX_KEPT
        for content in tuple(self._queue)[:-1]:
            if not (kept and self._is_kept(content)):
                try:
                    self._queue.remove(content)
                except ValueError:  # another thread took it
                    continue
                return True
        return False

    @property
    def taken(self) -> int:  # type: ignore[override]  # it counts on the board
        """The number of the value that was taken last, from 1; dropped values count too."""
        return self._words[self._base + RECEIVED] + self._words[self._base + DROPPED]

    def count_as_dropped(self) -> None:
        self._words[self._base + RECEIVED] -= 1
        self._words[self._base + DROPPED] += 1

    def put_latched(self, messages: list[Message]) -> None:
        """Put messages of the latch in front, in a new process of the runtime; the size has no effect."""
        words, base = self._words, self._base
        repeated = sum(message.sequence <= self.taken for message in messages)
        repeated = min(repeated, words[base + RECEIVED])
        words[base + REPEATED] += repeated
        words[base + RECEIVED] -= repeated  # `poll` counts them once more
        self._queue.extendleft(reversed(messages))

    def has_newer(self) -> bool:
        return bool(self._queue)

    def put_text(self, text: str) -> None:
        self.put(Text(text, time.time_ns()))

    def flush(self) -> None:
        """Drop, and count, the queued contents that are not kept."""
        with self._lock:
            for _ in range(len(self._queue)):  # one round, after which kept contents are in order again
                try:
                    content = self._queue.popleft()
                except IndexError:  # another thread took it
                    break
                if self._is_kept(content):
                    self._queue.append(content)
                else:
                    self._words[self._base + DROPPED] += 1
                    self._words[self._base + FLUSHED.word] += 1

    def poll(self) -> Event | None:
        deadline = self._deadline
        if deadline is not None and deadline.closed and self._queue:
            deadline.recovered()
            return InputRecovered(self.id)
        try:
            content = self._queue.popleft()
        except IndexError:
            if self._source_closed:
                self.open = False
                if deadline is not None:
                    deadline.withdraw()
                return InputClosed(self.id)
            if deadline is not None and deadline.expired():
                return InputClosed(self.id)
            return None
        if deadline is not None:
            deadline.rearm()
        received = self._words[self._base + RECEIVED] + 1
        self._words[self._base + RECEIVED] = received
        if content.__class__ is Reference:
            if received == self._sample_at and self._meter is not None:
                self._sample_at = self._meter.sample(content, received)
            return Input.of_reference(self._template, content)
        event = Input(self._template)
        event._content = content
        return event

    def ready(self) -> bool:
        return (
            bool(self._queue)
            or self._source_closed
            or (self._deadline is not None and self._deadline.is_due())
        )

    def wake_at(self) -> int | None:
        return self._deadline.due_at if self._deadline is not None else None

    def source_closed(self) -> None:
        self._source_closed = True

    def source_back(self, node_id: str) -> bool:
        if node_id != self._source_node or not self._source_closed:
            return False
        self._source_closed = False
        closed, self.open = not self.open, True
        if self._deadline is not None:
            self._deadline.source_back()
        return closed

    def stop(self) -> None:
        """Deliver only what is queued; the daemon sends nothing after a stop."""
        if self._deadline is not None:
            self._deadline.withdraw()
            self._deadline = None

    def detach(self) -> None:
        self.detached = self._source_closed = True
        self._source_node = ""
        self.stop()

    def close(self) -> None:
        self.open = False
        self._source_node = ""  # closed for good
        self.stop()
        self._words[self._base + STATE] = LINK_CLOSED
        self._queue = deque()
