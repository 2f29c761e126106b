"""The two ends of a stream: what the gateway takes from an output, and what it gives to receivers."""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from dora.gateway.outgoing import Outgoing, OutgoingMessage
from dora.node.send.output import OutputPort
from dora.transport.board import (
    BEGUN,
    BYPASS,
    BYPASSED,
    CLOCK_OFFSET,
    CLOSED,
    CONNECTED,
    CREDIT_WAITING,
    DROPPED,
    FIRST,
    FORWARDED,
    RECEIVED,
    SENT,
    STATE,
    UNCONNECTED,
    WORDS,
    Board,
    signed,
)
from dora.transport.board import CONTROL as CONTROL_WORD
from dora.transport.doorbell import Bell, yield_cpu
from dora.transport.interface import BadMessages, Loan, Sender
from dora.transport.latch import LatchFile, latch_path, read_entries
from dora.transport.spill import spill_folder, take_spilled
from dora.wire.correlation import asks_to_flush, kept_message
from dora.wire.decode import check
from dora.wire.message import SMALL_BODY, Message, MessageError
from dora.wire.node_config import LinkConfig, OutputConfig, StreamConfig
from dora.wire.untrusted import UntrustedMessage


def link_name(link: LinkConfig) -> str:
    """Return the name of a link between machines, unlike the name of an earlier link to this input."""
    return f"{link.consumer}~{link.generation}" if link.generation else link.consumer


class Sending:
    """One stream: an output of this machine, to another one."""

    def __init__(
        self, number: int, config: StreamConfig, receiver: Any, board: Board, run_dir: str
    ) -> None:
        self.number = number
        self.links: dict[str, int] = {}  # name → line on the board; those that went are still reported
        self._words = board.words
        self._board = board.path
        self._run_dir = run_dir
        self.receiver = receiver
        self._receive = receiver.receive
        output = config.item.output_slot * WORDS
        self.sent_word = output + SENT
        self._begun_word = output + BEGUN
        self.waiting_word = output + CREDIT_WAITING
        self.forwarded_word = output + FORWARDED
        self.figures = config.item.slot * WORDS  # where the `STREAM_FIGURES` are
        self._bypass_word, self._bypassed_word = output + BYPASS, output + BYPASSED
        self._words[self._bypass_word] = 0  # it was a former process that knew the connection
        self._bypass_from = -1  # the number before the first message on the bypass; -1: there is none
        # Earlier messages will not come from here: a former process of the gateway had them.
        self._begins_after = self._last = self._words[self.sent_word]
        self.of_output: list[Sending] = [self]  # the streams of the output, to all machines
        self.is_wanted = False
        self.known_state = (0, 0)  # the state that the other side knows
        self._spilled: deque[Message] = deque()
        self.config = config
        self._credit: Bell | None = None
        self.outgoing = Outgoing(
            self._take, lambda: self._words[self.sent_word], 1, priority=config.priority
        )
        self.change(config)

    def change(self, config: StreamConfig) -> None:
        self.config = config
        item = config.item
        self.links.update((link_name(link), link.slot) for link in config.links)
        # Receivers of the start; until they are known to have ended, they may want what is sent already.
        self._awaited = [link.slot for link in config.links if not (link.dynamic or link.generation)]
        self._is_kept = kept_message(item.keep)
        self._spill_folders = [spill_folder(self._run_dir, link.slot) for link in config.links]
        self._pressed = {link.slot for link in config.links if link.queue_policy == "backpressure"}
        if config.credit_bell and self._credit is None:
            self._credit = Bell(config.credit_bell)
        self.look_who_wants()

    @property
    def state(self) -> tuple[int, int]:
        """Up to which message none will be sent any more; the last message of a former process."""
        return self._begins_after, self._words[self._begun_word]

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent."""
        newest = self._words[self.sent_word]
        return 0 if newest <= self._begins_after else self.outgoing.waiting(newest)

    def skip(self) -> None:
        """Discard all messages: nobody on the other machine wants them."""
        self.outgoing.skip()
        self._begins_after = max(self._begins_after, self.outgoing.arrived)
        self.note_arrived()

    def note_arrived(self) -> None:
        """Write what all other machines have of the output, or will not get any more."""
        self._words[self.forwarded_word] = min(each.settled for each in self.of_output)

    @property
    def settled(self) -> int:
        """Up to which message nothing is to be sent: the other machine has it, or will not get it."""
        if self.config.latched is not None:  # older messages are sent to a machine that comes late
            return self.outgoing.arrived
        return max(self.outgoing.arrived, self._begins_after)

    def resume(self, arrived: int) -> None:
        """Begin to send on a new road, to a machine that has the messages up to ``arrived``."""
        # If it had more, its part was started again, and what the former one had is lost.
        if arrived < self.outgoing.arrived:
            self._begins_after = max(self._begins_after, self.outgoing.arrived)
        self.outgoing.resume(arrived, self.latched(arrived))

    def open_bypass(self, number: int) -> None:
        """Begin to use a bypass, whose connection the node gets with this number."""
        self._bypass_from = self._words[self.sent_word]  # `BYPASSED` may be of an earlier bypass
        self._words[self._bypass_word] = number

    @property
    def has_bypass(self) -> bool:
        return self._bypass_from >= 0

    def note_bypassed(self) -> int:
        """Find out what the node has sent over its bypass; return the bytes that are new."""
        bypassed = self._words[self._bypassed_word]
        return self.outgoing.note_bypassed(bypassed) if bypassed > self._bypass_from >= 0 else 0

    def close_bypass(self) -> None:
        """Send what was in flight on the bypass, whose connection has been shut down."""
        self.note_bypassed()
        self._words[self._bypass_word], self._bypass_from = 0, -1
        self.outgoing.end_bypass()

    def latch_begins_after(self) -> int:
        """Return up to which number no message is in the latch any more, because the node was restarted."""
        latch = self.config.latched
        return 0 if latch is None or latch.survive_restart else self._words[self._begun_word]

    def latched(self, after: int) -> Iterator[OutgoingMessage]:
        """Yield the messages of the latch that the other machine may not have had."""
        if self.config.latched is not None:
            for sequence, data in read_entries(latch_path(self._board, self.config.item.output_slot)):
                if sequence > after:
                    yield OutgoingMessage(sequence, len(data), time.time_ns(), True, False, Message(data))

    def _take(self) -> OutgoingMessage | None:
        if self._spilled:
            return self._entry(self._spilled.popleft())
        message = self._receive()
        if message is None:
            return None
        sequence, before = message.sequence, self._last
        self._last = sequence
        if sequence > before + 1:
            found = {
                each.sequence: each
                for folder in self._spill_folders
                for each in take_spilled(folder, before, sequence)
            }
            if found:
                self._spilled.extend(found[number] for number in sorted(found))
                self._spilled.append(message)
                return self._entry(self._spilled.popleft())
        return self._entry(message)

    def _entry(self, message: Message) -> OutgoingMessage:
        kept = bool(message.metadata_size) and self._is_kept(message)
        shared = message.owner is not None
        return OutgoingMessage(message.sequence, message.size, message.time_ns, kept, shared, message)

    def look_who_wants(self) -> None:
        """Find out whether a receiver on the other machine is there or about to start, or has a latch."""
        words = self._words
        self.is_wanted = (
            self.config.latched is not None
            or any(words[slot * WORDS + STATE] == CONNECTED for slot in self.links.values())
            or any(words[slot * WORDS + STATE] == UNCONNECTED for slot in self._awaited)
        )
        self.look_for_credit()

    def look_for_credit(self) -> None:
        """Find out whether the sender waits for receivers there, so that nothing has to be dropped here.

        It waits for the credit of those that are connected, and at its start for the awaited ones.
        """
        words, item = self._words, self.config.item
        waits = any(
            words[slot * WORDS + STATE] == CONNECTED
            or (words[slot * WORDS + STATE] == UNCONNECTED and slot in self._awaited)
            for slot in self._pressed
        )
        self.outgoing.change(None if waits else item.queue_size, item.max_age_ns)

    def close_links(self) -> None:
        """Close the links to the other machine: it is lost."""
        words = self._words
        for slot in self.links.values():
            if words[slot * WORDS + STATE] == CONNECTED:
                words[slot * WORDS + STATE] = CLOSED
        if self._credit is not None and words[self.waiting_word]:
            self._credit.ring()
        self.look_who_wants()

    def take_report(self, name: str, state: int, taken: int) -> None:
        """Write what the other machine says about a receiver."""
        slot = self.links.get(name)
        if slot is None:
            return
        words, base = self._words, slot * WORDS
        words[base + RECEIVED] = max(taken - words[base + FIRST], 0)
        words[base + STATE] = state
        self.look_who_wants()
        # After the words were written, which the sender reads when it wakes up.
        if self._credit is not None and words[self.waiting_word]:
            self._credit.ring()


class ForwardingPort(OutputPort):
    """The sending side of an output of another machine: messages keep their numbers."""

    _has_rung = False  # since the last call of `wake`

    def change(self, config: OutputConfig, sender: Callable[[OutputConfig], Sender]) -> None:
        """Send to the links of another configuration from now on; raises `DoraError`.

        ``sender`` returns a channel's sender.
        """
        channels = config.overflow_channels  # first: if one cannot be made, this is called again
        self._overflow_channels = {each.service: sender(config.on(each)) for each in channels}
        for name in config.__struct_fields__:  # the engine looks at this object, too
            setattr(self._config, name, getattr(config, name))
        self._apply_links()

    def reserve(self, size: int) -> Loan:
        """Return memory for a message that `forward` will send; raises as `Sender.loan`."""
        with self._lock:
            return self._sender.loan(size)

    def forward(self, message: Message, loan: Loan | None) -> None:
        """Send a message of another machine, with its number, whatever the credit; `wake` follows.

        ``loan``: the memory with the message, from `reserve`; None: the message has it all.
        """
        sequence = message.sequence
        control = self._control_section(message.metadata) if message.metadata_size else b""
        words = self._words
        with self._lock:
            if loan is None and len(message.head) > SMALL_BODY:
                loan = self._sender.loan(message.size)
                loan.memory[: message.size] = message.head
            if loan is not None:
                self._transmit(loan, message.size, sequence, control)
            else:
                if self._spill is not None and (control or self._spill.pending):
                    self._spill.before_send(sequence, control, message.head)
                words[self._sent_word] = sequence
                self._send_small(message.head, control)
                for sender in self._overflow_channels.values():
                    sender.send(message.head, control)
            self._bytes += message.body_size
            words[self._bytes_word] = self._bytes
            if control and asks_to_flush(control):
                self._flush(sequence)

    def ring(self) -> None:
        """Wake the receivers that sleep, after `forward`; `wake` follows."""
        self._has_rung = self._ring_bells(self._bells)

    def wake(self, *, again: bool) -> None:
        """Give the receivers the processor. ``again``: wake them again, after more calls of `forward`."""
        if again and self._ring_bells(self._bells):
            self._has_rung = True
        if self._has_rung:
            yield_cpu()
            self._prepare()


class Incoming:
    """An output of another machine, which the gateway sends here."""

    def __init__(
        self, config: OutputConfig, port: ForwardingPort, board: Board, latch: LatchFile | None
    ) -> None:
        self.name = config.id
        self._latch = latch
        self.bad = BadMessages(config.id)
        self._words = board.words
        base = config.slot * WORDS
        self._begun_word = base + BEGUN
        self._waiting_word = base + CREDIT_WAITING
        self._clock_word = base + CLOCK_OFFSET
        self.forwarded_word = base + FORWARDED
        self.config = config
        self.port = port
        self.links: dict[str, LinkConfig] = {}  # those that went too, until they are closed
        self._note_links()
        # A former process of the gateway may have been killed before it sent its last message. It will not
        # come again, and a sender under back-pressure waits until its receiver has it or counts it.
        self.begin(0, self.forwarded)

    def change(self, config: OutputConfig, sender: Callable[[OutputConfig], Sender]) -> None:
        """Follow another configuration, see `ForwardingPort.change`."""
        self.port.change(config, sender)
        self._note_links()

    def _note_links(self) -> None:
        links = self.config.links
        self.links.update((link_name(link), link) for link in links)
        pressed = [link.queue_size for link in links if link.queue_policy == "backpressure"]
        self._half = min(pressed, default=0) // 2
        self.has_pressure = bool(pressed)

    @property
    def forwarded(self) -> int:
        return self._words[self.forwarded_word]

    def begin(self, skipped: int, begun: int = 0) -> None:
        """Have receivers count what is missing up to ``skipped``, and soon up to ``begun``."""
        if max(skipped, begun) <= self._words[self._begun_word]:
            return
        self._words[self._begun_word] = max(skipped, begun)
        self._words[self.forwarded_word] = max(skipped, self.forwarded)
        for link in self.config.links:
            self._words[link.node_slot * WORDS + CONTROL_WORD] = time.monotonic_ns()
            Bell(link.bell).ring()

    def forget_latched(self, sequence: int) -> None:
        """Keep no messages up to this number in the latch here."""
        if self._latch is not None:
            self._latch.forget(sequence)

    def deliver(self, message: UntrustedMessage, loan: Any) -> None:
        """Send a message to the receivers here."""
        sequence = message.sequence
        # First the number: a message is lost if this process is killed in between, but never sent twice.
        self._words[self.forwarded_word] = sequence
        self.port.forward(message, loan)

    def age_ns(self, message: UntrustedMessage) -> int:
        """Return how old a message is, by the clocks of both machines as far as they are known."""
        return time.time_ns() - signed(self._words[self._clock_word]) - message.time_ns

    def awaits_credit(self, reported: int) -> None:
        """Have receivers ring once they have taken something, if the sender may wait for that."""
        self._words[self._waiting_word] = self.forwarded - reported >= self._half

    def report(self, link: LinkConfig) -> tuple[int, int]:
        """Return the state of a receiver and what it has taken."""
        words, base = self._words, link.slot * WORDS
        return words[base + STATE], words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]


class Memory:
    """Room for a body that is no message of a known stream, or for which there is no shared memory."""

    def __init__(self, size: int) -> None:
        self.memory = memoryview(bytearray(size))
        self.size = size

    def discard(self) -> None:
        """Nothing to give back."""


def parse(body: Any, size: int, loan: Any) -> UntrustedMessage:
    """Return the message in a body; raises `MessageError` and the other faults of a damaged one."""
    if loan is None:
        message = UntrustedMessage(body)
    else:
        offset = int.from_bytes(loan.memory[12:16], "little")
        head = bytes(loan.memory[: min(offset, size)])
        address = (
            loan.address
            if hasattr(loan, "address")
            else ctypes.addressof(ctypes.c_char.from_buffer(loan.memory))
        )
        message = UntrustedMessage(head, address, loan)
    message.validate(size)
    if message.size != size:
        raise MessageError(f"it has {size} bytes instead of {message.size}")
    check(message)
    return message
