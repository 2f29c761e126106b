"""The receiving ends of a node's links from other machines, and the session that they share."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zenoh

from dora.errors import ConnectError
from dora.transport.aligned_memory import BadMessages, message_from_bytes
from dora.transport.board import (
    ASLEEP,
    BEGUN,
    CLOSED,
    CONNECTED,
    CONTROL,
    DROPPED,
    FIRST,
    FLUSH,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    Board,
)
from dora.transport.network.fragments import ReassembledMessage, Reassembler
from dora.transport.network.poller import BackgroundPoller
from dora.transport.network.protocol import (
    ASKS,
    CHANNEL_LENGTH,
    DROP,
    FLUSHES,
    LABEL,
    LOOK_EVERY,
    PROBE,
    PROGRESS,
    QUESTION,
    Report,
    close_session,
    link_name,
    nonce,
)
from dora.transport.network.sessions import listen
from dora.transport.network.window import ReceiveWindow
from dora.wire.decode import BAD_MESSAGE
from dora.wire.message import MAX_SEQUENCE, Message, MessageError
from dora.wire.node_config import InputConfig, NodeConfig, RemoteConfig

Content = zenoh.ZBytes | ReassembledMessage

_log = logging.getLogger("dora.transport")


class ReceiverSession:
    """The session in which this node listens for others, and the receivers that use it."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig, board: Board) -> None:
        """Open it; raises `ConnectError`."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self.receivers: dict[str, RemoteReceiver] = {}  # by key
        try:
            self._session = listen(config.node_id, remote)
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(
                f"node `{config.node_id}` cannot listen for other machines: {error}"
            ) from error
        self.on_report: Callable[[int, int, int], None] | None = None
        self._subscriber: Any = None
        self._only: RemoteReceiver | None = None  # of a node that has one input of other machines for good
        words, asleep = board.words, config.node_slot * WORDS + ASLEEP
        self._intake = BackgroundPoller(self._deliver, lambda: words[asleep], self._nudge)
        self.look = self._intake.look

    def add(self, receiver: RemoteReceiver) -> None:
        """Let a receiver get what is sent to it."""
        self._only = None
        self.receivers[receiver.key] = receiver

    def subscribe(self) -> None:
        if self._subscriber is not None:
            return
        if len(self.receivers) == 1:
            (self._only,) = self.receivers.values()
        self._subscriber = self._session.declare_subscriber(
            f"{self.dataflow_id}/to/{self.node_id}/**", zenoh.handlers.FifoChannel(CHANNEL_LENGTH)
        )
        self._intake.begin(self._subscriber.handler, f"dora {self.node_id} inputs")

    def _deliver(self, sample: zenoh.Sample) -> bool:
        label, payload = sample.attachment, sample.payload
        if label is not None:
            receiver = self._only or self.receivers.get(str(sample.key_expr))
            return receiver is not None and receiver.on_message(payload, label.to_bytes())
        # A probe may be for a link that is still to come here: it would lead the only one astray.
        receiver = self.receivers.get(str(sample.key_expr))
        if receiver is not None:
            receiver.on_probe(payload.to_bytes())
        return False

    def _nudge(self) -> None:
        """Send this node something that is no message."""
        try:
            key = f"{self.dataflow_id}/to/{self.node_id}"
            self._session.put(key, b"", allowed_destination=zenoh.Locality.SESSION_LOCAL)
        except zenoh.ZError:
            pass  # the session is closed

    def put(self, key: str, data: bytes) -> None:
        try:
            self._session.put(key, data, congestion_control=DROP, express=True)
        except zenoh.ZError:
            pass  # the session is closed, or it is said again

    def close(self) -> None:
        close_session(self._session)
        self._intake.join()


class RemoteReceiver:
    """The receiving end of one link, with its queue."""

    def __init__(
        self,
        house: ReceiverSession,
        item: InputConfig,
        arrived: Callable[[], None],
        board: Board,
        node_slot: int,
    ) -> None:
        self._house = house
        self._look = house.look
        self._input_id = item.id
        self._bad = BadMessages(item.id)
        self.source = source = item.source.partition("/")[0]
        name = link_name(f"{house.node_id}/{item.id}", item.generation)
        self.key = f"{house.dataflow_id}/to/{name}"
        self._progress_key = f"{house.dataflow_id}/from/{source}/{name}"
        self._arrived = arrived
        self._words = board.words
        self._base = item.slot * WORDS
        # It came while the dataflow ran, and begins with the first message that comes.
        self.begins = item.generation > 0 and not self._words[self._base + STATE]
        self._output = item.output_slot * WORDS
        self._control = node_slot * WORDS + CONTROL
        self._asleep = node_slot * WORDS + ASLEEP
        pressed = item.policy == "backpressure"
        self._queue: deque[tuple[int, Content]] = deque(maxlen=None if pressed else item.queue_size)
        self._half = max(1, item.queue_size // 2) if pressed else 0
        self._newest = self._known()  # the sequence of the last message that arrived, also before a restart
        self._taken = 0  # the sequence of the last message that was taken out of the queue
        self._taken_told = 0
        self._lock = threading.RLock()  # a signal handler may close what its thread is at
        self._landing = ReceiveWindow()
        self._puzzle = Reassembler()
        self._question = 0  # the last one that was heard
        self._id = nonce()
        self._count = 0
        self._closed = False
        self._hands_over = False  # takes no more: another process goes on here
        self.opened = threading.Event()
        self._next_hello = 0.0
        self._pause = LOOK_EVERY

    def receive(self) -> Message | None:
        queue = self._queue
        if not queue:
            self._look()
        while queue:
            try:
                sequence, payload = queue.popleft()
            except IndexError:  # another thread was faster
                break
            if self._half:
                self._taken = sequence
                if sequence - self._taken_told >= self._half:
                    self._tell()
            data = payload.to_bytes()
            try:
                message = message_from_bytes(data)
                if message.sequence != sequence:
                    raise MessageError(f"it says that it is number {message.sequence}, and not {sequence}")
            except BAD_MESSAGE as error:
                self._bad.add(error)
                continue
            return message
        if self._half and self._known() - self._taken_told >= self._half:
            self._tell()  # what will never come was counted as lost
        return None

    def has_messages(self) -> bool:
        if not self._queue:
            self._look()
        return len(self._queue) > 0

    def _known(self) -> int:
        words, base = self._words, self._base
        return words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]

    def on_message(self, part: zenoh.ZBytes, label: bytes) -> bool:
        """Queue a message, if it is the next one and complete; tell whether it is."""
        if len(label) != LABEL.size:
            self._bad.add(MessageError(f"its label has {len(label)} bytes"))
            return False
        lane, number, sequence, marks, index, count, about, arrived, taken = LABEL.unpack(label)
        if not (0 < sequence <= MAX_SEQUENCE and taken <= MAX_SEQUENCE and index < max(count, 1)):
            self._bad.add(MessageError("its label makes no sense"))
            return False
        if about and self._house.on_report is not None:
            self._house.on_report(about, arrived, taken)
        flush = marks & FLUSHES
        landing = self._landing
        with self._lock:
            if self._closed or self._hands_over:
                return False
            payload: Content = part
            if count > 1:
                if not landing.expects(lane, number):
                    return False
                whole = self._puzzle.add(number, index, count, part)
                if whole is None:
                    return False
                payload = whole
            if not landing.takes(lane, number, len(payload)):
                landing.keep(lane, number, (sequence, flush, payload))
                return False
            if self.begins:
                self.begins = False
                self._begin_after(sequence - 1)
            self._queue_up(sequence, flush, payload)
            while (kept := landing.follower()) is not None:
                landing.takes(lane, landing.arrived + 1, len(kept[2]))
                self._queue_up(*kept)
            self._puzzle.forget(landing.arrived)
        if self._words[self._asleep]:
            self._arrived()
        if marks & ASKS or landing.wants_to_tell():
            self._tell()
        return True

    def _queue_up(self, sequence: int, flush: int, payload: Content) -> None:
        if sequence <= self._newest:  # the process before this one had it, and could not say so any more
            return
        self._newest = sequence
        words = self._words
        if sequence > words[self._output + SENT]:
            words[self._output + SENT] = sequence
        if flush:
            words[self._output + FLUSH] = sequence
            words[self._control] = time.monotonic_ns()
        self._queue.append((sequence, payload))

    def on_probe(self, data: bytes) -> None:
        """Take in how far the sender has come, or which question it asks, and answer."""
        if len(data) == QUESTION.size:
            (self._question,) = QUESTION.unpack(data)
            self._tell()
            return
        if len(data) != PROBE.size:
            return
        lane, last, last_sequence, sent, receiver = PROBE.unpack(data)
        if last_sequence > MAX_SEQUENCE or sent > MAX_SEQUENCE:
            self._bad.add(MessageError("a probe makes no sense"))
            return
        if receiver not in (0, self._id):  # it is for the process before this one
            self._tell()
            return
        words = self._words
        with self._lock:
            if not self._closed and sent > words[self._output + SENT]:
                words[self._output + SENT] = sent
            if not self._closed and self._landing.open(lane, last):
                # What was sent to a former process, or by one, does not come any more.
                words[self._output + BEGUN] = last_sequence
                self._taken = max(self._known(), last_sequence)
                self._puzzle = Reassembler()
                words[self._base + STATE] = CONNECTED
                self.opened.set()
            if self.begins and not last:
                self._begin_after(sent)
        self._tell()

    def _begin_after(self, sequence: int) -> None:
        """Note that nothing up to this message is meant for this link."""
        self._words[self._base + FIRST] = self._taken = sequence

    def _tell(self) -> None:
        """Tell the sender how far its messages have come."""
        with self._lock:
            self._count += 1
            known = max(self._taken, self._known())
            self._taken_told = known
            landing = self._landing
            landing.told()
            state = CLOSED if self._closed else CONNECTED
            data = PROGRESS.pack(
                self._count,
                self._id,
                landing.lane,
                landing.arrived,
                known,
                self._question,
                state,
                landing.missing and not self._hands_over,
            )
            self._house.put(self._progress_key, data)

    def report(self) -> Report | None:
        """Return what the sender does not know, to be told with a message that goes there anyway."""
        landing = self._landing
        with self._lock:
            if self._closed or self._hands_over or landing.missing or not landing.has_news():
                return None
            self._taken_told = max(self._taken, self._known())
            landing.told()
            return landing.lane, landing.arrived, self._taken_told

    def look(self, now: float) -> None:
        """Do what time demands: introduce this receiver, acknowledge the last messages."""
        landing = self._landing
        if not landing.lane:
            if now >= self._next_hello:
                self._next_hello = now + self._pause
                self._pause = min(self._pause * 2, 2.0)
                self._tell()
        elif landing.has_news():
            self._tell()

    def release(self) -> None:
        """Take nothing any more; what comes now stays with the sender, for the process that follows."""
        with self._lock:
            self._hands_over = True
        self._tell()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._hands_over:
                self._words[self._base + STATE] = CLOSED
        self._queue.clear()
        if not self._hands_over:
            self._tell()
