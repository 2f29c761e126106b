"""Stay awake for the next message: predictions and prewakes, by what a node has learned so far.

To wake a sleeping process on an idle processor takes 50 to 100 µs. Two things save this time.

*Arrival predictor*: cameras, encoders and control loops send at fixed rates. A node that knows the rate
sleeps until shortly before the message is due, and then polls for a short while. A phase-locked loop tracks
the stream: each arrival corrects phase and period by a part of its error, and the mean absolute error gives
the width of the window. A stream that is too unsteady to be caught within a small part of its period has no
window, and costs nothing.

*Prewake*: in a chain of nodes that each pass on what they get, a message reaches a node some 50 µs after it
reached the node before. So a sender rings, besides its receivers, the receivers of its receivers, if these
ask for it. They are awake when the message arrives. The sender is idle at that time, and the message does
not wait for it. A node in the middle that takes longer, or passes on only a few messages, makes prewakes
worthless. A node asks for no more after a few without a message, and tries again much later.
"""

from __future__ import annotations

from typing import Final

MIN_PERIOD_NS: Final = 1_000_000  # shorter and longer periods are not predicted
MAX_PERIOD_NS: Final = 50_000_000
_CONFIDENT: Final = 8  # arrivals on time until there is a window
_JITTER_NS: Final = 5_000  # always allowed: else a loop with a mean error of 0 corrects nothing any more
_MISS: Final = 4  # confidence lost by a period without a message
WAKE_NS: Final = 80_000  # a sleep ends this late at worst, on an idle virtual processor
MAX_HALF_NS: Final = 250_000  # half a window: a node that polls takes a processor from the others

_MAX_FAILURES: Final = 4  # prewakes without a message until the node asks for no more
_FIRST_RETRY: Final = 256  # messages until one more is tried
_LAST_RETRY: Final = 16_384  # messages; each failed trial doubles them, up to this
_MAX_WITHOUT: Final = 64  # messages without a prewake until prewakes count as over


class ArrivalPredictor:
    """Predicts arrivals; all times are nanoseconds of one clock, given by the caller.

    >>> predictor = ArrivalPredictor()
    >>> for number in range(20):
    ...     predictor.observe(number * 5_000_000)
    >>> begin, end = predictor.window(19 * 5_000_000 + 1)
    >>> begin < 20 * 5_000_000 < end
    True
    """

    __slots__ = ("_confidence", "_error", "_last", "_next", "_period")

    def __init__(self) -> None:
        self._last = 0
        self._next = 0
        self._period = 0
        self._error = 0  # mean absolute error of the prediction
        self._confidence = 0

    def observe(self, now: int) -> None:
        """Learn from the arrival of a message that the node was waiting for."""
        last, self._last = self._last, now
        period = self._period
        if period:
            periods = (now - self._next + period // 2) // period
            error = now - self._next - periods * period
            distance = error if error >= 0 else -error
            if distance * 8 < period:
                # A late message says little about the period.
                limit = 3 * self._error + _JITTER_NS
                error = max(-limit, min(error, limit))
                self._period = period + error // 32
                self._next += (periods + 1) * period + error // 4
                self._error += (min(distance, limit) - self._error) // 8
                if self._confidence < 2 * _CONFIDENT:
                    self._confidence += 1
                return
        interval = now - last
        self._confidence = 0
        if MIN_PERIOD_NS <= interval <= MAX_PERIOD_NS:
            self._period = interval
            self._next = now + interval
            self._error = interval // 64
        else:
            self._period = 0

    def missed(self) -> None:
        """Learn from a window that passed without a message."""
        self._confidence = max(self._confidence - _MISS, 0)
        self._next += self._period

    def window(self, now: int) -> tuple[int, int] | None:
        """Return when to poll for the next message, from and until; None: at no time."""
        if self._confidence < _CONFIDENT:
            return None
        period = self._period
        half = self._error * 5 // 2
        if half > MAX_HALF_NS or half * 20 > period:
            return None
        while self._next + half < now:
            self._next += period
        return self._next - half - WAKE_NS, self._next + half + WAKE_NS // 4


class Prewake:
    """A node's experience with prewakes. They are wanted until a few in a row have failed.

    >>> prewake = Prewake()
    >>> for _ in range(4):
    ...     prewake.observe(False)
    >>> prewake.wanted
    False
    """

    __slots__ = ("_failures_left", "_retry", "_retry_in", "_without", "useful", "wanted")

    def __init__(self) -> None:
        self.wanted = True
        self.useful = False  # messages do come after prewakes
        self._failures_left = _MAX_FAILURES
        self._retry = _FIRST_RETRY
        self._retry_in = 0  # messages until the next trial
        self._without = 0  # messages since the last one after a prewake

    def observe(self, message_followed: bool) -> None:
        """Learn whether a message came soon after a prewake."""
        if message_followed:
            self.useful = True
            self._failures_left = _MAX_FAILURES
            self._retry = _FIRST_RETRY
            self._without = 0
            return
        self._failures_left -= 1
        if self._failures_left <= 0:
            self.wanted = self.useful = False
            self._retry_in = self._retry
            self._retry = min(2 * self._retry, _LAST_RETRY)

    def message_arrived(self) -> None:
        """Count a message, after a prewake or not."""
        if not self.wanted:
            self._retry_in -= 1
            if self._retry_in <= 0:
                self.wanted = True
                self._failures_left = 1
        elif self.useful:
            self._without += 1
            if self._without > _MAX_WITHOUT:
                self.useful = False
