"""The sending ends of a node's links to other machines."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, cast

import zenoh

from dora.errors import TransportError
from dora.transport.board import CLOSED, CONNECTED, CREDIT_WAITING, RECEIVED, SENT, STATE, WORDS, Board
from dora.transport.doorbell import Bell
from dora.transport.forking import RefusingLock
from dora.transport.network.fast_path import ACK_FROM, MAX_MESSAGE, SHORT, SMALL, FastPath
from dora.transport.network.fragments import FragmentedMessage
from dora.transport.network.in_flight import InFlightLimit
from dora.transport.network.peer import Peer, Publishers
from dora.transport.network.protocol import (
    ACK,
    ACK_FLAG,
    DATA_HEADER,
    KEEP_FLAG,
    NO_ACK,
    PROBE,
    TICK,
    PiggybackAck,
    link_name,
    nonce,
)
from dora.transport.network.receiver import RemoteReceiver
from dora.transport.network.send_thread import ROOM, queue_space
from dora.transport.network.window import Entry, SendWindow
from dora.wire.correlation import kept_section
from dora.wire.message import MAX_SEQUENCE
from dora.wire.node_config import LinkConfig, OutputConfig

NO_ANSWER_AFTER: Final = 2.0  # seconds without an acknowledgement until an error is logged
_APART_NS: Final = 100_000  # a message this long after the last one is sent alone, not in a batch
# Messages of a class wait while messages of a lower one do.
_CLASSES: Final = {"control": 0, "normal": 1, "bulk": 2}
_URGENT_BYTES: Final = {None: SMALL, "control": MAX_MESSAGE, "normal": 0, "bulk": 0}
_MAX_RETRANSMIT_PAUSE: Final = 10.0  # seconds between retransmissions of which nothing arrives

Transmission = tuple[Callable[..., None], list[zenoh.ZBytes], tuple[int, int, int, int], PiggybackAck]
"""A put method, the fragments to send with it, and the start and the end of their headers."""

_log = logging.getLogger("dora.transport")


class RemoteSender:
    """The sending end of one link. Safe to use from several threads."""

    def __init__(self, peer: Peer, output: OutputConfig, link: LinkConfig, board: Board) -> None:
        self.link = link
        self.is_kept = kept_section(link.keep)
        self.node = link.consumer.partition("/")[0]  # that receives
        self.key = f"{peer.dataflow_id}/to/{link_name(link.consumer, link.generation)}"
        self.publishers = peer.publishers(self.key)
        self._class = _CLASSES[output.priority or "normal"]
        # Messages up to this size do not wait behind larger ones of other links.
        self._urgent_bytes = _URGENT_BYTES[output.priority]
        self._may_take_fast_path = output.priority != "bulk"
        self._fast_path = FastPath(lambda data: self.publishers.ping(data))
        self._awaits_ack = False  # the connection is new: nothing is transmitted before an acknowledgement
        self._arrived = 0  # the number of the last acknowledged message
        # The same when the publishers were new: a later one proves that they know of the subscriber.
        self._arrived_before = 0
        self._name = f"{peer.node_id}/{output.id} -> {link.consumer}"
        self._words = board.words
        self._base = link.slot * WORDS
        self._sent_word = output.slot * WORDS + SENT
        self._waiting_word = output.slot * WORDS + CREDIT_WAITING
        self._credit = Bell(output.credit_bell) if link.queue_policy == "backpressure" else None
        self._lock = threading.Lock()
        self.window_id = nonce()
        capacity = (
            None if link.queue_policy == "backpressure" else max(link.queue_size, link.engine_queue_size)
        )
        self._window = self._make_window(capacity, self._words[self._sent_word])
        # Of this node, for outputs of the receiving node: messages carry their acknowledgements.
        self.reverse_receivers: list[RemoteReceiver] = []
        self._skipped = 0  # the sequence number of the last message for which there was no receiver
        self._receiver = 0
        self._ack_count = 0  # of the last acknowledgement
        self._acknowledged_at = time.monotonic()
        self._retransmitted_at = 0.0
        self._retransmitted_after = 0  # the number of the last message that had arrived then
        self._retransmit_pause = TICK
        self._transmitted_ns = 0  # monotonic
        self._queued: deque[tuple[int, int, int]] = deque()  # maybe in Zenoh's queue: number, space, size
        self.queued_bytes = 0  # the sum of the space
        self._large_bytes = 0  # the sum of the sizes of those that are not small
        self.progress = 0  # grows with everything that is sent and acknowledged
        self._deferred = False  # the send thread transmits what is ready
        self._probe_deferred = False  # it sends a probe, too
        self.siblings: tuple[RemoteSender, ...] = ()  # the other senders to the same node
        # Those whose messages go before the messages of this link, and those for which it is vice versa.
        self._before: tuple[RemoteSender, ...] = ()
        self._after: tuple[RemoteSender, ...] = ()
        self._is_announced = False  # the receiver is there, and has not confirmed this send window
        self._no_answer_since = 0.0  # wall clock; 0: the receiver answers

    def _make_window(self, capacity: int | None, sequence: int) -> SendWindow:
        return SendWindow(capacity, sequence, lambda payload: payload[1] & KEEP_FLAG, self._is_old)

    def _is_old(self, payload: tuple[FragmentedMessage, int]) -> bool:
        """Return whether a message has waited here for longer than the `max_age` of its input.

        The receiver measures from the time stamp of the message, which is earlier.
        """
        max_age_ns = self.link.max_age_ns  # 0 under back-pressure: such a link loses no message
        return max_age_ns > 0 and time.monotonic_ns() - payload[0].sent_ns > max_age_ns

    def _on_open(self) -> None:
        """Called with the lock held when the receiver is there, before anything is transmitted to it."""

    def set_siblings(self, senders: Iterable[RemoteSender]) -> None:
        """Set the senders to the same node, of which this is one."""
        self.siblings = tuple(each for each in senders if each is not self)
        self._before = tuple(each for each in self.siblings if each._class < self._class)
        self._after = tuple(each for each in self.siblings if each._class > self._class)
        self._window.is_held = self._is_behind_others if self._before else None

    @property
    def is_missing(self) -> bool:
        """Whether a receiver that should be there has not confirmed this send window."""
        state = self._words[self._base + STATE]
        if self._window.open or state == CLOSED:
            return False
        return state == CONNECTED or not self.link.dynamic

    @property
    def _may_be_absent(self) -> bool:
        """Whether messages are skipped until the receiver is there: a late one starts with the next."""
        return self.link.dynamic or self.link.generation > 0

    @property
    def is_idle(self) -> bool:
        """Whether every message has arrived, or the receiver has closed."""
        return self._window.is_idle or self._words[self._base + STATE] == CLOSED

    @property
    def fast_bytes(self) -> int:
        """The size of all messages in flight on the fast path."""
        return self._fast_path.bytes

    @property
    def is_blocked(self) -> bool:
        """Whether a message waits for room on the network, or for a connection."""
        return self.publishers.send_thread.busy or self._awaits_ack

    def disown(self) -> None:
        """Refuse to send, in a forked child process."""
        self._lock = cast("threading.Lock", RefusingLock())

    def put(self, message: FragmentedMessage, sequence: int, flags: int, size: int) -> None:
        """Send a message, or keep it until the network has room."""
        state = self._words[self._base + STATE]
        if state == CLOSED or (state != CONNECTED and self._may_be_absent):
            self._skipped = sequence
            return
        with self._lock:
            self._window.put(sequence, (message, flags), size)
            self._transmit_ready()
            if self._window.is_ready and not self._deferred and self._fast_path.is_open:
                self._fast_path.ping()  # it is held: ask for the acknowledgement that it waits for
            if self._window.has_backlog:  # another thread transmits it, when the memory may be reused
                message.zbytes()
        if self._after:
            self._resume_others()

    def _transmit_ready(self) -> None:
        """Transmit what is ready, as long as that cannot block. The lock has to be held."""
        if self._deferred or self._awaits_ack:
            return
        window = self._window
        while (entry := window.next()) is not None:
            if self._is_held(entry):
                window.undo_next()
                return
            transmission = self._prepare(entry, may_block=False)
            if transmission is None:
                window.undo_next()
                self._defer()
                return
            self._transmit(transmission)

    @property
    def has_backlog(self) -> bool:
        """Whether a message waits that the receiver could get. Other threads may read this."""
        return self._window.open and self._window.has_backlog and not self._awaits_ack

    def _is_held(self, entry: Entry) -> bool:
        """Return whether a message waits for an acknowledgement, and takes the fast path then.

        On the regular path it would be behind large messages of other links. It cannot take the fast path
        while an earlier one is on the regular path, or while it has no room there.
        """
        number, _, _, size = entry
        path = self._fast_path
        return (
            size <= self._urgent_bytes
            and path.is_open
            and number > self._arrived + 1
            and self._is_behind_large()
            and not path.would_accept(size, self._fast_bytes_of_all())
        )

    def _is_behind_others(self) -> bool:
        """Return whether a message of a link that goes before this one waits.

        Then no message enters the window, where it could not be dropped any more.
        """
        return any(sender.has_backlog for sender in self._before)

    def _resume_others(self) -> None:
        """Transmit the messages of other links that waited for this link. No lock may be held."""
        if not self.has_backlog:
            for sender in self._after:
                sender.resume()

    def resume(self) -> None:
        """Transmit, in the send thread, what need not wait any more."""
        with self._lock:  # who holds it may be about to find that a message has to wait
            self._window.admit_waiting()
            self._defer()

    def _is_behind_large(self) -> bool:
        """Return whether a message would wait for large ones of other links on the regular path."""
        siblings = self.siblings
        return bool(siblings) and any(sibling.keeps_waiting for sibling in siblings)

    @property
    def keeps_waiting(self) -> bool:
        """Whether messages of other links would have to wait for large ones of this link."""
        rate = self._window.limit.rate
        return self._large_bytes > rate * SHORT

    def _fast_bytes_of_all(self) -> int:
        total = self._fast_path.bytes
        for sibling in self.siblings:
            total += sibling.fast_bytes
        return total

    def _defer(self) -> None:
        """Leave what is ready to the send thread. The lock has to be held."""
        if self._window.is_ready and not (self._deferred or self._awaits_ack):
            self._deferred = True
            self.publishers.send_thread.submit(partial(self._transmit_next, self.publishers))

    def _transmit_next(self, publishers: Publishers) -> None:
        """Transmit one message, however long that takes; runs in the send thread."""
        with self._lock:
            if publishers is not self.publishers:
                return
            entry = self._window.next()
            if entry is not None and self._is_held(entry):
                self._window.undo_next()
                entry = None
            transmission = self._prepare(entry, may_block=True) if entry is not None else None
            self._deferred = transmission is not None
        if transmission is None:
            self._resume_others()
            return
        try:
            self._transmit(transmission)
        except TransportError:  # the session is being closed; otherwise it is retransmitted like a lost one
            with self._lock:
                if publishers is self.publishers:
                    self._deferred = False
            return
        publishers.send_thread.submit(partial(self._transmit_next, publishers))

    def _prepare(self, entry: Entry, *, may_block: bool) -> Transmission | None:
        """Return how to transmit a message; None if that may block, and must not."""
        number, sequence, (message, flags), size = entry
        now = time.monotonic_ns()
        alone = now - self._transmitted_ns > _APART_NS
        window, limit, path = self._window, self._window.limit, self._fast_path
        publishers = self.publishers
        if window.in_flight_bytes == size:
            limit.begin(now / 1e9)
        is_short = size <= SMALL or size <= limit.rate * SHORT
        needs_sample = window.in_flight_bytes > limit.bytes // 2
        fast_bytes = self._fast_bytes_of_all()
        is_urgent = size <= self._urgent_bytes
        if (
            (is_short or is_urgent)
            and self._may_take_fast_path
            and (alone or (is_urgent and (publishers.send_thread.busy or self._is_behind_large())))
            and path.accepts(number, size, fast_bytes)
        ):
            put, fragments = publishers.put_fast, message.fragments()
            if fast_bytes > ACK_FROM:
                flags |= ACK_FLAG
        else:
            space = queue_space(size, alone=alone)
            if not (may_block or self._has_room(space)):
                return None
            path.on_regular(number)
            self._queued.append((number, space, size))
            self.queued_bytes += space
            if size > SMALL:
                self._large_bytes += size
            put = self._regular_put(alone=alone)
            if window.is_retransmission():
                fragments = message.retransmit_fragments()
                needs_sample = False
            else:
                fragments = [message.zbytes()]
                needs_sample = needs_sample or not is_short
                if not path.is_open:  # the fast path opens with the acknowledgement
                    flags |= ACK_FLAG
        if needs_sample and limit.measure(number):
            flags |= ACK_FLAG
        self._transmitted_ns = now
        return put, fragments, (self.window_id, number, sequence, flags), self._piggyback_ack()

    def _has_room(self, space: int) -> bool:
        """Return whether Zenoh's queue is sure to have this much space."""
        queued = self.queued_bytes + sum([sibling.queued_bytes for sibling in self.siblings])
        return not self.publishers.send_thread.busy and queued + space <= ROOM

    def _regular_put(self, *, alone: bool) -> Callable[..., None]:
        publishers = self.publishers
        if self._arrived <= self._arrived_before:
            return publishers.put
        return publishers.put_express if alone else publishers.put_batched

    def _transmit(self, transmission: Transmission) -> None:
        put, fragments, head, ack = transmission
        count = len(fragments)
        try:
            for index, fragment in enumerate(fragments):
                put(fragment, attachment=DATA_HEADER.pack(*head, index, count, *ack))
                self.progress += 1
        except zenoh.ZError as error:
            raise TransportError(f"link {self._name}: Zenoh cannot send: {error}") from error

    def _piggyback_ack(self) -> PiggybackAck:
        """Return an acknowledgement that the receiving node needs; sending it along saves a message."""
        for receiver in self.reverse_receivers:
            if ack := receiver.piggyback_ack():
                return ack
        return NO_ACK

    def on_piggyback_ack(self, window_id: int, arrived: int, taken: int) -> None:
        """Process an acknowledgement that came with a message of the receiving node."""
        words, received = self._words, self._base + RECEIVED
        with self._lock:
            if window_id != self.window_id or not self._window.open:
                return
            self._acknowledged_at = now = time.monotonic()
            words[received] = max(words[received], taken)
            self._fast_path.on_arrived(arrived)
            self._acknowledge(arrived, now)
            if self._window.is_ready:
                if self.publishers.send_thread.busy:  # it may wait for room for a large message
                    self._transmit_ready()
                else:
                    self._defer()  # this thread has messages to receive
        self._after_ack()

    def on_ack(self, data: bytes) -> None:
        """Process an acknowledgement of the receiver."""
        count, receiver, window_id, arrived, taken, last_ping, state, missing = ACK.unpack(data)
        if taken > MAX_SEQUENCE:
            return  # not from a receiver of dora
        words, base = self._words, self._base
        with self._lock:
            now = time.monotonic()
            if receiver == self._receiver and count <= self._ack_count:
                return
            self._ack_count, self._acknowledged_at, self._awaits_ack = count, now, False
            if receiver != self._receiver:
                if self._receiver:
                    self._clear_queued()
                    self._fast_path.close()
                    self._restart_window()
                self._receiver = receiver
            if state == CLOSED:
                self._is_announced = False
                words[base + STATE] = CLOSED
                self._window.abandon()
                self._clear_queued()
                self._fast_path.close()
            elif window_id == self.window_id:
                words[base + RECEIVED] = taken
                if not self._window.open:
                    self._is_announced = False
                    words[base + STATE] = CONNECTED
                    self._window.open = True
                    self._on_open()
                    if self._may_be_absent:
                        self.probe()  # earlier messages were not sent to it, so none of them is missing
                round_trip = self._fast_path.on_ack(arrived, last_ping)
                if round_trip is not None:
                    self._window.limit.on_round_trip(round_trip)
                self._acknowledge(arrived, now)
                if missing:
                    self._retransmit(arrived, now)
                self._transmit_ready()
                if self._credit is not None and self._window.is_idle:
                    self._skip()
            else:  # the receiver does not know this send window yet
                self._is_announced = True
                self.probe()
        self._after_ack()

    def _acknowledge(self, arrived: int, now: float) -> None:
        self._arrived = max(self._arrived, arrived)
        queued, in_flight_bytes = self._queued, self._window.in_flight_bytes
        while queued and queued[0][0] <= arrived:
            _, space, size = queued.popleft()
            self.queued_bytes -= space
            if size > SMALL:
                self._large_bytes -= size
        self._window.acknowledge(arrived, now)
        if self._window.in_flight_bytes != in_flight_bytes:
            self.progress += 1

    def _restart_window(self) -> None:
        self._window.restart()
        self.window_id = nonce()  # its numbers are assigned anew
        # The receiver acknowledges this number at once: that proves nothing about the publishers.
        self._arrived = self._arrived_before = self._window.last

    def _skip(self) -> None:
        """Begin a window behind the messages that were sent while the receiver was restarted.

        The receiver would learn of them from the next message, for which there may be no credit. The lock
        has to be held, and the window has to be idle.
        """
        if self._skipped > self._window.last_sequence:
            self._window.skip_to(self._skipped)
            self._restart_window()
            self.probe()

    def _clear_queued(self) -> None:
        self._queued.clear()
        self.queued_bytes = self._large_bytes = 0

    def _retransmit(self, arrived: int, now: float) -> None:
        """Retransmit all messages in flight, unless that was done recently. The lock has to be held."""
        if self._window.is_ready:  # some of them are still to be transmitted
            self._retransmitted_at = now
            return
        pause = self._retransmit_pause if arrived == self._retransmitted_after else TICK
        if now - self._retransmitted_at > pause:
            self._retransmitted_at, self._retransmitted_after = now, arrived
            self._retransmit_pause = min(pause * 2, _MAX_RETRANSMIT_PAUSE)
            self._fast_path.close()
            self._window.retransmit()
            self._defer()

    def _after_ack(self) -> None:
        """Resume other links and a program that waits for credit; log that the receiver answers again."""
        self._resume_others()
        if self._no_answer_since:
            self._log_answer()
        if self._credit is not None and self._words[self._waiting_word]:
            self._credit.ring()

    def probe(self, *, express: bool = True) -> None:
        """Send the state of this end, which the receiver acknowledges. Never blocks.

        ``express``: in a batch of its own; not for probes that are repeated without an answer.
        """
        send_thread = self.publishers.send_thread
        if self._has_room(0) or (self._fast_path.is_open and not self._queued):
            self._send_probe(express=express)
        elif not self._probe_deferred:
            self._probe_deferred = True
            send_thread.submit(self._send_deferred_probe)

    def _send_deferred_probe(self) -> None:
        self._probe_deferred = False
        try:
            self._send_probe(express=True)
        except TransportError:
            pass  # the session is being closed

    def _send_probe(self, *, express: bool) -> None:
        window = self._window
        sent = self._words[self._sent_word]
        data = PROBE.pack(
            self.window_id, window.last_transmitted, window.last_sequence, sent, self._receiver
        )
        publishers = self.publishers
        if self._fast_path.is_open and not self._queued:
            publishers.ping(data)  # behind the last message, not behind large ones of other links
            return
        try:
            publishers.put(data, express=express)
        except zenoh.ZError as error:
            if publishers is self.publishers:  # otherwise a new probe goes to the new connection
                raise TransportError(f"link {self._name}: Zenoh cannot send: {error}") from error

    def renew(self, publishers: Publishers) -> None:
        """Send on a new connection from now on.

        Messages in flight are retransmitted there once the receiver has acknowledged a probe. Those that
        may be dropped wait again with the others until then, so only the newest of all are sent.
        """
        with self._lock:
            self.publishers = publishers
            self._deferred = self._probe_deferred = False
            self._awaits_ack = True
            self._fast_path.close()
            self._clear_queued()
            self._window.limit = InFlightLimit()
            self._retransmit_pause, self._retransmitted_after = TICK, -1  # no message was lost there
            if self._credit is None:
                self._restart_window()
            else:  # a new window would count messages as taken that are in the queue of the receiver
                self._arrived_before = self._arrived
                self._window.retransmit()

    def tick(self, now: float) -> None:
        """Probe a receiver that does not answer; to be called periodically."""
        # A receiver announces itself until it has got a probe. Its answer to that may be lost.
        if self.is_missing or self._is_announced:
            self.probe()
        if self._window.has_backlog and self._fast_path.is_open:
            self._fast_path.ping()  # the first ones may have been behind other messages
        self.resume()
        if self.is_idle and not self._waits_for_credit():
            self._acknowledged_at = now
        if now - self._acknowledged_at < TICK:
            return
        self.probe(express=False)
        silence = now - self._acknowledged_at
        if silence > NO_ANSWER_AFTER and not self._no_answer_since and self.is_expected():
            self._no_answer_since = time.time() - silence
            since = time.strftime("%H:%M:%S", time.localtime(self._no_answer_since))
            _log.error(
                "link %s: machine `%s` has not answered since %s", self._name, self.link.machine, since
            )

    def is_expected(self) -> bool:
        """Return whether the receiver is there, as far as this end knows."""
        return self._words[self._base + STATE] == CONNECTED

    def _waits_for_credit(self) -> bool:
        """Return whether the program waits for credit, which may have been lost on the network."""
        return self._credit is not None and self._words[self._waiting_word] != 0 and self.is_expected()

    def _log_answer(self) -> None:
        seconds = time.time() - self._no_answer_since
        self._no_answer_since = 0.0
        _log.warning(
            "link %s: machine `%s` answers again, after %.1f s", self._name, self.link.machine, seconds
        )
