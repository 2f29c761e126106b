"""The layer of an input with a `deadline`, a `max_age`, a `rate` or `every`.

A message that it leaves out has been received, so it counts as a part of ``RECEIVED`` on the board: credit
and sequence numbers stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from dora.node.events import DeadlineMet, DeadlineMissed, Event, Input, InputClosed, Reference
from dora.node.receive.input_port import InputPort, WrappingInput
from dora.node.receive.timestamps import timestamps
from dora.transport.board import DROPPED, WORDS, Board
from dora.wire.correlation import kept_message, kept_metadata
from dora.wire.counters import EXPIRED, MISSED, OVERDUE, THINNED
from dora.wire.message import TIME_NS, Message
from dora.wire.node_config import InputConfig

T = TypeVar("T")

_monotonic = time.monotonic_ns
_wall = time.time_ns
_AT_ONCE: Final = 1000  # messages that one poll takes at most; the sender may be faster than this loop


class Deadline:
    """The longest pause between messages; an input without messages is late from the start.

    All times are in nanoseconds; ``now`` is on CLOCK_MONOTONIC.
    """

    __slots__ = ("_pause_ns", "_sent_at", "due_at", "missed")

    def __init__(self, pause_ns: int) -> None:
        self._pause_ns = pause_ns
        self._sent_at = 0  # when the last message was sent, on the sender's clock; 0: not known
        self.due_at: int | None = None  # None: it is not watched now
        self.missed = False

    def arm(self, now: int) -> None:
        """Watch the input from now on."""
        self.due_at = now + self._pause_ns
        self._sent_at = 0
        self.missed = False

    def disarm(self) -> None:
        """Watch no longer: the input has closed."""
        self.due_at = None
        self.missed = False

    def miss(self, now: int) -> int | None:
        """Return by how much the deadline has passed without a message, once for each miss; else None."""
        if self.due_at is None or self.missed or now < self.due_at:
            return None
        self.missed = True
        return now - self.due_at

    def late(self, now: int, sent_at: int, *, gapless: bool) -> int | None:
        """Return how late the message is that comes now, None if it is in time; ask before `take`.

        A message that has waited for the program is late only if it was sent late, which is known if no
        message was lost or left out between the last one and this one: ``gapless``.
        """
        due_at = self.due_at
        if due_at is None or now < due_at:
            return None
        if self.missed:
            return now - due_at
        if not (gapless and self._sent_at):
            return None
        late = sent_at - self._sent_at - self._pause_ns
        return late if late > 0 else None

    def take(self, now: int, sent_at: int) -> None:
        """Begin the next pause: the program gets a message."""
        self.due_at = now + self._pause_ns
        self._sent_at = sent_at
        self.missed = False


class Thinning(Generic[T]):
    """Of messages that come faster than one in ``period_ns``, the newest one when the time has come."""

    __slots__ = ("_due_at", "_period_ns", "held")

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._due_at = 0
        self.held: T | None = None  # the newest message, until it is due

    def hold(self, message: T) -> int:
        """Hold a message in the place of an older one; return how many are left out for it."""
        left_out = 0 if self.held is None else 1
        self.held = message
        return left_out

    def drop(self) -> int:
        """Leave out the held message; return how many that are."""
        left_out = 0 if self.held is None else 1
        self.held = None
        return left_out

    def passes(self, now: int) -> bool:
        """Return whether a message may pass now; if one does, call `begin`."""
        return now >= self._due_at

    def begin(self, now: int) -> None:
        """Begin a period: a message passes."""
        self._due_at = now + self._period_ns

    def is_due(self, now: int) -> bool:
        """Return whether the held message may be taken."""
        return self.held is not None and now >= self._due_at

    def take(self, now: int) -> T:
        """Return the held message; the next one is due a period later."""
        message = self.held
        assert message is not None
        self.held = None
        self._due_at = now + self._period_ns
        return message

    def due_at(self) -> int | None:
        """Return when the held message is due, None if there is none."""
        return None if self.held is None else self._due_at


class QosInput(WrappingInput):
    """Watches the pauses between messages; leaves out messages that are old or come too fast."""

    layer = "qos"

    def __init__(
        self,
        port: InputPort,
        config: InputConfig,
        board: Board,
        other_clocks: Mapping[int, int] = {},
    ) -> None:
        """``other_clocks``: as in `NodeConfig`."""
        super().__init__(port)
        self._deadline = Deadline(config.deadline_ns) if config.deadline_ns else None
        self._is_watched = True  # False once the source has ended: then no deadline is missed any more
        self._begins_now = True  # the first pause begins before there is a message
        self._source_node = config.source.partition("/")[0]  # "": it does not come back
        self._stopped = False
        self._max_age_ns = config.max_age_ns
        self._timestamp_ns = timestamps(config, other_clocks, board.words)
        self._every = config.every
        self._to_skip = 0  # messages, until the next one is given out
        self._thinning: Thinning[Input] | None = Thinning(config.period_ns) if config.period_ns else None
        self._keeps_message = kept_message(config.keep)
        self._keeps_metadata = kept_metadata(config.keep)
        self._words = board.words
        base = config.slot * WORDS
        self._dropped = base + DROPPED
        self._dropped_before = self._words[self._dropped]  # at the last message
        self._expired, self._thinned = base + EXPIRED.word, base + THINNED.word
        self._missed, self._overdue = base + MISSED.word, base + OVERDUE.word
        self._words[self._overdue] = 0  # of the former process
        self._left_out = False  # a message was left out since the last one

    # ------------------------------------------------------------------ the next event

    def poll(self) -> Event | None:
        if self._next:
            waiting = self._next.popleft()
            if self._deadline is not None and isinstance(waiting, InputClosed):
                self._pause(self._deadline)
            return waiting
        self._has_more = False
        event = self._take() if self._thinning is None else self._take_thinned(self._thinning)
        deadline = self._deadline
        if deadline is None:
            return event
        if event.__class__ is not Input:
            return self._watch(deadline, event)
        now = _monotonic()
        due_at = deadline.due_at
        if due_at is not None and now >= due_at:
            return self._give_late(deadline, now, event)
        content = event._content
        deadline.take(now, content.header[TIME_NS] if content.__class__ is Message else content.time_ns)
        self._dropped_before = self._words[self._dropped]
        self._left_out = False
        return event

    def _poll(self) -> Event | None:
        """Return the next event that `every` lets pass. Kept messages pass, and are not counted."""
        for _ in range(_AT_ONCE):
            event = self._port.poll()
            if event.__class__ is not Input or not self._every or self._is_kept(event):
                return event
            if not self._to_skip:
                self._to_skip = self._every - 1
                return event
            self._to_skip -= 1
            self._count(self._thinned)
        self._has_more = True
        return None

    def _take(self) -> Event | None:
        """Return the next event that is not too old."""
        for _ in range(_AT_ONCE):
            event = self._poll()
            if event.__class__ is not Input or not self._max_age_ns or not self._is_old(event):
                return event
            self._count(self._expired)
        self._has_more = True
        return None

    def _take_thinned(self, thinning: Thinning[Input]) -> Event | None:
        """Return the newest message if one is due. Kept messages, and other events, pass at once."""
        for _ in range(_AT_ONCE):
            event = self._poll()
            if event is None:
                break
            if not isinstance(event, Input):
                if thinning.held is None or self._drop_old(thinning):
                    return event
                self._next.append(event)
                return thinning.take(_monotonic())
            if (
                thinning.held is None
                and not self._port.has_newer()
                and thinning.passes(now := _monotonic())
            ):
                if self._max_age_ns and self._is_old(event):
                    self._count(self._expired)
                    continue
                thinning.begin(now)
                return event
            if self._is_kept(event):
                # The held message is older. After the kept one it would come in the wrong order.
                self._count(self._thinned, thinning.drop())
                return event
            self._count(self._thinned, thinning.hold(event))
        else:
            self._has_more = True
        now = _monotonic()
        if thinning.held is None or not (self._stopped or thinning.is_due(now)) or self._drop_old(thinning):
            return None
        return thinning.take(now)

    def _drop_old(self, thinning: Thinning[Input]) -> bool:
        """Drop the held message if it is too old; return whether it was."""
        if not (self._max_age_ns and thinning.held is not None and self._is_old(thinning.held)):
            return False
        thinning.drop()
        self._count(self._expired)
        return True

    def _is_old(self, event: Input) -> bool:
        return _wall() - self._timestamp_ns(event) > self._max_age_ns and not self._is_kept(event)

    def _is_kept(self, event: Input) -> bool:
        content = event._content
        if isinstance(content, Message):
            return self._keeps_message(content)
        return isinstance(content, Reference) and self._keeps_metadata(content.metadata())

    def _count(self, word: int, messages: int = 1) -> None:
        if messages:
            self._words[word] += messages
            self._left_out = True

    # ------------------------------------------------------------------ the deadline

    def _watch(self, deadline: Deadline, event: Event | None) -> Event | None:
        """Return an event that is no message; a missed deadline if there is none."""
        if event is not None:
            if isinstance(event, InputClosed):
                self._pause(deadline)
            return event
        if not self._is_watched:
            return None
        now = _monotonic()
        if self._begins_now:
            self._begins_now = False
            if deadline.due_at is None:
                deadline.arm(now)
        late = deadline.miss(now)
        return None if late is None else self._miss(late)

    def _pause(self, deadline: Deadline) -> None:
        """Watch no more until the next message: the input is closed."""
        deadline.disarm()
        self._begins_now = False
        self._words[self._overdue] = 0

    def _miss(self, late: int) -> DeadlineMissed:
        self._words[self._missed] += 1
        self._words[self._overdue] = 1
        return DeadlineMissed(self.id, late * 1e-9)

    def _give_late(self, deadline: Deadline, now: int, event: Input) -> Event:
        """Return the message after a long pause, or what comes before it: the miss, or that it is over."""
        sent_at = event._content.time_ns
        missed = deadline.missed
        dropped = self._words[self._dropped]
        late = deadline.late(now, sent_at, gapless=not self._left_out and dropped == self._dropped_before)
        deadline.take(now, sent_at)
        self._dropped_before = dropped
        self._left_out = False
        if late is None:
            return event
        self._next.appendleft(event)  # the closing of the input may be there
        met = DeadlineMet(self.id, late * 1e-9)
        if missed:
            self._words[self._overdue] = 0
            return met
        self._next.appendleft(met)
        missing = self._miss(late)
        self._words[self._overdue] = 0
        return missing

    def _unwatch(self) -> None:
        """Watch no more: the source has ended, or this node stops."""
        self._is_watched = False
        self._words[self._overdue] = 0

    # ------------------------------------------------------------------ the rest of a port

    def look_ahead(self) -> None:
        if not self._next and (event := self.poll()) is not None:
            self._next.appendleft(event)

    def ready(self) -> bool:
        return bool(self._next)

    def wake_at(self) -> int | None:
        times = [super().wake_at()]
        if self._deadline is not None and self._is_watched and not self._deadline.missed:
            times.append(self._deadline.due_at)
        if self._thinning is not None:
            times.append(self._thinning.due_at())
        return min((at for at in times if at is not None), default=None)

    def source_closed(self) -> None:
        self._unwatch()
        self._port.source_closed()

    def source_back(self, node_id: str) -> bool:
        if node_id == self._source_node and not self._is_watched:
            self._is_watched = self._begins_now = True
            if self._deadline is not None:
                self._deadline.disarm()
        return self._port.source_back(node_id)

    def stop(self) -> None:
        self._end()
        self._port.stop()

    def detach(self) -> None:
        self._end()
        self._port.detach()

    def close(self) -> None:
        self._end()
        super().close()

    def _end(self) -> None:
        self._unwatch()
        self._stopped = True  # what is held comes with the next poll
        self._source_node = ""
