"""The sending ends of a node's links to other machines, and the session that they share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import zenoh

from dora.errors import ConnectError, TransportError
from dora.transport.board import CLOSED, CONNECTED, CREDIT_WAITING, RECEIVED, SENT, STATE, WORDS, Board
from dora.transport.doorbell import Bell
from dora.transport.lane import Entry, Lane
from dora.transport.mailbox import reach
from dora.transport.parts import Outgoing
from dora.transport.quick import ASK_FROM, QuickWay
from dora.transport.remote_link import (
    ASKS,
    CHANNEL_LENGTH,
    DROP,
    LABEL,
    LOOK_EVERY,
    NOTHING_NEW,
    PROBE,
    PROGRESS,
    THREAD_PATIENCE,
    Report,
    close_session,
    link_name,
    nonce,
    start_thread,
)
from dora.transport.remote_receiver import RemoteReceiver
from dora.wire.control import LinkConfig, NodeConfig, OutputConfig, RemoteConfig

SILENCE: Final = 2.0  # seconds without an answer until it is said that a machine does not answer
_APART_NS: Final = 100_000  # between messages that go at once, without waiting for others

_log = logging.getLogger("dora.transport")


class Gate:
    """The session in which this node reaches nodes of other machines, and the senders that use it."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig, consumers: set[str]) -> None:
        """Open it; raises `ConnectError`. ``consumers`` are the nodes that it reaches."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self.senders: dict[str, RemoteSender] = {}  # by the name of their link
        try:
            self.endpoints = {node_id: remote.reach[node_id] for node_id in consumers}
            self._session = reach(consumers, remote)
            self._quick_session = reach(consumers, remote, quickly=True)
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(f"nodes of other machines cannot be reached: {error}") from error
        self._prefix = f"{self.dataflow_id}/from/{self.node_id}/"
        self._subscriber: Any = None
        self._thread: threading.Thread | None = None

    def subscribe(self) -> None:
        if self._subscriber is not None:
            return
        self._subscriber = self._session.declare_subscriber(
            f"{self._prefix}**", zenoh.handlers.FifoChannel(CHANNEL_LENGTH)
        )
        self._thread = start_thread(f"dora {self.node_id}", self._listen, self._subscriber.handler)

    def _listen(self, samples: Iterable[zenoh.Sample]) -> None:
        for sample in samples:
            sender = self.senders.get(str(sample.key_expr)[len(self._prefix) :])
            data = sample.payload.to_bytes()
            if sender is not None and len(data) == PROGRESS.size:
                try:
                    sender.on_progress(data)
                except TransportError:
                    pass  # the session is being closed

    def declare(self, key: str) -> zenoh.KeyExpr:
        """Return a key in the form that needs no work for each message; raises `TransportError`."""
        try:
            declared: zenoh.KeyExpr = self._session.declare_keyexpr(key)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot set up {key}: {error}") from error
        return declared

    def publisher(self, key: zenoh.KeyExpr, *, express: bool) -> zenoh.Publisher:
        """Return what sends under a key with less work than `put`; raises `TransportError`.

        It discards what nobody seems to subscribe to, and for a moment after the first message nobody seems
        to: see `RemoteSender._launch`.
        """
        return _publisher(self._session, key, express=express)

    def quick_publisher(self, key: zenoh.KeyExpr) -> zenoh.Publisher:
        """As `publisher`, for the quick way."""
        return _publisher(self._quick_session, key, express=True)

    def ask(self, key: zenoh.KeyExpr, question: bytes) -> None:
        """Send a question on the quick way; it may get lost."""
        try:
            self._quick_session.put(key, question, congestion_control=DROP)
        except zenoh.ZError:
            pass  # the session is being closed

    def put(
        self,
        key: zenoh.KeyExpr,
        payload: Any,
        label: bytes | None,
    ) -> None:
        try:
            self._session.put(key, payload, attachment=label, congestion_control=DROP, express=True)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot send: {error}") from error

    def close(self) -> None:
        close_session(self._quick_session)
        close_session(self._session)
        if self._thread is not None:
            self._thread.join(THREAD_PATIENCE)


def _publisher(session: zenoh.Session, key: zenoh.KeyExpr, *, express: bool) -> zenoh.Publisher:
    try:
        made: zenoh.Publisher = session.declare_publisher(key, congestion_control=DROP, express=express)
    except zenoh.ZError as error:
        raise TransportError(f"Zenoh cannot set up {key}: {error}") from error
    return made


class RemoteSender:
    """The sending end of one link. Safe to use from several threads."""

    def __init__(self, gate: Gate, output: OutputConfig, link: LinkConfig, board: Board) -> None:
        self.link = link
        key = zenoh.KeyExpr(f"{gate.dataflow_id}/to/{link_name(link.consumer, link.epoch)}")
        self._key = gate.declare(str(key))
        self._alone = gate.publisher(self._key, express=True)
        self._among_others = gate.publisher(self._key, express=False)
        self._quickly = gate.quick_publisher(key)
        self._quick = QuickWay(partial(gate.ask, key))
        self._proven = False  # a message of this lane has come through
        self._name = f"{gate.node_id}/{output.id} -> {link.consumer}"
        self._gate = gate
        self._words = board.words
        self._base = link.slot * WORDS
        self._sent_word = output.slot * WORDS + SENT
        self._waiting_word = output.slot * WORDS + CREDIT_WAITING
        self._credit = Bell(output.credit_bell) if link.policy == "backpressure" else None
        self._lock = threading.Lock()
        self.lane_id = nonce()
        self._lane = Lane(
            self._launch,
            None if link.policy == "backpressure" else max(link.queue_size, link.room),
            self._words[self._sent_word],
        )
        self.back: list[RemoteReceiver] = []  # of this node, for what its receiver's node sends
        self._receiver = 0
        self._count = 0  # of the last progress that was heard
        self._heard = time.monotonic()
        self._repeated = 0.0
        self._launched = 0  # monotonic nanoseconds
        self._silent_since = 0.0  # wall clock; 0: it answers

    @property
    def is_missing(self) -> bool:
        """Whether a receiver that should be there has not confirmed this lane."""
        state = self._words[self._base + STATE]
        if self._lane.open or state == CLOSED:
            return False
        return state == CONNECTED or not self.link.dynamic

    @property
    def _may_be_absent(self) -> bool:
        """Whether nothing is sent before the receiver is there: what comes late begins with that."""
        return self.link.dynamic or self.link.epoch > 0

    @property
    def is_idle(self) -> bool:
        """Whether everything sent has arrived, or there is nobody for whom it could."""
        return self._lane.idle or self._words[self._base + STATE] == CLOSED

    def put(self, message: Outgoing, sequence: int, flush: bool, size: int) -> None:
        """Send a message, or keep it until there is room on its way."""
        state = self._words[self._base + STATE]
        if state == CLOSED or (state != CONNECTED and self._may_be_absent):
            return
        with self._lock:
            self._lane.put(sequence, (message, flush), size)

    def _launch(self, entry: Entry) -> None:
        number, sequence, (message, flush), size = entry
        now = time.monotonic_ns()
        alone = now - self._launched > _APART_NS
        self._launched = now
        flying = self._lane.flying_bytes
        report = self._report()
        try:
            if self._quick.takes(number, size, flying, alone=alone):
                marks = flush | ASKS if flying > ASK_FROM else flush
                parts = message.parts()
                count = len(parts)
                for index, part in enumerate(parts):
                    label = LABEL.pack(self.lane_id, number, sequence, marks, index, count, *report)
                    self._quickly.put(part, attachment=label)
                return
            label = LABEL.pack(self.lane_id, number, sequence, flush, 0, 1, *report)
            if self._proven:
                publisher = self._alone if alone else self._among_others
                publisher.put(message.whole(), attachment=label)
            else:
                self._gate.put(self._key, message.whole(), label)
        except zenoh.ZError as error:
            raise TransportError(f"link {self._name}: Zenoh cannot send: {error}") from error

    def _report(self) -> Report:
        """Return what there is to tell the receiver's node about what it sends: this saves a message."""
        for receiver in self.back:
            if report := receiver.report():
                return report
        return NOTHING_NEW

    def on_report(self, lane: int, arrived: int, taken: int) -> None:
        """Take what came with a message of the receiver's node."""
        words, received = self._words, self._base + RECEIVED
        with self._lock:
            if lane != self.lane_id or not self._lane.open:
                return
            self._heard = time.monotonic()
            words[received] = max(words[received], taken)
            self._quick.on_report(arrived)
            self._lane.acknowledge(arrived)
        self._wake()

    def probe(self) -> None:
        """Say how far this side has come; answered by progress."""
        lane = self._lane
        sent = self._words[self._sent_word]
        data = PROBE.pack(self.lane_id, lane.last, lane.last_sequence, sent, self._receiver)
        self._gate.put(self._key, data, None)

    def on_progress(self, data: bytes) -> None:
        """Take what the receiver tells."""
        count, receiver, lane, arrived, taken, answered, state, missing = PROGRESS.unpack(data)
        words, base = self._words, self._base
        with self._lock:
            now = time.monotonic()
            if receiver == self._receiver and count <= self._count:
                return
            self._count, self._heard = count, now
            if receiver != self._receiver:
                if self._receiver:
                    self._lane.begin_anew()
                    self.lane_id = nonce()  # its numbers are given once more
                    self._proven = False
                    self._quick.close()
                self._receiver = receiver
            if state == CLOSED:
                words[base + STATE] = CLOSED
                self._lane.forget()
            elif lane == self.lane_id:
                words[base + RECEIVED] = taken
                if not self._lane.open:
                    words[base + STATE] = CONNECTED
                    self._lane.open = True
                    if self._may_be_absent:
                        self.probe()  # what was not sent to it until now is not missing
                self._proven = self._proven or arrived > 0
                self._quick.on_progress(arrived, answered)
                self._lane.acknowledge(arrived)
                if missing and now - self._repeated > LOOK_EVERY:
                    self._repeated = now
                    self._quick.close()
                    self._lane.repeat()
            else:  # a receiver that does not know this lane yet
                self.probe()
        self._wake()

    def _wake(self) -> None:
        """Do what follows from having heard of the receiver."""
        if self._silent_since:
            self._say_back()
        if self._credit is not None and self._words[self._waiting_word]:
            self._credit.ring()

    def look(self, now: float) -> None:
        """Do what time demands: ask a receiver of which nothing is heard."""
        if self.is_missing:
            self.probe()
        if self.is_idle and not self._waits_for_credit():
            self._heard = now
        if now - self._heard < LOOK_EVERY:
            return
        self.probe()
        if now - self._heard > SILENCE and not self._silent_since and self.is_expected():
            self._silent_since = time.time() - (now - self._heard)
            since = time.strftime("%H:%M:%S", time.localtime(self._silent_since))
            _log.error(
                "link %s: machine `%s` does not answer since %s", self._name, self.link.machine, since
            )

    def is_expected(self) -> bool:
        """Tell whether the receiver was there, as far as this side knows."""
        return self._words[self._base + STATE] == CONNECTED

    def _waits_for_credit(self) -> bool:
        """Tell whether credit may have been lost on the way, though all messages have arrived."""
        return self._credit is not None and self._words[self._waiting_word] != 0 and self.is_expected()

    def _say_back(self) -> None:
        seconds = time.time() - self._silent_since
        self._silent_since = 0.0
        _log.warning(
            "link %s: machine `%s` answers again, after %.1f s", self._name, self.link.machine, seconds
        )
