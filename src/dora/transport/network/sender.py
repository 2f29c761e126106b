"""The sending ends of a node's links to other machines."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import zenoh

from dora.errors import TransportError
from dora.transport.board import CLOSED, CONNECTED, CREDIT_WAITING, RECEIVED, SENT, STATE, WORDS, Board
from dora.transport.doorbell import Bell
from dora.transport.network.fragments import FragmentedMessage
from dora.transport.network.peer import Peer, Publishers
from dora.transport.network.protocol import (
    ASKS,
    LABEL,
    LOOK_EVERY,
    NOTHING_NEW,
    PROBE,
    PROGRESS,
    QUESTION,
    Report,
    link_name,
    nonce,
)
from dora.transport.network.receiver import RemoteReceiver
from dora.transport.network.send_thread import ROOM, demand
from dora.transport.network.window import Entry, SendWindow
from dora.wire.message import MAX_SEQUENCE
from dora.wire.node_config import LinkConfig, OutputConfig

# The quick way of a link: a second connection, for messages of moderate size that go alone.
#
# Zenoh's usual transport hands what is sent to a thread that has to be woken. The one for low latency
# writes
# in the thread that sends, but takes nothing above 64 KiB (`dora.transport.network.fragments`), and lets
# the sender wait
# when the network does. So it gets what fits into the buffers of the system in any case. And none
# while something that went the usual way is under way: it would only wait for that at the receiver.
#
# The way is open once the receiver has told that a question came through on it. After a loss, it is asked
# anew.

SMALL: Final = 200_000  # bytes of a message; of a larger one, more goes into copies than into waking
FAST_PATH_BYTES: Final = (
    320_000  # bytes that may fly: they fit into `mailbox.QUICK_BUFFER` with what the system adds
)
ASK_FROM: Final = FAST_PATH_BYTES // 2  # bytes that fly when the receiver is asked how far they have come
MOST: Final = 32  # messages that may fly


class FastPath:
    """What the sender of a link knows of it; ``ask`` sends a question. Not safe for several threads."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._question = nonce()
        self._open = False
        self._usual = 0  # the number of the last message that went the usual way
        self._arrived = 0

    def takes(self, number: int, size: int, flying: int, *, alone: bool) -> bool:
        """Tell whether a message goes the quick way; if not, note that it goes the usual one.

        ``flying`` are the bytes that have not been acknowledged, its own included.
        """
        arrived = self._arrived
        fits = alone and size <= SMALL and flying <= FAST_PATH_BYTES and number - arrived <= MOST
        if self._open and fits and self._usual <= arrived:
            return True
        self._usual = number
        return False

    def on_progress(self, arrived: int, answered: int) -> None:
        """Note how far messages have come, and which question the receiver heard last."""
        self.on_report(arrived)
        if not self._open:
            self._open = answered == self._question
            if not self._open:
                self._ask(QUESTION.pack(self._question))

    def on_report(self, arrived: int) -> None:
        """Note how far messages have come, at least."""
        self._arrived = max(self._arrived, arrived)

    def close(self) -> None:
        """Let messages go the usual way until a new question is answered."""
        self._question = nonce()
        self._open = False


SILENCE: Final = 2.0  # seconds without an answer until it is said that a machine does not answer
_APART_NS: Final = 100_000  # between messages that go at once, without waiting for others
_LONGEST_PAUSE: Final = 10.0  # seconds between repetitions of which nothing arrives

Flight = tuple[Callable[..., None], list[zenoh.ZBytes], tuple[int, int, int, int], Report]
"""What sends the parts of a message, these, how their labels begin, and how they end."""

_log = logging.getLogger("dora.transport")


class RemoteSender:
    """The sending end of one link. Safe to use from several threads."""

    def __init__(self, gate: Peer, output: OutputConfig, link: LinkConfig, board: Board) -> None:
        self.link = link
        self.node = link.consumer.partition("/")[0]  # that receives
        self.key = f"{gate.dataflow_id}/to/{link_name(link.consumer, link.generation)}"
        self.ways = gate.ways(self.key)
        self._quick = FastPath(lambda question: self.ways.ask(question))
        self._unheard = False  # the connection is new, and nothing is launched before an answer on it
        self._arrived = 0  # the number of the last message of which that was heard
        self._unproven = 0  # as it was when the ways were new: a later one shows that publishers are heard
        self._name = f"{gate.node_id}/{output.id} -> {link.consumer}"
        self._words = board.words
        self._base = link.slot * WORDS
        self._sent_word = output.slot * WORDS + SENT
        self._waiting_word = output.slot * WORDS + CREDIT_WAITING
        self._credit = Bell(output.credit_bell) if link.policy == "backpressure" else None
        self._lock = threading.Lock()
        self.lane_id = nonce()
        self._lane = SendWindow(
            None if link.policy == "backpressure" else max(link.queue_size, link.engine_queue_size),
            self._words[self._sent_word],
        )
        self.back: list[RemoteReceiver] = []  # of this node, for what its receiver's node sends
        self._receiver = 0
        self._count = 0  # of the last progress that was heard
        self._heard = time.monotonic()
        self._repeated = 0.0
        self._repeated_from = 0  # the number of the last message that had arrived then
        self._pause = LOOK_EVERY  # until what was repeated may be repeated again
        self._launched = 0  # monotonic nanoseconds
        self._queue: deque[tuple[int, int]] = deque()  # in Zenoh's, maybe: numbers, and what they demand
        self.queued = 0  # what all of that demands
        self.progress = 0  # grows with all that goes and arrives
        self._waits = False  # what is ready is for the launcher
        self._probes = False  # so is a probe
        self.beside: tuple[RemoteSender, ...] = ()  # to the same node
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
        return self.link.dynamic or self.link.generation > 0

    @property
    def is_idle(self) -> bool:
        """Whether everything sent has arrived, or there is nobody for whom it could."""
        return self._lane.idle or self._words[self._base + STATE] == CLOSED

    def put(self, message: FragmentedMessage, sequence: int, flush: bool, size: int) -> None:
        """Send a message, or keep it until there is room on its way."""
        state = self._words[self._base + STATE]
        if state == CLOSED or (state != CONNECTED and self._may_be_absent):
            return
        with self._lock:
            self._lane.put(sequence, (message, flush), size)
            self._launch_what_fits()
            if self._lane.behind:  # launched by another thread, when the memory may be somebody else's
                message.whole()

    @property
    def flying_bytes(self) -> int:
        """The size of all that has not been acknowledged."""
        return self._lane.flying_bytes

    def _launch_what_fits(self) -> None:
        """Launch what is ready, as far as that lets nobody wait. The lock has to be held."""
        if self._waits or self._unheard:
            return
        lane = self._lane
        while (entry := lane.next()) is not None:
            flight = self._flight(entry, may_wait=False)
            if flight is None:
                lane.back()
                self._hand_over()
                return
            self._send(flight)

    def _hand_over(self) -> None:
        """Let the launcher launch what is ready. The lock has to be held."""
        if self._lane.ready and not (self._waits or self._unheard):
            self._waits = True
            self.ways.launcher.do(partial(self._launch_next, self.ways))

    def _launch_next(self, ways: Publishers) -> None:
        """Launch a message, however long that takes; in the launcher's thread."""
        with self._lock:
            if ways is not self.ways:
                return
            entry = self._lane.next()
            flight = self._flight(entry, may_wait=True) if entry is not None else None
            self._waits = flight is not None
        if flight is None:
            return
        try:
            self._send(flight)
        except TransportError:  # the session is being closed; else it is repeated with what was lost
            with self._lock:
                if ways is self.ways:
                    self._waits = False
            return
        ways.launcher.do(partial(self._launch_next, ways))

    def _flight(self, entry: Entry, *, may_wait: bool) -> Flight | None:
        """Return how to launch a message; None if that may let one wait, and one may not."""
        number, sequence, (message, marks), size = entry
        now = time.monotonic_ns()
        alone = now - self._launched > _APART_NS
        flying = self._lane.flying_bytes
        for other in self.beside:
            flying += other.flying_bytes
        if self._quick.takes(number, size, flying, alone=alone):
            put, parts = self.ways.quickly, message.parts()
            if flying > ASK_FROM:
                marks |= ASKS
        else:
            demanded = demand(size, alone=alone)
            if not (may_wait or self._has_room(demanded)):
                return None
            self._queue.append((number, demanded))
            self.queued += demanded
            put = self._usual_way(alone=alone)
            parts = message.pieces() if self._lane.repeats() else [message.whole()]
        self._launched = now
        return put, parts, (self.lane_id, number, sequence, marks), self._report()

    def _has_room(self, demanded: int) -> bool:
        """Tell whether so much is sure to find room in Zenoh's queue."""
        queued = self.queued + sum([other.queued for other in self.beside])
        return not self.ways.launcher.busy and queued + demanded <= ROOM

    def _usual_way(self, *, alone: bool) -> Callable[..., None]:
        ways = self.ways
        if self._arrived <= self._unproven:
            return ways.put
        return ways.alone if alone else ways.among_others

    def _send(self, flight: Flight) -> None:
        put, parts, head, report = flight
        count = len(parts)
        try:
            for index, part in enumerate(parts):
                put(part, attachment=LABEL.pack(*head, index, count, *report))
                self.progress += 1
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
            self._acknowledge(arrived)
            if self._lane.ready:
                self._hand_over()  # this thread has messages to receive
        self._wake()

    def _acknowledge(self, arrived: int) -> None:
        self._arrived = max(self._arrived, arrived)
        queue, flying = self._queue, self._lane.flying_bytes
        while queue and queue[0][0] <= arrived:
            self.queued -= queue.popleft()[1]
        self._lane.acknowledge(arrived)
        if self._lane.flying_bytes != flying:
            self.progress += 1

    def _forget_queue(self) -> None:
        self._queue.clear()
        self.queued = 0

    @property
    def is_launching(self) -> bool:
        """Whether something waits for room on the network, or for a connection."""
        return self.ways.launcher.busy or self._unheard

    def probe(self, *, express: bool = True) -> None:
        """Say how far this side has come; answered by progress. Never waits.

        ``express``: in a batch of Zenoh's own, thus not again and again where nobody answers.
        """
        launcher = self.ways.launcher
        if not launcher.busy:
            self._put_probe(express=express)
        elif not self._probes:
            self._probes = True
            launcher.do(self._probe_at_last)

    def _probe_at_last(self) -> None:
        self._probes = False
        try:
            self._put_probe(express=True)
        except TransportError:
            pass  # the session is being closed

    def _put_probe(self, *, express: bool) -> None:
        lane = self._lane
        sent = self._words[self._sent_word]
        data = PROBE.pack(self.lane_id, lane.last_launched, lane.last_sequence, sent, self._receiver)
        ways = self.ways
        try:
            ways.put(data, express=express)
        except zenoh.ZError as error:
            if ways is self.ways:  # else it is asked again, on the new ones
                raise TransportError(f"link {self._name}: Zenoh cannot send: {error}") from error

    def renew(self, ways: Publishers) -> None:
        """Send on the gate's new connection from now on.

        What has not been acknowledged is sent again there, once the receiver answers.
        """
        with self._lock:
            self.ways = ways
            self._waits = self._probes = False
            self._unheard = True
            self._unproven = self._arrived
            self._quick.close()
            self._forget_queue()
            self._lane.repeat()

    def on_progress(self, data: bytes) -> None:
        """Take what the receiver tells."""
        count, receiver, lane, arrived, taken, answered, state, missing = PROGRESS.unpack(data)
        if taken > MAX_SEQUENCE:
            return  # no receiver of dora's
        words, base = self._words, self._base
        with self._lock:
            now = time.monotonic()
            if receiver == self._receiver and count <= self._count:
                return
            self._count, self._heard, self._unheard = count, now, False
            if receiver != self._receiver:
                if self._receiver:
                    self._lane.begin_anew()
                    self._forget_queue()
                    self.lane_id = nonce()  # its numbers are given once more
                    self._arrived = self._unproven = 0
                    self._quick.close()
                self._receiver = receiver
            if state == CLOSED:
                words[base + STATE] = CLOSED
                self._lane.forget()
                self._forget_queue()
            elif lane == self.lane_id:
                words[base + RECEIVED] = taken
                if not self._lane.open:
                    words[base + STATE] = CONNECTED
                    self._lane.open = True
                    if self._may_be_absent:
                        self.probe()  # what was not sent to it until now is not missing
                self._quick.on_progress(arrived, answered)
                self._acknowledge(arrived)
                if missing:
                    self._repeat(arrived, now)
                self._launch_what_fits()
            else:  # a receiver that does not know this lane yet
                self.probe()
        self._wake()

    def _repeat(self, arrived: int, now: float) -> None:
        """Send again what flies. The lock has to be held."""
        if self._lane.ready:  # some of it is still to be launched
            self._repeated = now
            return
        pause = self._pause if arrived == self._repeated_from else LOOK_EVERY
        if now - self._repeated > pause:
            self._repeated, self._repeated_from = now, arrived
            self._pause = min(pause * 2, _LONGEST_PAUSE)
            self._quick.close()
            self._lane.repeat()
            self._hand_over()

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
        self.probe(express=False)
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
