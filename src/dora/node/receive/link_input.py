"""The port of an input that another node's output feeds: receive, count losses, close."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dora.node.events import Event, Input, InputClosed, InputRecovered
from dora.node.receive.deadline import deadline_monitor
from dora.node.receive.input_port import InputPort
from dora.node.receive.path_meter import InputMeter
from dora.transport.board import (
    BEGUN,
    CONNECTED,
    CREDIT_WAITING,
    DROPPED,
    FIRST,
    FLUSH,
    FORWARDED,
    RECEIVED,
    SENT,
    STATE,
    UNCONNECTED,
    WORDS,
    Board,
    last_sent,
)
from dora.transport.board import CLOSED as LINK_CLOSED
from dora.transport.doorbell import Bell
from dora.transport.fence import fence
from dora.transport.interface import MAX_QUEUE, Receiver
from dora.transport.spill import ResumingReceiver, take_spilled
from dora.wire.correlation import kept_message
from dora.wire.counters import FLUSHED, RESTART_LOSS
from dora.wire.message import MAX_SEQUENCE, SEQUENCE, Message
from dora.wire.node_config import InputConfig

_monotonic = time.monotonic_ns
# How long an input that closes waits for a message that is numbered and not there: on a network, or in a
# sender that has looked up its receivers and is about to send. 100 ms for the latter lose it on a busy
# machine, where a process that could run waits longer for a processor. Only killed senders cost this time.
FLIGHT_LIMIT_NS: Final = 2_000_000_000


def _receive_nothing() -> Message | None:
    return None


class LinkInput(InputPort):
    """An input fed by another node's output.

    A gap in the sequence is counted as lost when a later message shows it. But no later message may come:
    a killed sender may have counted a message that it never sent, and a restarted receiver misses the queue
    of its former process. A sender under back-pressure would wait for those without end. So there is a
    number up to which no new message will be sent (`_final_sequence`): once the queue is empty, the
    messages that are missing up to there count as lost. A message that comes after all is taken off the
    count.
    """

    def __init__(
        self,
        config: InputConfig,
        receiver: Receiver,
        board: Board,
        *,
        joins_late: bool,
        crosses: bool = False,
        make_bell: Callable[[str], Bell] = Bell,
        takes_over: bool = False,
        spill_folder: str = "",
        meter: InputMeter | None = None,
    ) -> None:
        """Connect the link on the board.

        ``joins_late``: earlier messages of the output are not for this node. ``crosses``: the source is on
        another machine, so the network may still carry messages when it has ended. ``takes_over``: the
        queue also has messages that the node's former process has received. ``spill_folder``: where the
        sender puts messages that must not be dropped from the queue; "": nowhere. ``meter``: samples the
        latencies of paths.
        """
        self._meter = meter
        self._spill_folder = spill_folder
        self._hands_over = False
        self.id = config.id
        self.open = True
        self.detached = False
        self._source_node = config.source.partition("/")[0]
        self._receiver = receiver
        self._receive = receiver.receive
        self._template = Input.template(config.id)
        self._words = words = board.words
        self._base = base = config.slot * WORDS
        self._received_word = base + RECEIVED
        self._output_slot = config.output_slot
        self._sent_word = config.output_slot * WORDS + SENT
        self._begun_word = config.output_slot * WORDS + BEGUN
        self._flush_word = config.output_slot * WORDS + FLUSH
        self._flush_to = 0
        self._flushed = 0  # messages that were skipped, until the gap in the numbers is counted as dropped
        self._is_kept = kept_message(config.keep)
        self._stopped = False
        self._limit = 0  # sequence number of the last message that is still wanted, once stopped
        self._rest_until = 0  # monotonic nanoseconds, see `awaits_rest`
        first_time = words[base + STATE] == UNCONNECTED  # no process has received on this link before
        self._joined = not (joins_late and first_time)
        words[base + STATE] = CONNECTED
        if not self._joined:
            fence()  # a sender under back-pressure numbers no message without credit from here on
            # Of a sender on another machine, the gateway here may have got nothing yet.
            sent = last_sent(words, self._output_slot)
            words[base + FIRST] = max(sent, words[self._begun_word] if crosses else 0)
        self._received = words[self._received_word]
        self._sample_at = self._received + 1  # the number of the message to sample next
        self._last = words[base + FIRST] + self._received + words[base + DROPPED]
        # The queue may hold what is not for this process: messages that the node's former process has
        # received, or earlier ones than FIRST. FIRST itself may be numbered, and not sent yet.
        is_new = not self._joined
        self._taken = self._last if takes_over else self._last - 1 if is_new else 0
        # Messages sent up to here that did not arrive were lost by a restart of this node. Through a
        # network that is everything before the first message.
        self._rejoined_at = 0
        self._received_before = self._received
        if not (first_time or takes_over):
            self._rejoined_at = MAX_SEQUENCE if crosses else words[self._sent_word]
        if takes_over or is_new:
            self._receive = self._receive_wanted
        self._final_sequence = 0
        self._final_at = 0  # monotonic nanoseconds
        if not first_time:
            # Messages that are still on their way from another machine will come.
            self._final_sequence = words[config.output_slot * WORDS + (FORWARDED if crosses else SENT)]
            if takes_over:  # its queue lacks nothing; but the last message may be about to be sent
                self._final_at = _monotonic() + FLIGHT_LIMIT_NS
        self._credit = make_bell(config.credit_bell) if config.credit_bell else None
        self._waiting_word = config.output_slot * WORDS + CREDIT_WAITING
        self._half = min(config.queue_size, MAX_QUEUE) // 2
        if self._credit is not None and not self._joined:
            self._give_credit()
        self._deadline = deadline_monitor(config, board)
        self._source_closed_at: int | None = None
        self._crosses = crosses

    def poll(self) -> Event | None:
        message = self._receive()
        if message is None:
            return self._poll_empty()
        sequence = message.header[SEQUENCE]
        last = self._last
        if sequence == last + 1:
            self._last = sequence
        else:
            if self._spill_folder and (spilled := self._take_spilled(message)) is not None:
                message, sequence = spilled, spilled.header[SEQUENCE]
            self._count_gap(sequence)
        self._received = received = self._received + 1
        self._words[self._received_word] = received
        if received == self._sample_at and self._meter is not None:
            self._sample_at = self._meter.sample(message, received)
        if self._credit is not None:
            self._give_credit()
        if self._deadline is not None:
            self._deadline.rearm()
        event = Input(self._template)
        event._content = message
        return event

    def _take_spilled(self, message: Message) -> Message | None:
        """Return the first message that the sender spilled before this one; the others follow in order."""
        spilled = take_spilled(self._spill_folder, self._last, message.header[SEQUENCE])
        if not spilled:
            return None
        first = spilled.popleft()
        receiver = self._receiver
        if isinstance(receiver, ResumingReceiver) and receiver.over:
            receiver = receiver.receiver
        self._receive_from(ResumingReceiver(deque([*spilled, message]), receiver))
        return first

    def _receive_from(self, receiver: Receiver) -> None:
        """Replace the receiver; a way of receiving that skips messages stays."""
        is_plain = self._receive == self._receiver.receive
        self._receiver = receiver
        if is_plain:
            self._receive = receiver.receive

    def _count_gap(self, sequence: int) -> None:
        """Count what was lost between the last message and this one."""
        if not 0 < sequence <= MAX_SEQUENCE:
            return  # not from a node: do not believe its number
        words = self._words
        dropped_word = self._base + DROPPED
        if not self._joined:
            self._joined = True
            if not self._received and (sequence <= self._last + 2 or self._crosses):
                # One message was numbered while this node joined: the sender, or the network, did not know
                # this link yet.
                words[self._base + FIRST] = sequence - 1
                self._last = sequence
                return
        if sequence > self._last:
            self._count_lost(sequence - 1)
            self._last = sequence
        elif words[dropped_word]:  # counted as lost, but only late
            words[dropped_word] -= 1

    def _count_lost(self, end: int) -> None:
        """Count the messages from the last one up to ``end`` as lost."""
        self._words[self._base + DROPPED] += end - self._last
        if self._last < self._rejoined_at and (
            not self._crosses or self._received == self._received_before
        ):
            self._words[self._base + RESTART_LOSS.word] += min(end, self._rejoined_at) - self._last
        if self._flushed:
            self._words[self._base + FLUSHED.word] += self._flushed
            self._flushed = 0
        self._last = end

    def count_as_dropped(self) -> None:
        self._received -= 1
        self._words[self._received_word] = self._received
        self._words[self._base + DROPPED] += 1

    def has_newer(self) -> bool:
        return self._last < self._words[self._sent_word]

    def check_flush(self) -> None:
        """Skip the messages before the last one with ``flush: true``, if there is a new one."""
        if self._crosses:
            self._check_begun()
        to = self._words[self._flush_word]
        if not self.open or to <= self._last:
            return
        self._flush_to = to
        is_silent = self._deadline is not None and self._deadline.closed  # `InputRecovered` comes first
        if not self._stopped and not is_silent:
            self._receive = self._receive_wanted

    def _receive_wanted(self) -> Message | None:
        """Receive, and skip what is not for this process, or was flushed."""
        while (message := self._receiver.receive()) is not None:
            if message.sequence <= self._taken:
                continue
            if message.sequence >= self._flush_to:
                if self._receive == self._receive_wanted:
                    self._receive = self._receiver.receive
                return message
            if self._is_kept(message):
                return message
            self._flushed += 1
        return None

    def _count_missing(self) -> None:
        """Count the messages that will never come, now that the queue is empty."""
        if self._final_at > _monotonic():
            return
        self._count_lost(self._final_sequence)
        if self._credit is not None:
            self._give_credit()

    def _give_credit(self) -> None:
        """Wake a sender that waits, once half the queue is free again."""
        # With the fence in `Credit.wait`: this side sees the mark, or the sender sees the room.
        fence()
        words = self._words
        if words[self._waiting_word] and words[self._sent_word] - self._last <= self._half:
            assert self._credit is not None
            self._credit.ring()

    def _poll_empty(self) -> Event | None:
        if isinstance(self._receiver, ResumingReceiver) and self._receiver.over:
            self._receive_from(self._receiver.receiver)  # directly: all spilled messages were delivered
        deadline = self._deadline
        if deadline is not None and deadline.closed and self._receiver.has_messages():
            deadline.recovered()
            is_flushed = self._flush_to > self._last
            self._receive = self._receive_wanted if is_flushed else self._receiver.receive
            return InputRecovered(self.id)
        if self._final_sequence > self._last:
            self._count_missing()
        if self._source_closed_at is not None and self._all_arrived():
            self._count_undelivered()
            self.open = False
            if deadline is not None:
                deadline.withdraw()
            return InputClosed(self.id)
        if deadline is not None and deadline.expired():
            self._receive = _receive_nothing  # `InputRecovered` comes before the next message
            return InputClosed(self.id)
        return None

    def _all_arrived(self) -> bool:
        """Return whether all messages of the ended source have arrived."""
        assert self._source_closed_at is not None
        if self.detached and self._last >= self._limit:
            return True
        if self.detached and _monotonic() - self._source_closed_at < FLIGHT_LIMIT_NS:
            return False  # a sender numbers a message before it sends it
        if self._receiver.has_messages():  # it came after the last poll
            return False
        return (
            not self._crosses
            or self._last >= last_sent(self._words, self._output_slot)
            or _monotonic() - self._source_closed_at > FLIGHT_LIMIT_NS
        )

    def _count_undelivered(self) -> None:
        """Count the messages of the ended source that a network has not brought until now as lost."""
        end = self._limit if self._stopped else last_sent(self._words, self._output_slot)
        if self._crosses and end > self._last:
            self._count_lost(end)

    def ready(self) -> bool:
        return (
            self._receiver.has_messages()
            or (self._source_closed_at is not None and self._all_arrived())
            or (self._deadline is not None and self._deadline.is_due())
        )

    def wake_at(self) -> int | None:
        if self._source_closed_at is not None and self.open:
            return self._source_closed_at + FLIGHT_LIMIT_NS
        if self._rest_until:
            return self._rest_until
        silent_at = self._deadline.due_at if self._deadline is not None else None
        if self._final_at and self._final_sequence > self._last:
            return self._final_at if silent_at is None else min(silent_at, self._final_at)
        return silent_at

    def source_closed(self) -> None:
        self._source_closed_at = _monotonic()

    def source_back(self, node_id: str) -> bool:
        if node_id != self._source_node:
            return False
        self._await_final()
        if self._source_closed_at is None:
            return False
        self._source_closed_at = None
        closed, self.open = not self.open, True
        if self._deadline is not None:
            self._deadline.source_back()
        return closed

    def _check_begun(self) -> None:
        """Follow the gateway, which has found out that some messages will not come."""
        begun = self._words[self._begun_word]
        if self._joined or self._received:
            if begun > self._final_sequence:
                self._await_final()
        elif begun > self._last:  # they are earlier than this link
            self._words[self._base + FIRST] = self._last = begun

    def _await_final(self) -> None:
        """Count what is missing up to ``BEGUN`` as lost, after a time in which it may arrive."""
        self._final_sequence = max(self._final_sequence, self._words[self._begun_word])
        self._final_at = _monotonic() + FLIGHT_LIMIT_NS if self._crosses else 0

    def stop(self) -> None:
        self._stopped = True
        self._end_deadline()
        # Senders may not know of the stop yet; their messages from now on are not awaited.
        self._limit = last_sent(self._words, self._output_slot)
        self._receive = self._receive_to_the_limit
        if self._hands_over:
            self._rest_until = _monotonic() + FLIGHT_LIMIT_NS

    def awaits_rest(self) -> bool:
        # A sender may have numbered a message, and looked up its receivers, before the process that takes
        # over was one of them.
        return self._last < self._limit and _monotonic() < self._rest_until

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.withdraw()
            self._deadline = None

    def _receive_to_the_limit(self) -> Message | None:
        return self._receive_wanted() if self._last < self._limit else None

    def detach(self) -> None:
        self.detached = True
        self.stop()
        self.source_closed()
        self._source_node = ""  # it does not come back

    def release(self) -> None:
        self._hands_over = True

    def close(self) -> None:
        self.open = False
        self._source_node = ""  # closed for good
        if not self._hands_over:  # else the sender waits for the process that takes over
            self._words[self._base + STATE] = LINK_CLOSED
        self._receive = _receive_nothing
        self._end_deadline()
        self._receiver.close()
        if self._credit is not None:
            self._credit.ring()  # last: the sender that wakes finds the link closed
