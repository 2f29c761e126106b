"""QoS of an input, as rules without a clock: when a deadline is missed, and which message is left out.

All times are in nanoseconds. ``now`` is on CLOCK_MONOTONIC.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Deadline:
    """The longest pause between messages; an input without messages is late from the start."""

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

    def is_due(self, now: int) -> bool:
        """Return whether `miss` would report a miss."""
        return self.due_at is not None and not self.missed and now >= self.due_at

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
