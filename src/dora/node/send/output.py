"""The sending side of one output: encode once, number, copy into shared memory, wake the receivers."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dora.errors import SendError, SharedMemoryFull, TransportError
from dora.node.current_event import CurrentEvent, Passed
from dora.node.interceptor import Lent, SendInterceptor, surround
from dora.node.own_thread import lock_of_threads
from dora.node.send.credit import Credit
from dora.transport.board import (
    ASLEEP,
    BEGUN,
    BYTES,
    CONNECTED,
    CONTROL,
    FIRST,
    FLUSH,
    LINKS_VERSION,
    PREWAKE,
    RECEIVED,
    SENT,
    STATE,
    TAPPED,
    WORDS,
    Board,
)
from dora.transport.doorbell import Bell, Doorbell, yield_cpu
from dora.transport.fence import FENCED, begin_fence, end_fence
from dora.transport.forking import RefusingLock, leak, refuse
from dora.transport.interface import Loan, Sender
from dora.wire.array_shape import DESCRIBING, describe
from dora.wire.correlation import CONTROL_KEYS, asks_to_flush, control_sections
from dora.wire.counters import UNSENT
from dora.wire.encode import Payload, encode
from dora.wire.message import (
    HEADER_SIZE,
    ONE_ORIGIN,
    ONE_PASS,
    ORIGIN,
    ORIGIN_NS,
    SMALL_BODY,
    Encoding,
    Message,
    body_offset,
    pack_head,
)
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import LinkConfig, OutputConfig
from dora.wire.trail import fit

if TYPE_CHECKING:
    from dora.node.send.kept_output import KeptOutput
    from dora.node.send.throttle import Throttle
    from dora.transport.bypass import Bypass
    from dora.transport.shm.ring_buffer import RingBufferWriter
    from dora.transport.spill import SpillWriter

_now = time.time_ns
_log = logging.getLogger("dora.node")
_move = ctypes.memmove


class OutputPort:
    """One output of this node. Safe to use from several threads."""

    def __init__(
        self,
        config: OutputConfig,
        sender: Sender,
        board: Board,
        *,
        rings: bool,
        node_slot: int | None = None,
        doorbell: Callable[[str], Doorbell] = Doorbell,
        overflow_channels: Mapping[str, Sender] | None = None,
        spill: SpillWriter | None = None,
        current: CurrentEvent | None = None,
    ) -> None:
        """``rings``: whether the receivers rely on this side to wake them. ``node_slot``: the line of the
        sending node on the board. ``overflow_channels``: the senders of further channels, by name.
        ``spill``: for messages that must not be dropped from queues in shared memory. ``current``: the
        event that messages follow from."""
        self.id, self.slot = config.id, config.slot
        self.on_links_changed: Callable[[], None] = lambda: None
        self._config = config
        self._sender = sender
        self._send_small: Callable[..., None] = sender.send
        self._prepare = sender.prepare
        self.words = self._words = words = board.words
        self._sent_word = config.slot * WORDS + SENT
        self._sequence = words[self._sent_word]  # a restarted node goes on counting
        words[config.slot * WORDS + BEGUN] = self._sequence
        self._bytes_word = config.slot * WORDS + BYTES
        self._bytes = words[self._bytes_word]
        self.tapped_word = config.slot * WORDS + TAPPED
        self.unsent = 0  # messages of this process that were given up, see `wait_for_credit`
        # A sender is for one at a time; numbers follow the order of sending.
        self._lock, self._is_held = lock_of_threads()
        self._closed = False
        self._flush_word = config.slot * WORDS + FLUSH
        self.links_version_word = config.slot * WORDS + LINKS_VERSION
        self.links_version = words[self.links_version_word]  # the last one that was applied here
        self._rings = rings
        self._credit = Credit(config.slot, node_slot, words, doorbell)
        self._has_room = self._credit.has_room
        self._bells: list[tuple[int, Bell]] = []
        self._bells_here: list[tuple[int, Bell]] = []  # without the gateway's
        self._bypass: Bypass | None = None  # to the only other machine with receivers
        self._throttle: Throttle | None = None  # of large messages to other machines
        self._prewake_bells = [
            (target.node_slot * WORDS + ASLEEP, target.node_slot * WORDS + PREWAKE, Bell(target.bell))
            for target in (config.prewake if rings else ())
        ]
        self._overflow_channels = dict(overflow_channels or {})  # replaced, never changed
        self.ring_buffers: dict[str, RingBufferWriter] = {}  # of recorders, by their folders
        self.black_box: KeptOutput | None = None  # that messages are copied to now
        self.kept: KeptOutput | None = None  # the same, also while it makes a pause
        self._spill_writer = spill
        self._spill: SpillWriter | None = None  # if a link may need it
        self._interceptors: tuple[SendInterceptor, ...] = ()  # replaced, never changed
        self._current = current if current is not None else CurrentEvent()
        self._current.is_needed = True
        self._origin = config.origin
        self._inlined = 0 if config.stamped else config.most_passes * ONE_PASS
        self._renewed = 0 if config.stamped else ONE_ORIGIN
        self._apply_links()

    def _apply_links(self) -> None:
        """Derive from the links the lists that each message uses.

        Lists are replaced, never changed: another thread may be sending.
        """
        links = self._config.links
        bells = {bell.path: bell for _, bell in self._bells}
        if self._rings:
            self._bells = [
                (link.node_slot * WORDS + ASLEEP, bells.get(link.bell) or Bell(link.bell)) for link in links
            ]
            self._bells_here = [
                bell for bell, link in zip(self._bells, links, strict=True) if not link.machine
            ]
            self._apply_links_there([link for link in links if link.machine])
        self._credit.apply_links(links, self._config.credit_bell)
        self._pressure = self._credit.links  # empty: no send waits
        self._control_words = [link.node_slot * WORDS + CONTROL for link in links]
        self._links = [link.slot * WORDS + STATE for link in links]
        keep = frozenset(key for link in links for key in link.keep)
        self._control_keys = CONTROL_KEYS | keep
        self._control_section = control_sections(keep)
        if self._spill_writer is not None:
            self._spill = self._spill_writer if self._spill_writer.apply_links(links) else None
        self.has_links = bool(links) or self._config.latched is not None

    def _apply_links_there(self, links: Sequence[LinkConfig]) -> None:
        """Derive from the links to other machines what only these need."""
        bypass = throttle = None
        if links:
            from dora.node.send.throttle import throttle_for
            from dora.transport.bypass import Bypass

            throttle = throttle_for(links, self.slot, self._words)
            if len({link.machine for link in links}) == 1 and self._config.priority in (None, "control"):
                bypass = self._bypass or Bypass(links[0], self.slot, self._words)
        self._bypass, self._throttle = bypass, throttle

    def warm_up(self) -> None:
        """Reserve memory for the first message, and open the doorbells of receivers that are there."""
        if self.has_links:
            self._prepare()
            for _, bell in self._bells:
                bell.open()

    def apply_link_changes(self) -> None:
        """Read the daemon's frames if it has changed the links of this output."""
        if self._words[self.links_version_word] != self.links_version:
            self.on_links_changed()

    def attach(
        self,
        link: LinkConfig,
        change: int,
        credit_bell: str,
        overflow_channel: str = "",
        sender: Sender | None = None,
    ) -> None:
        """Send to one more link from now on, and with ``sender`` on the further channel that it needs."""
        if sender is not None:
            self._overflow_channels = {**self._overflow_channels, overflow_channel: sender}
        self._config.credit_bell = self._config.credit_bell or credit_bell
        words, base = self._words, link.slot * WORDS
        if not self.has_links and words[base + STATE] == CONNECTED and not words[base + RECEIVED]:
            # A message may have got a number while the receiver joined, and went to nobody: no credit.
            words[base + FIRST] = self._sequence
        self._config.links = [*self._config.links, link]  # an engine sees that it is another list
        self._apply_links()
        self.links_version = max(self.links_version, change)
        # It may have received already, without being rung.
        for _, bell in self._bells:
            if bell.path == link.bell:
                bell.ring()

    def detach(self, slot: int, change: int, overflow_channel: str) -> None:
        """Send no more to a link, nor to a channel that no link needs."""
        self._config.links = [link for link in self._config.links if link.slot != slot]
        self._apply_links()
        self.links_version = max(self.links_version, change)
        if overflow_channel:
            gone = self._overflow_channels.get(overflow_channel)
            self._overflow_channels = {
                name: sender for name, sender in self._overflow_channels.items() if name != overflow_channel
            }
            if gone is None or self._is_held():
                return
            if self._lock.acquire(blocking=False):  # else another thread is sending
                try:
                    gone.destroy()
                finally:
                    self._lock.release()

    def set_ring_buffers(self, ring_buffers: dict[str, RingBufferWriter]) -> None:
        """Replace the ring buffers. A message that another thread sends meanwhile is in the tap's queue."""
        self.ring_buffers = ring_buffers
        send = self._sender.send
        writers = [ring.write for ring in ring_buffers.values()]

        def send_and_write(message: bytes, control: bytes = b"") -> None:
            send(message, control)
            for write in writers:
                write(message)

        self._send_small = send_and_write if writers else send

    def statistics(self) -> dict[str, int]:
        return {"sent": self._sequence, "unsent": self.unsent} if self.unsent else {"sent": self._sequence}

    def intercept(self, interceptor: SendInterceptor) -> None:
        """Add an interceptor, around those that are there."""
        self._interceptors = (*self._interceptors, interceptor)

    def passed_on(self, now_ns: int, current: CurrentEvent | None = None) -> Passed:
        """Return the origin of a message that is sent now, and its trail."""
        config = self._config
        return (current or self._current).passed_on(
            self._origin, now_ns, config.most_passes, stamped=config.stamped
        )

    def send(
        self,
        data: Any,
        metadata: Mapping[str, Any] | None,
        *,
        current: CurrentEvent | None = None,
        through_interceptors: bool = True,
    ) -> None:
        """Encode and send a message. ``current``: what it follows from, instead of the current event."""
        if self._interceptors and through_interceptors:
            innermost = partial(self.send, current=current, through_interceptors=False)
            surround(innermost, (each.send for each in self._interceptors))(data, metadata)
            return
        if self._words[self.links_version_word] != self.links_version:
            self.on_links_changed()
        payload = encode(data)
        if payload.array is not None:
            metadata = describe(data, metadata)
        section = control = b""
        if metadata:
            section = encode_metadata(metadata)
            if payload.array is None and not DESCRIBING.isdisjoint(metadata):  # passed on, maybe
                metadata = describe(data, metadata) or {}
                section = encode_metadata(metadata) if metadata else b""
            if metadata and not self._control_keys.isdisjoint(metadata):
                control = section
        if not (self.has_links or self.is_tapped()):
            self._send_to_nobody(payload, section, current)
            return
        size, encoding, schema = payload.size, payload.encoding, payload.schema
        if current is None:
            current = self._current
        if self._is_held():
            self._refuse_handler()
        with self._lock:
            if self._pressure and not (self._has_room(self._sequence) or self.wait_for_credit()):
                return
            if self._closed:
                raise SendError(f"output `{self.id}` is closed")
            sequence = self._sequence + 1
            now = _now()
            # `passed_on` inlined, for most messages: of a source, and those with one origin.
            header = current.header
            trail = b""
            if header is None:
                origin_ns, origin = now, self._origin
            elif (origin := header[ORIGIN]) < self._inlined:
                origin_ns = header[ORIGIN_NS]
                origin += ONE_PASS
            elif origin < self._renewed:
                origin_ns, origin = now, self._origin
            else:
                origin_ns, origin, trail = self.passed_on(now, current)
            if size <= SMALL_BODY:
                body = payload.body
                if body is None:
                    body = payload.to_bytes()
                message = pack_head(
                    encoding, schema, section, size, sequence, now, body, origin_ns, origin, trail
                )
                copies = self._copies(message, len(message)) if self._overflow_channels else None
                if self._spill is not None and (control or self._spill.pending):
                    self._spill.before_send(sequence, control, message)
                self._words[self._sent_word] = self._sequence = sequence  # first, as in `_transmit`
                try:
                    if control:
                        self._send_small(message, control)
                    else:  # an argument less, for most messages
                        self._send_small(message)
                except (SharedMemoryFull, TransportError):
                    # Nothing was sent. A number that no message has would take credit for good: receivers
                    # count it only when a later message comes, and without credit none does.
                    self._words[self._sent_word] = self._sequence = sequence - 1
                    raise
                if copies:
                    for copy in copies:
                        copy.send(control)
                # Last: its receivers on the other machine get the processor as soon as this one waits.
                bypass = self._bypass  # another thread may replace it
                bypassed = bypass is not None and bypass.send(sequence, message)
                if control and asks_to_flush(control):
                    self._flush(sequence)
            else:
                head = pack_head(
                    encoding, schema, section, size, sequence, now, b"", origin_ns, origin, trail
                )
                loan = self._sender.loan(len(head) + size)
                loan.memory[: len(head)] = head
                payload.copy_to(loan.address + len(head))
                bypassed = self._transmit(loan, len(head) + size, sequence, control)
            self._bytes += size
        # Outside of the lock: waking a process takes longer than a message, and other threads may send.
        rung = self._ring(bypassed=bypassed)
        # The receivers are waking up; the rest could wait until now.
        self._words[self._bytes_word] = self._bytes
        black_box = self.black_box
        if black_box is not None:
            if size <= SMALL_BODY:
                black_box.write(message)
            else:
                black_box.write_payload(head, payload, now)
        if rung and size <= SMALL_BODY and self._lock.acquire(blocking=False):
            try:
                self._prepare()  # saves time later; not worth a wait for another thread
            finally:
                self._lock.release()

    def _refuse_handler(self) -> None:
        """Refuse to send in a signal handler that has interrupted a send on this output."""
        raise SendError(
            f"output `{self.id}`: a signal handler cannot send while it interrupts a send on the same "
            "output; set a flag or raise an exception in the handler, and send afterwards"
        )

    def _transmit(self, loan: Loan, size: int, sequence: int, control: bytes) -> bool:
        """Number and send a loan, and a copy of its first ``size`` bytes on each further channel.

        ``control``: the metadata section if it has control keys, see `dora.wire.correlation`.
        Returns whether it went over the bypass, too.
        """
        throttle = self._throttle  # another thread may replace it
        if throttle is not None:
            throttle.wait(sequence, size)
        if self._spill is not None and (control or self._spill.pending):
            self._spill.before_send(sequence, control, loan.memory[:size].tobytes)
        # Before the loan is sent: then its memory belongs to the receivers.
        copies = self._copies(loan.address, size) if self._overflow_channels else ()
        self._words[self._sent_word] = self._sequence = sequence  # first: no number twice after a kill
        memory = loan.memory[:size]
        loan.send(control)
        for copy in copies:
            copy.send(control)
        if self.ring_buffers:
            for ring in self.ring_buffers.values():
                ring.skip()
        bypass = self._bypass
        # Its memory is given to no other message before the next loan of this output.
        bypassed = bypass is not None and bypass.send(sequence, memory)
        if control and asks_to_flush(control):
            self._flush(sequence)
        return bypassed

    def _copies(self, message: int | bytes, size: int) -> list[Loan]:
        """Return a copy of a message, or of what is at an address, for each further channel.

        They are made before anything is sent: if a channel has no memory, no receiver gets the message.
        """
        copies = [sender.loan(size) for sender in self._overflow_channels.values()]
        for copy in copies:
            _move(copy.address, message, size)
        return copies

    def _count_without_receivers(self) -> int:
        if self._is_held():
            self._refuse_handler()
        with self._lock:
            if self._closed:
                raise SendError(f"output `{self.id}` is closed")
            self._sequence += 1
            self._words[self._sent_word] = self._sequence
            return self._sequence

    def _send_to_nobody(self, payload: Payload, section: bytes, current: CurrentEvent | None) -> None:
        sequence = self._count_without_receivers()
        if self.black_box is not None:  # only that gets the message
            now = _now()
            self.black_box.write_unsent(payload, section, sequence, now, self.passed_on(now, current))

    def loan(self, schema: bytes, size: int, metadata: Mapping[str, Any] | None) -> Lent:
        """Return memory for a plain payload: the loan, the body's offset, the metadata section."""
        if self._interceptors:
            loan = surround(self._loan, (each.loan for each in self._interceptors))
            return loan(schema, size, metadata)
        return self._loan(schema, size, metadata)

    def _loan(self, schema: bytes, size: int, metadata: Mapping[str, Any] | None) -> Lent:
        self.apply_link_changes()
        section = encode_metadata(metadata) if metadata else b""
        trail = self.passed_on(0)[-1]
        offset = body_offset(len(schema), len(section), len(trail))
        if self._is_held():
            self._refuse_handler()
        with self._lock:
            if self._closed:
                raise SendError(f"output `{self.id}` is closed")
            return self._sender.loan(offset + size), offset, section

    def send_loan(self, loan: Loan, schema: bytes, section: bytes, size: int) -> None:
        """Send memory that `loan` returned, once it is filled."""
        if self._interceptors:
            send = surround(self._send_loan, (each.send_loan for each in self._interceptors))
            send(loan, schema, section, size)
        else:
            self._send_loan(loan, schema, section, size)

    def _send_loan(self, loan: Loan, schema: bytes, section: bytes, size: int) -> None:
        if self._is_held():
            self._refuse_handler()
        with self._lock:
            if self._pressure and not (self._has_room(self._sequence) or self.wait_for_credit()):
                loan.discard()
                return
            if self._closed:
                raise SendError(f"output `{self.id}` is closed")
            sequence = self._sequence + 1
            head = self._head_of_loan(loan, schema, section, size, sequence)
            loan.memory[: len(head)] = head
            control = self._control_section(section)
            bypassed = self._transmit(loan, len(head) + size, sequence, control)
            self._words[self._bytes_word] = self._bytes = self._bytes + size
            if self.black_box is not None:
                self._ring(bypassed=bypassed)  # first: the copy takes longer than to wake the receivers
                self.black_box.write_memory(loan.memory[: len(head) + size], _now())
                return
        self._ring(bypassed=bypassed)

    def _head_of_loan(self, loan: Loan, schema: bytes, section: bytes, size: int, sequence: int) -> bytes:
        """Return the head of a loan, with as much of its trail as there is room for before the body."""
        now = _now()
        origin_ns, origin, trail = self.passed_on(now)
        offset = loan.size - size
        if trail:
            origin, trail = fit(origin, trail, offset - HEADER_SIZE - len(schema) - len(section))
        return pack_head(
            Encoding.PLAIN, schema, section, size, sequence, now, b"", origin_ns, origin, trail, offset
        )

    def resend(self, message: Message, payload: Payload, time_ns: int, *, exactly: bool) -> None:
        """Send what was sent once before, encoded already, with ``time_ns`` as the time of sending.

        ``exactly``: with the origin and the trail of then; otherwise, the message is an origin.
        """
        self.apply_link_changes()
        section = message.metadata
        passed: Passed = (time_ns, self._origin, b"")
        if exactly and message.header[ORIGIN]:
            passed = message.header[ORIGIN_NS], message.header[ORIGIN], message.trail
        if not (self.has_links or self.is_tapped()):
            self._count_without_receivers()
            return
        size = payload.size
        if self._is_held():
            self._refuse_handler()
        with self._lock:
            if self._pressure and not (self._has_room(self._sequence) or self.wait_for_credit()):
                return
            if self._closed:
                raise SendError(f"output `{self.id}` is closed")
            sequence = self._sequence + 1
            head = pack_head(
                payload.encoding, payload.schema, section, size, sequence, time_ns, b"", *passed
            )
            loan = self._sender.loan(len(head) + size)
            loan.memory[: len(head)] = head
            payload.copy_to(loan.address + len(head))
            control = self._control_section(section)
            bypassed = self._transmit(loan, len(head) + size, sequence, control)
            self._words[self._bytes_word] = self._bytes = self._bytes + size
        self._ring(bypassed=bypassed)
        if (black_box := self.black_box) is not None:
            black_box.write_payload(head, payload, time_ns)

    def _flush(self, sequence: int) -> None:
        """Make the receivers drop the messages that they have queued before this one.

        They read ``FLUSH`` only when their ``CONTROL`` changes, so other messages do not pay for it.
        """
        words = self._words
        words[self._flush_word] = sequence
        for word in self._control_words:
            words[word] = time.monotonic_ns()  # unlike any number that the daemon counts up to

    def is_tapped(self) -> bool:
        """Return whether an observer taps this output."""
        until = self._words[self.tapped_word]
        return until != 0 and until > time.monotonic_ns()

    def is_heard(self) -> bool:
        """Return whether any receiver is running now."""
        # Outside of a dataflow there are no links, and recorded inputs or a terminal may still answer.
        return not self._rings or any(self._words[state] == CONNECTED for state in self._links)

    def _ring(self, *, bypassed: bool = False) -> bool:
        """Wake the receivers that sleep; return whether there were any, so that there is time to spare.

        ``bypassed``: the other machine is about to get the message, without the gateway here.
        """
        if rung := self._ring_bells(self._bells_here if bypassed else self._bells) or bypassed:
            # The system tends to wake a receiver on the sender's processor, where it would wait for the
            # sender to fall asleep.
            yield_cpu()
        return rung

    def _ring_bells(self, bells: Sequence[tuple[int, Bell]]) -> bool:
        rung = not FENCED
        if FENCED:
            begin_fence()  # `fence()`, without the call: receivers wait for this
            end_fence()
            words = self._words
            for asleep_word, bell in bells:
                if words[asleep_word]:
                    bell.ring()
                    rung = True
        else:
            for _, bell in bells:
                bell.ring()
        for asleep_word, prewake_word, bell in self._prewake_bells:
            if self._words[asleep_word] and self._words[prewake_word]:
                bell.ring()
                rung = True
        return rung

    def wait_for_credit(self) -> bool:
        """Wait until every back-pressured link has room for a message, or the output is closed.

        Returns False, and counts the message as not sent, if the node was asked to stop meanwhile.
        """
        if self._credit.wait(self._sequence):
            return True
        self._count_unsent()
        return False

    def _count_unsent(self) -> None:
        """Count a message that is not sent on any link."""
        for link in self._config.links:
            self._words[link.slot * WORDS + UNSENT.word] += 1
        self.unsent += 1
        if self.unsent == 1:
            _log.warning(
                "output `%s`: messages are not sent while its queue is full: this node was asked to stop",
                self.id,
            )

    def disown(self) -> None:
        """Refuse to send, in a forked child: each send reads ``links_version`` or locks first."""
        leak(self)
        self.links_version = -1  # unlike any word of the board
        self.on_links_changed = refuse
        self._lock = RefusingLock()

    def close(self) -> None:
        """Refuse further sends. Messages that were sent stay receivable."""
        self._closed = True  # not under the lock: a thread that waits for credit holds it
        self._credit.close()
        self._sender.close()
        for sender in self._overflow_channels.values():
            sender.close()
