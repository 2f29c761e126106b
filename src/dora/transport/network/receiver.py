"""The receiving ends of a node's links from other machines, and the session that they share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import zenoh

from dora.errors import ConnectError
from dora.transport.aligned_memory import message_from_bytes
from dora.transport.board import (
    ASLEEP,
    BEGUN,
    CLOSED,
    CONNECTED,
    CONTROL,
    DROPPED,
    FENCE,
    FIRST,
    FLUSH,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    Board,
)
from dora.transport.interface import BadMessages
from dora.transport.network.fragments import ReassembledMessage, Reassembler
from dora.transport.network.poller import BackgroundPoller
from dora.transport.network.protocol import (
    ACK,
    ACK_FLAG,
    CHANNEL_LENGTH,
    DATA_HEADER,
    DROP,
    FLUSH_FLAG,
    KEEP_FLAG,
    LATCHED_FLAG,
    PING,
    PROBE,
    TICK,
    PiggybackAck,
    close_session,
    link_name,
    nonce,
)
from dora.transport.network.sessions import Connections, listen
from dora.transport.network.threads import start_thread
from dora.transport.network.window import ReceiveWindow
from dora.transport.queues import DropOldestQueue
from dora.wire.decode import BAD_MESSAGE
from dora.wire.message import MAX_SEQUENCE, Message, MessageError
from dora.wire.node_config import InputConfig, NodeConfig, RemoteConfig

Content = zenoh.ZBytes | ReassembledMessage

_MAX_ANNOUNCE_PAUSE = 2.0  # seconds between announcements of a receiver to its sender

_log = logging.getLogger("dora.transport")


class ReceiverSession:
    """The session in which this node listens for other machines, and the receivers that use it."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig, board: Board) -> None:
        """Open the session; raises `ConnectError`."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self._endpoint = remote.listen.get(config.node_id, "")
        self._moving: RemoteConfig | None = None  # it is to listen at another endpoint
        self.receivers: dict[str, RemoteReceiver] = {}  # by key
        try:
            self._session = listen(config.node_id, remote)
            self._connections = Connections(self._session, self._endpoint)
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(
                f"node `{config.node_id}` cannot listen for other machines: {error}"
            ) from error
        self.on_piggyback_ack: Callable[[int, int, int], None] | None = None
        self._subscriber: Any = None
        self._lock = threading.Lock()  # of replacing and closing the session
        self._closed = False
        self._only: RemoteReceiver | None = None  # if the node has had no second input from other machines
        words, asleep = board.words, config.node_slot * WORDS + ASLEEP
        self._poller = BackgroundPoller(self._deliver, lambda: words[asleep], self._interrupt)
        self.poll = self._poller.poll

    def add(self, receiver: RemoteReceiver) -> None:
        """Pass the messages of its link to a receiver."""
        self._only = None
        self.receivers[receiver.key] = receiver

    def subscribe(self) -> None:
        """Start to receive, unless that was done."""
        if self._subscriber is not None:
            return
        if len(self.receivers) == 1:
            (self._only,) = self.receivers.values()
        self._start_receiving()

    def _start_receiving(self) -> None:
        self._subscriber = self._session.declare_subscriber(
            f"{self.dataflow_id}/to/{self.node_id}/**", zenoh.handlers.FifoChannel(CHANNEL_LENGTH)
        )
        self._poller.start(self._subscriber.handler, f"dora {self.node_id} inputs")

    def move(self, remote: RemoteConfig) -> None:
        """Listen at the present endpoint of this node from the next tick on."""
        self._moving = remote if remote.listen.get(self.node_id) not in (None, self._endpoint) else None

    def _listen_anew(self, remote: RemoteConfig) -> None:
        """Replace the session; what was in the old one is not acknowledged, and is sent again."""
        try:
            fresh = listen(self.node_id, remote)
        except zenoh.ZError as error:
            _log.debug("node `%s` cannot listen yet: %s", self.node_id, error)
            return
        old, self._session, self._moving = self._session, fresh, None
        self._endpoint = remote.listen[self.node_id]
        self._connections = Connections(fresh, self._endpoint)
        if self._subscriber is not None:
            self._start_receiving()
        start_thread(f"dora {self.node_id} moves", close_session, old)

    def _deliver(self, sample: zenoh.Sample) -> bool:
        header, payload = sample.attachment, sample.payload
        if header is not None:
            receiver = self._only or self.receivers.get(str(sample.key_expr))
            return receiver is not None and receiver.on_message(payload, header.to_bytes())
        # A probe may belong to a link that this node does not have yet: not always to the only receiver.
        receiver = self.receivers.get(str(sample.key_expr))
        if receiver is not None:
            receiver.on_probe(payload.to_bytes())
        return False

    def _interrupt(self) -> None:
        """Send this node a sample that is not a message."""
        try:
            key = f"{self.dataflow_id}/to/{self.node_id}"
            self._session.put(key, b"", allowed_destination=zenoh.Locality.SESSION_LOCAL)
        except zenoh.ZError:
            pass  # the session is closed

    def put(self, key: str, data: bytes) -> None:
        """Send an acknowledgement, which may get lost."""
        try:
            self._session.put(key, data, congestion_control=DROP, express=True)
        except zenoh.ZError:
            pass  # the session is closed, or a later acknowledgement follows

    def tick(self, now: float) -> None:
        """Check connections and receivers; to be called periodically."""
        if self._moving is not None:
            with self._lock:
                if not self._closed:
                    self._listen_anew(self._moving)
        self._connections.check()
        for receiver in tuple(self.receivers.values()):
            receiver.tick(now)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        close_session(self._session)
        self._poller.join()


class RemoteReceiver:
    """The receiving end of one link, with its queue."""

    def __init__(
        self,
        session: ReceiverSession,
        item: InputConfig,
        arrived: Callable[[], None],
        board: Board,
        node_slot: int,
    ) -> None:
        self._session = session
        self._poll = session.poll
        self._input_id = item.id
        self._bad = BadMessages(item.id)
        self.source = source = item.source.partition("/")[0]
        name = link_name(f"{session.node_id}/{item.id}", item.generation)
        self.key = f"{session.dataflow_id}/to/{name}"
        self._ack_key = f"{session.dataflow_id}/from/{source}/{name}"
        self._arrived = arrived
        self._words = board.words
        self._base = item.slot * WORDS
        # The link was added while the dataflow ran, and starts with the first message that arrives.
        self.starts_late = item.generation > 0 and not self._words[self._base + STATE]
        self._output = item.output_slot * WORDS
        self._fence = self._words[self._output + FENCE]
        self._refused = 0  # the send window of a former process of a machine that was lost
        self._control = node_slot * WORDS + CONTROL
        self._asleep = node_slot * WORDS + ASLEEP
        backpressure = item.queue_policy == "backpressure"
        self._queue: DropOldestQueue[tuple[int, int, Content]] = DropOldestQueue(
            None if backpressure else item.queue_size,
            lambda entry: entry[1] & (KEEP_FLAG | LATCHED_FLAG) != 0,
        )  # sequence number, flags, message
        self._ack_every = max(1, item.queue_size // 2) if backpressure else 0  # messages that were taken
        self._newest = self._last_counted()  # the last sequence number that arrived, also before a restart
        self._newest_before = self._newest  # as the former process of this node left it
        self._repeated = 0  # the last sequence number of the latch that a former process had, and that came
        self._taken = 0  # the last sequence number that was taken out of the queue
        self._acknowledged = 0  # the last sequence number that was acknowledged
        self._lock = threading.RLock()  # a signal handler may close the receiver during a call
        self._window = ReceiveWindow()
        self._reassembler = Reassembler()
        self._last_ping = 0
        self._id = nonce()
        self._ack_count = 0
        self._closed = False
        self._released = False  # the node's next process receives on this link
        self.opened = threading.Event()
        self._next_announcement = 0.0
        self._announce_pause = TICK

    def receive(self) -> Message | None:
        queue = self._queue
        if not queue:
            self._poll()
        while queue:
            try:
                sequence, _, payload = queue.popleft()
            except IndexError:  # another thread was faster
                break
            if self._ack_every:
                self._taken = sequence
                if sequence - self._acknowledged >= self._ack_every:
                    self._send_ack()
            data = payload.to_bytes()
            try:
                message = message_from_bytes(data)
                if message.sequence != sequence:
                    raise MessageError(f"its sequence number is {message.sequence} instead of {sequence}")
            except BAD_MESSAGE as error:
                self._bad.add(error)
                continue
            return message
        if self._ack_every and self._last_counted() - self._acknowledged >= self._ack_every:
            self._send_ack()  # messages that will never arrive were counted as dropped
        return None

    def has_messages(self) -> bool:
        if not self._queue:
            self._poll()
        return len(self._queue) > 0

    def _last_counted(self) -> int:
        """Return the last sequence number that the board counts as received or dropped."""
        words, base = self._words, self._base
        return words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]

    def on_message(self, fragment: zenoh.ZBytes, header: bytes) -> bool:
        """Queue a message if it is the next one and complete; return whether it is."""
        if len(header) != DATA_HEADER.size:
            self._bad.add(MessageError(f"its network header has {len(header)} bytes"))
            return False
        fields = DATA_HEADER.unpack(header)
        window_id, number, sequence, flags, index, count, acked_window, arrived, taken = fields
        if not (0 < sequence <= MAX_SEQUENCE and taken <= MAX_SEQUENCE and index < max(count, 1)):
            self._bad.add(MessageError("its network header is invalid"))
            return False
        if acked_window and self._session.on_piggyback_ack is not None:
            self._session.on_piggyback_ack(acked_window, arrived, taken)
        window = self._window
        with self._lock:
            if self._closed or self._released:
                return False
            if self._words[self._output + FENCE] != self._fence:
                self._leave_window()
                return False
            payload: Content = fragment
            if count > 1:
                if not window.expects(window_id, number):
                    return False
                message = self._reassembler.add(number, index, count, fragment)
                if message is None:
                    return False
                payload = message
            if not window.accept(window_id, number, len(payload)):
                window.keep_early(window_id, number, (sequence, flags, payload))
                return False
            if self.starts_late:
                self.starts_late = False
                self._start_after(sequence - 1)
            self._enqueue(sequence, flags, payload)
            while (early := window.pop_early()) is not None:
                window.accept(window_id, window.arrived + 1, len(early[2]))
                self._enqueue(*early)
            self._reassembler.forget(window.arrived)
        if self._words[self._asleep]:
            self._arrived()
        if flags & ACK_FLAG or window.is_ack_due():
            self._send_ack()
        return True

    def _enqueue(self, sequence: int, flags: int, payload: Content) -> None:
        if sequence <= self._newest:  # a former process received it, and ended before it acknowledged that
            if not flags & LATCHED_FLAG or self._newest > self._newest_before or sequence <= self._repeated:
                return
            self._repeated = sequence
        else:
            self._newest = sequence
        words = self._words
        if sequence > words[self._output + SENT]:
            words[self._output + SENT] = sequence
        if flags & FLUSH_FLAG:
            words[self._output + FLUSH] = sequence
            words[self._control] = time.monotonic_ns()
        self._queue.put((sequence, flags, payload))

    def on_probe(self, data: bytes) -> None:
        """Process a probe or a ping, and acknowledge it."""
        if len(data) == PING.size:
            (self._last_ping,) = PING.unpack(data)
            self._send_ack()
            return
        if len(data) != PROBE.size:
            return
        window_id, last, last_sequence, sent, receiver = PROBE.unpack(data)
        if last_sequence > MAX_SEQUENCE or sent > MAX_SEQUENCE:
            self._bad.add(MessageError("it is an invalid probe"))
            return
        if receiver not in (0, self._id):  # it is for a former process
            self._send_ack()
            return
        words = self._words
        with self._lock:
            if words[self._output + FENCE] != self._fence:
                self._leave_window()
            if window_id == self._refused:
                return
            if not self._closed and sent > words[self._output + SENT]:
                words[self._output + SENT] = sent
            if not self._closed and self._window.open(window_id, last):
                # Messages to a former process, or from one, do not arrive any more.
                words[self._output + BEGUN] = last_sequence
                self._taken = max(self._last_counted(), last_sequence)
                self._reassembler = Reassembler()
                words[self._base + STATE] = CONNECTED
                self.opened.set()
            if self.starts_late and not last:
                self._start_after(sent)
        self._send_ack()

    def _leave_window(self) -> None:
        """Refuse what is still on its way from a machine that was lost; what came before is counted."""
        self._fence = self._words[self._output + FENCE]
        if self._window.window_id:
            self._refused = self._window.window_id
        self._window = ReceiveWindow()
        self._reassembler = Reassembler()

    def _start_after(self, sequence: int) -> None:
        """Record that messages up to this one are not meant for this link."""
        self._words[self._base + FIRST] = self._taken = sequence

    def _send_ack(self) -> None:
        """Acknowledge what has arrived, and what was taken out of the queue."""
        with self._lock:
            self._ack_count += 1
            taken = max(self._taken, self._last_counted())
            self._acknowledged = taken
            window = self._window
            window.on_ack_sent()
            state = CLOSED if self._closed else CONNECTED
            data = ACK.pack(
                self._ack_count,
                self._id,
                window.window_id,
                window.arrived,
                taken,
                self._last_ping,
                state,
                window.missing and not self._released,
            )
            self._session.put(self._ack_key, data)

    def piggyback_ack(self) -> PiggybackAck | None:
        """Return an acknowledgement to send with a message to the source node; None if none is needed."""
        window = self._window
        with self._lock:
            if self._closed or self._released or window.missing or not window.has_unacknowledged():
                return None
            self._acknowledged = max(self._taken, self._last_counted())
            window.on_ack_sent()
            return window.window_id, window.arrived, self._acknowledged

    def tick(self, now: float) -> None:
        """Announce this receiver to its sender, or acknowledge the last messages; called periodically."""
        window = self._window
        if not window.window_id:
            if now >= self._next_announcement:
                self._next_announcement = now + self._announce_pause
                self._announce_pause = min(self._announce_pause * 2, _MAX_ANNOUNCE_PAUSE)
                self._send_ack()
        elif window.has_unacknowledged():
            self._send_ack()

    def release(self) -> None:
        """Accept no more messages: the sender keeps them for the node's next process."""
        with self._lock:
            self._released = True
        self._send_ack()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._released:
                self._words[self._base + STATE] = CLOSED
        self._queue.clear()
        if not self._released:
            self._send_ack()
