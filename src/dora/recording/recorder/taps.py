"""The taps of a recorder on a running dataflow."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.observe.tap_session import TapLease
from dora.observe.topics import Topic, find_tappable
from dora.recording.mcap.process_folder import make_folder, remove_folder
from dora.recording.recorder.chunk_filler import RecordedTopic, TappedSource
from dora.transport.board import SENT, WORDS
from dora.transport.latch import latch_path, read_latch
from dora.transport.shm.ring_buffer import AVAILABLE, RingBuffer
from dora.transport.taps import Tap
from dora.wire.daemon_protocol import Inspection
from dora.wire.message import Message, MessageError

# A tap whose sender copies its small messages to a ring buffer too, so that a burst loses none.

_PLACE: Final = "/dev/shm"
_ALL: Final = 64 << 20  # bytes of all ring buffers of a recording
_MAX_SIZE: Final = 4 << 20  # bytes of one: 30,000 numbers, or 500 messages of 8 kB
_MIN_SIZE: Final = 64 << 10  # less is not worth it
_SHARE: Final = 4  # ring buffers take at most this part of the free shared memory; messages need the rest
_MAX_EMPTY_POLLS: Final = 3  # polls after which a message that was counted is searched in the queue


class RingTap:
    """Takes messages from a ring buffer and from the queue of a tap, in the order of their numbers."""

    def __init__(self, tap: Tap, ring: RingBuffer) -> None:
        self._tap = tap
        self._ring: RingBuffer | None = ring
        self._last = 0  # sequence number of the message that was taken last
        self._others = -1  # how many messages outside the ring buffer were known when the queue was empty
        self._empty_polls = 0
        self._in_ring: Message | None = None  # read there, but an earlier message is missing
        self._in_queue: Message | None = None  # likewise

    def receive(self) -> Message | None:
        """Take the next message, or return None.

        Call it while the sender has counted more messages than were taken: one that is not found in a few
        calls is searched in the queue, even if the ring buffer has no sign of it.
        """
        ring = self._ring
        if ring is None:
            return self._tap.receive()
        message = self._next_in_ring(ring)
        if message is not None and message.sequence == self._last + 1:
            self._last += 1
            self._empty_polls = 0
            return message
        others = ring.others
        self._empty_polls += 1
        nothing = message is None and self._in_queue is None
        if nothing and others == self._others and self._empty_polls < _MAX_EMPTY_POLLS and ring.is_written:
            return None
        message = self._first(ring, message, others)
        if message is not None:
            self._last = message.sequence
            self._empty_polls = 0
        return message

    def _first(self, ring: RingBuffer, message: Message | None, others: int) -> Message | None:
        """Return the first one of ``message``, from the ring buffer, and the next message of the queue."""
        other, self._in_queue = self._in_queue, None
        while other is None or other.sequence <= self._last:
            other = self._tap.receive()
            if other is None:
                self._others = others
                return message
        if message is None:
            # A message that was sent before the other one is there by now.
            message = self._next_in_ring(ring)
        if message is None or message.sequence > other.sequence:
            self._in_ring = message
            return other
        if message.sequence < other.sequence:
            self._in_queue = other
        return message

    def _next_in_ring(self, ring: RingBuffer) -> Message | None:
        message, self._in_ring = self._in_ring, None
        try:
            while message is None or message.sequence <= self._last:
                message = ring.take()
                if message is None:
                    return None
        except MessageError:
            self._ring = None  # only the queue is left
            ring.close()
            return None
        return message


class RingTaps:
    """The ring buffers of one recording, in their own folder; ``close`` removes it."""

    def __init__(self, count: int) -> None:
        """Prepare one for each of ``count`` outputs; none if there is no shared memory for them."""
        self.directory = ""  # has a ring buffer for each slot of an output; "" if there are none
        self._size = 0
        if not AVAILABLE or not count:
            return
        try:
            status = os.statvfs(_PLACE)
            free = status.f_bavail * status.f_frsize
            self._size = min(_MAX_SIZE, min(_ALL, free // _SHARE) // count)
            if self._size >= _MIN_SIZE:
                self.directory = make_folder("rings", _PLACE)
        except OSError:
            pass  # the queues of the taps are enough but for bursts

    def with_ring_buffer(self, tap: Tap, slot: int) -> Tap | RingTap:
        """Return a tap with a ring buffer for the output; the tap alone if there is no room for one."""
        if not self.directory:
            return tap
        try:
            return RingTap(tap, RingBuffer(f"{self.directory}/{slot}", self._size))
        except OSError:
            return tap

    def close(self) -> None:
        if self.directory:
            remove_folder(self.directory)


class LatchedTap:
    """Takes messages from the latch of an output first, then newer messages from a tap."""

    def __init__(self, latched: Sequence[Message], tap: TappedSource) -> None:
        """``latched``: at least one message, read after the tap was opened."""
        self._first = deque(latched)
        self._tap = tap
        self._latched_to = latched[-1].sequence

    def receive(self) -> Message | None:
        """Take the next message, or return None."""
        if self._first:
            return self._first.popleft()
        while (message := self._tap.receive()) is not None:
            if message.sequence > self._latched_to:
                return message
        return None


_SETTLING: Final = 0.01  # seconds until a sender has certainly seen that it is tapped


class RecorderTaps:
    """The taps of a recorder, each with as long a queue as there is room for."""

    def __init__(
        self,
        run: DaemonClient,
        inspection: Inspection,
        names: Sequence[str],
        *,
        together: bool,
        begun_ns: int,
    ) -> None:
        """Tap the topics of these names, or all; raises `DoraError` if one cannot be tapped.

        ``together``: nothing has been sent yet, so everything is expected; otherwise messages that outputs
        have latched are taken first. ``begun_ns``: the begin of the recording.
        """
        topics = found_here(inspection, names)
        self.topics: list[RecordedTopic] = []
        self._untapped: list[Topic] = []
        self._board = inspection.board
        self._begun_ns = begun_ns
        self._lease = TapLease(run, inspection, (topic.output.slot for topic in topics), until_end=True)
        self._ring_buffers = RingTaps(len(topics))
        try:
            taps = [(topic, self._open(topic)) for topic in topics]
            self._begin(
                [
                    (topic, self._ring_buffers.with_ring_buffer(tap, topic.output.slot))
                    for topic, tap in taps
                ],
                together,
            )
        except BaseException:
            self.close()
            raise

    def follow(self, inspection: Inspection) -> None:
        """Tap outputs that were added to the dataflow; one that cannot be tapped is tried at each call."""
        try:
            topics = found_here(inspection, ())
        except DoraError:
            topics = []  # no output is left
        known = self._lease.slots
        taps, untapped = [], []
        for topic in topics:
            if topic.output.slot in known:
                continue
            try:
                taps.append((topic, self._add(topic)))
            except ConnectError:
                untapped = self._untapped  # the dataflow has just ended, which is no fault
                break
            except DoraError:
                untapped.append(topic)
        self._untapped = untapped
        if taps:
            # Without a ring buffer: the node has already searched for one.
            self._begin(taps, together=False)

    def untapped(self) -> dict[str, int]:
        """Return which outputs could not be tapped so far, and how many messages they have sent."""
        words = self._lease.words
        return {topic.name: words[topic.output.slot * WORDS + SENT] for topic in self._untapped}

    @property
    def ring_buffer_folder(self) -> str:
        """The folder of ring buffers for small messages of nodes; "" if there are none."""
        return self._ring_buffers.directory

    def renew(self) -> None:
        """Renew the lease of all taps; call it several times a second."""
        self._lease.renew()

    def close(self) -> None:
        """Close the taps."""
        self.topics = []
        self._ring_buffers.close()
        self._lease.close()

    def _open(self, topic: Topic) -> Tap:
        return self._lease.engine.tap(topic.output, topic.output.max_queue_size)

    def _add(self, topic: Topic) -> Tap:
        """Tap one more output; raises `DoraError`, and `ConnectError` if the dataflow has just ended."""
        self._lease.add([topic.output.slot])
        try:
            return self._open(topic)
        except DoraError:
            self._lease.slots.discard(topic.output.slot)
            raise

    def _begin(self, taps: Sequence[tuple[Topic, TappedSource]], together: bool) -> None:
        """Record from these taps."""
        words = self._lease.words
        new = [RecordedTopic(topic, tap, topic.output.max_queue_size, words) for topic, tap in taps]
        self.topics += new
        self._lease.renew()  # after the taps are open: it lets outputs without links send, too
        if not together:
            time.sleep(_SETTLING)
            for item in new:
                # Messages that were counted so far may have been sent before the tap was open.
                item.from_start, item.before = False, item.sent
                item.publish_progress()
            for item, (topic, _) in zip(new, taps, strict=True):
                if topic.output.latched and (
                    latched := read_latch(latch_path(self._board, topic.output.slot))
                ):
                    item.tap = LatchedTap(latched, item.tap)
                    item.latched_to, item.begun_ns = latched[-1].sequence, self._begun_ns


def found_here(inspection: Inspection, names: Sequence[str]) -> list[Topic]:
    """Return topics like `find_tappable`, without nodes on other machines."""
    machines = {node.id: node.machine for node in inspection.nodes if node.machine != inspection.machine}
    found = find_tappable(inspection, names)
    here = [topic for topic in found if topic.node_id not in machines]
    for topic in found if names else ():
        if topic.node_id in machines:
            raise DoraError(
                f"`{topic.name}` is sent on machine `{machines[topic.node_id]}`, and can be recorded there"
            )
    if not here:
        raise DoraError(
            "all outputs of this dataflow are sent on other machines, and have to be recorded there"
        )
    return here
