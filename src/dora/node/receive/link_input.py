"""The receiving side: one port per input, whatever its source.

A port gives its next event, or None, without blocking. Everything that has to do with one input
lives here: counting what was lost, closing after the last message, the silence that `input_timeout`
watches, the grid of a timer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dora.node.events import Event, Input, InputClosed, InputRecovered
from dora.node.receive.deadline import watch
from dora.transport.board import (
    BEGUN,
    CONNECTED,
    CREDIT_WAITING,
    DROPPED,
    FIRST,
    FLUSH,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    Board,
)
from dora.transport.board import CLOSED as LINK_CLOSED
from dora.transport.doorbell import Bell, memory_fence
from dora.transport.interface import MAX_QUEUE, Receiver
from dora.wire.correlation import carries_correlation
from dora.wire.message import MAX_SEQUENCE, SEQUENCE, Message
from dora.wire.node_config import InputConfig

_monotonic = time.monotonic_ns
FLIGHT_LIMIT_NS: Final = 2_000_000_000  # how long a closed input waits for messages in flight
_SEND_LIMIT_NS: Final = 100_000_000  # how long a sender may take between numbering and sending


def _receive_nothing() -> Message | None:
    return None


class LinkInput:
    """An input fed by another node's output.

    What is missing in the sequence is counted as lost when a later message shows it. Nothing later may
    come: a sender that was killed may have counted a message that it never sent, and a restarted
    receiver misses what lay in the queue of its predecessor. A sender under back-pressure would wait for
    that for ever. So there is a number up to which nothing new will be sent (`_settle_to`): once the
    queue is empty, what is missing up to there is lost. If it comes after all, it was not.
    """

    is_data = True

    def __init__(
        self,
        config: InputConfig,
        receiver: Receiver,
        board: Board,
        *,
        in_flight: bool,
        joins_late: bool,
        make_bell: Callable[[str], Bell] = Bell,
        takes_over: bool = False,
        first_time: bool | None = None,
        engine_begins: bool = False,
    ) -> None:
        """``in_flight``: the engine may still carry messages when their source has ended.
        ``joins_late``: earlier messages of the output are not meant for this node.
        ``takes_over``: the queue also has messages that the node's former process has received.
        ``first_time``: nobody has received on this link before; None: the board tells, as it does unless
        the engine has written to it already. ``engine_begins``: of a link that joins late, the engine says
        on the board where it begins, until the first message has come."""
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
        self._sent_word = config.output_slot * WORDS + SENT
        self._begun_word = config.output_slot * WORDS + BEGUN
        self._flush_word = config.output_slot * WORDS + FLUSH
        self._flush_to = 0
        self._stopped = False
        self._limit = 0  # sequence number of the last message that is still wanted, once stopped
        if first_time is None:
            first_time = not words[base + STATE]
        self._asks_where_it_begins = engine_begins and joins_late and bool(first_time)
        if joins_late and first_time and not engine_begins:
            words[base + FIRST] = words[self._sent_word]
        self._received = words[self._received_word]
        self._last = words[base + FIRST] + self._received + words[base + DROPPED]
        self._joined = engine_begins or not (joins_late and first_time)
        self._taken = self._last  # by the node's former process; later ones may be given up here, and come
        if takes_over:
            self._receive = self._receive_fresh
        self._settle_to = 0
        self._settle_at = 0  # monotonic nanoseconds
        if not first_time and not in_flight:  # else the engine waits for the first message
            self._settle_to = words[self._sent_word]
        if not in_flight:  # else the engine knows better when the link is up
            words[base + STATE] = CONNECTED
        self._credit = make_bell(config.credit_bell) if config.credit_bell else None
        self._waiting_word = config.output_slot * WORDS + CREDIT_WAITING
        self._half = min(config.queue_size, MAX_QUEUE) // 2
        self._silence = watch(config, board)
        self._source_closed_at: int | None = None
        self._in_flight = in_flight
        self._patience = FLIGHT_LIMIT_NS if in_flight else _SEND_LIMIT_NS

    def poll(self) -> Event | None:
        message = self._receive()
        if message is None:
            return self._nothing()
        sequence = message.header[SEQUENCE]
        last = self._last
        if sequence == last + 1:
            self._last = sequence
        else:
            self._gap(sequence)
        self._received += 1
        self._words[self._received_word] = self._received
        if self._credit is not None:
            self._give_credit()
        if self._silence is not None:
            self._silence.heard()
        event = Input(self._template)
        event._content = message
        return event

    def _receive_fresh(self) -> Message | None:
        """Skip what the node's former process has received."""
        while (message := self._receiver.receive()) is not None:
            if message.sequence > self._taken:
                self._receive = self._receiver.receive
                return message
        return None

    def _gap(self, sequence: int) -> None:
        """Count what was lost between the last message and this one."""
        if not 0 < sequence <= MAX_SEQUENCE:
            return  # no node's message: its number is not believed
        words = self._words
        dropped_word = self._base + DROPPED
        if self._asks_where_it_begins:
            self._ask_where_it_begins()
        if not self._joined:
            self._joined = True
            if not self._received and (sequence <= self._last + 2 or self._in_flight):
                # One message was being sent while this node joined: the sender numbers it just before or
                # just after, and does not know yet of a channel that was opened for this link. Or the
                # network did not know of it.
                words[self._base + FIRST] = sequence - 1
                self._last = sequence
                return
        if sequence > self._last:
            words[dropped_word] += sequence - self._last - 1
            self._last = sequence
        elif words[dropped_word]:  # counted as lost, but it was only late
            words[dropped_word] -= 1

    def _ask_where_it_begins(self) -> None:
        """Look where the engine says that this link begins, as long as no message has come."""
        words = self._words
        if self._received or words[self._base + DROPPED]:
            self._asks_where_it_begins = False
        else:
            self._last = words[self._base + FIRST]

    def count_as_dropped(self) -> None:
        """Note that a message which was taken here made room for others, and was not delivered."""
        self._received -= 1
        self._words[self._received_word] = self._received
        self._words[self._base + DROPPED] += 1

    def check_flush(self) -> None:
        """Skip what is queued before the last message with ``flush: true``; called when one was sent."""
        to = self._words[self._flush_word]
        if not self.open or to <= self._last or (self._silence is not None and self._silence.closed):
            return
        self._flush_to = to
        if not self._stopped:
            self._receive = self._receive_flushed

    def _receive_flushed(self) -> Message | None:
        while (message := self._receiver.receive()) is not None:
            if message.sequence >= self._flush_to:
                if self._receive == self._receive_flushed:
                    self._receive = self._receiver.receive
                return message
            if carries_correlation(message):
                return message
        return None

    def _settle(self) -> None:
        """Count what will never come, now that the queue is empty."""
        if self._settle_at > _monotonic():
            return
        self._words[self._base + DROPPED] += self._settle_to - self._last
        self._last = self._settle_to
        if self._credit is not None:
            self._give_credit()

    def _give_credit(self) -> None:
        """Wake a sender that waits, once half the queue is free again."""
        memory_fence()
        words = self._words
        if words[self._waiting_word] and words[self._sent_word] - self._last <= self._half:
            assert self._credit is not None
            self._credit.ring()

    def _nothing(self) -> Event | None:
        if self._asks_where_it_begins:
            self._ask_where_it_begins()
        silence = self._silence
        if silence is not None and silence.closed and self._receiver.has_messages():
            silence.recovered()
            self._receive = self._receiver.receive
            return InputRecovered(self.id)
        if self._settle_to > self._last:
            self._settle()
        if self._source_closed_at is not None and self._arrived():
            self._give_up_missing()
            self.open = False
            if silence is not None:
                silence.hide()
            return InputClosed(self.id)
        if silence is not None and silence.expired():
            self._receive = _receive_nothing  # `InputRecovered` comes before the next message
            return InputClosed(self.id)
        return None

    def _arrived(self) -> bool:
        """Tell whether everything that the ended source sent is here."""
        assert self._source_closed_at is not None
        if self.detached and self._last >= self._limit:
            return True
        if self.detached and _monotonic() - self._source_closed_at < self._patience:
            return False  # a message is numbered before it is sent
        if self._receiver.has_messages():  # it came after the last look
            return False
        return (
            not self._in_flight
            or self._last >= self._words[self._sent_word]
            or _monotonic() - self._source_closed_at > self._patience
        )

    def _give_up_missing(self) -> None:
        """Count as lost what the ended source sent and a network has not brought until now."""
        words = self._words
        end = self._limit if self._stopped else words[self._sent_word]
        if self._in_flight and words[self._base + STATE] == CONNECTED and end > self._last:
            words[self._base + DROPPED] += end - self._last
            self._last = end

    def ready(self) -> bool:
        return (
            self._receiver.has_messages()
            or (self._source_closed_at is not None and self._arrived())
            or (self._silence is not None and self._silence.is_due())
        )

    def wake_at(self) -> int | None:
        if self._source_closed_at is not None and self.open:
            return self._source_closed_at + self._patience
        silent_at = self._silence.wake_at() if self._silence is not None else None
        if self._settle_at and self._settle_to > self._last:
            return self._settle_at if silent_at is None else min(silent_at, self._settle_at)
        return silent_at

    def source_closed(self) -> None:
        self._source_closed_at = _monotonic()

    def source_back(self, node_id: str) -> bool:
        if node_id != self._source_node:
            return False
        self._settle_to = max(self._settle_to, self._words[self._begun_word])
        self._settle_at = _monotonic() + FLIGHT_LIMIT_NS if self._in_flight else 0
        if self._source_closed_at is None:
            return False
        self._source_closed_at = None
        closed, self.open = not self.open, True
        if self._silence is not None:
            self._silence.show()
        return closed

    def stop(self) -> None:
        self._stopped = True
        self._stop_watching()
        # Senders may not have heard of it yet; what they send from now on is not waited for.
        self._limit = self._words[self._sent_word]
        self._receive = self._receive_to_the_limit

    def _stop_watching(self) -> None:
        if self._silence is not None:
            self._silence.hide()
            self._silence = None

    def _receive_to_the_limit(self) -> Message | None:
        return self._receive_flushed() if self._last < self._limit else None

    def detach(self) -> None:
        self.detached = True
        self.stop()
        self.source_closed()
        self._source_node = ""  # it does not come back

    def release(self) -> None:
        """Note that another process of the node goes on with this link."""
        self._hands_over = True
        self._receiver.release()

    def close(self) -> None:
        self.open = False
        self._source_node = ""  # closed for good
        if not self._hands_over:  # else the sender would not wait for who takes over
            self._words[self._base + STATE] = LINK_CLOSED
        self._receive = _receive_nothing
        self._stop_watching()
        self._receiver.close()
        if self._credit is not None:
            self._credit.ring()
