"""The layer of an input whose source has a safe state.

When a condition holds, the program gets the safe value. It is made here, so it comes even if the process of
the sender is dead or stopped. The program gets it once, and messages again as soon as the sender is back.
Messages that the sender had numbered before count as dropped, so no older one follows the safe value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from dora.node.events import (
    BudgetMissed,
    DeadlineMet,
    DeadlineMissed,
    Event,
    Input,
    InputClosed,
    Reference,
    SafeStateEntered,
    SafeStateLeft,
)
from dora.node.receive.input_port import InputPort, WrappingInput
from dora.transport.board import WORDS, Board, last_sent
from dora.wire.counters import IN_SAFE_STATE, SAFE_STATES
from dora.wire.node_config import InputConfig
from dora.wire.output_rules import SafeState

_monotonic = time.monotonic_ns
_AT_ONCE: Final = 1000  # messages that one poll drops at most; the sender may be faster than this loop

OnChange = Callable[[str, str, bool, float], None]
"""Called with the input, the reason, whether the safe state begins, and how long it was if it ends."""


class SafeValue(Reference):
    """The content of a safe value; ``reason`` is the condition that holds."""

    __slots__ = ("reason",)

    def __init__(self, value: Any, metadata: dict[str, Any], time_ns: int, reason: str) -> None:
        super().__init__(value, {**metadata, "safe_state": reason}, time_ns)
        self.reason = reason


def safe_array(safe: SafeState) -> Any:
    """Return the safe value as an Arrow array."""
    import pyarrow as pa

    return pa.array(safe.values, safe.type)


class SafeStateInput(WrappingInput):
    """Gives out the safe value of the source when it fails, or does not send in time."""

    layer = "safe state"

    def __init__(self, port: InputPort, config: InputConfig, board: Board, on_change: OnChange) -> None:
        safe = config.source_rules.safe_state
        assert safe is not None
        super().__init__(port)
        self._config = safe
        self._when = frozenset(safe.when)
        self._value = safe_array(safe)
        self._source = config.source
        self._on_change = on_change
        self._silence_ns = safe.silence_ns if "silent" in self._when else None
        self._silent_at: int | None = None  # when the pause has lasted too long; None: it is not watched
        self._is_new = True  # nothing was polled yet
        self._exceeds = False  # the next message has taken longer than its path's budget
        self._stopped = False
        self._words = board.words
        self._entered_word = config.slot * WORDS + SAFE_STATES.word
        self._safe_word = config.slot * WORDS + IN_SAFE_STATE.word
        self._output_slot = config.output_slot
        self._words[self._safe_word] = 0  # of the former process
        self._reason = ""  # of the safe state, "" in the ordinary one
        self._since = 0
        self._last_stale = 0  # number of the last message that was sent before the safe state

    # ------------------------------------------------------------------ the next event

    def poll(self) -> Event | None:
        if self._next:
            return self._next.popleft()
        event = self._port.poll()
        if event.__class__ is Input and not (self._reason or self._exceeds):
            if self._silence_ns is not None and not self._stopped:
                self._silent_at = _monotonic() + self._silence_ns
            return event
        self._has_more = False
        for _ in range(_AT_ONCE):
            if isinstance(event, Input):
                if (found := self._take(event)) is not None:
                    return found
            elif not (isinstance(event, BudgetMissed) and self._take_miss(event)):
                return self._poll_other(event)
            event = self._port.poll()
        self._has_more = True
        return None

    def _take(self, event: Input) -> Event | None:
        """Return what comes of a message in the safe state, or of a late one; None if it is dropped."""
        if self._exceeds:
            self._exceeds = False
            self.count_as_dropped()
            if self._reason:
                return None
            self._enter("budget")
            return self._next.popleft()
        if self._is_stale(event):
            self.count_as_dropped()
            return None
        return self._leave(event)

    def _take_miss(self, missed: BudgetMissed) -> bool:
        """Note that the next message is late; return whether the program need not know."""
        self._exceeds = missed.on_miss == "safe_state" and not self._stopped
        return self._exceeds and bool(self._reason)

    def _poll_other(self, event: Event | None) -> Event | None:
        """Return an event that is no message, after what it means for the safe state."""
        if event is None:
            return self._poll_silent() if self._silence_ns is not None else None
        if isinstance(event, DeadlineMissed):
            return self._miss(event)
        return self._close(event) if isinstance(event, InputClosed) else event

    def _is_stale(self, event: Input) -> bool:
        return 0 < (event.sequence or self.taken) <= self._last_stale

    def _poll_silent(self) -> Event | None:
        """Begin the safe state if no message has come for too long."""
        self._begin_first_pause()
        if self._is_silent():
            self._enter("silent")
            return self._next.popleft()
        return None

    def _miss(self, missed: DeadlineMissed) -> Event:
        """Begin the safe state after a missed deadline, unless the late message is there already."""
        if self._reason or self._stopped:
            return missed
        following = self._port.poll()
        if isinstance(following, DeadlineMet):
            self._next.append(following)
            return missed
        self._enter("deadline")
        if isinstance(following, InputClosed):  # it has come at this very moment
            self._next.appendleft(self._close(following))
        elif following is not None:
            self._next.append(following)
        return missed

    def _close(self, closed: InputClosed) -> Event:
        """Give out the safe value before the closing, if the sender will send no more."""
        if self._port.open:  # it was closed by its `input_timeout`
            return closed
        if not self._stopped:
            self._enter("failed")
        self._next.append(closed)
        self._silent_at = None
        return self._next.popleft()

    def source_failed(self) -> None:
        """Begin the safe state; queued messages are older, and dropped."""
        if "failed" not in self._when or self._stopped or self._reason:
            return
        waiting, closed = list(self._next), False
        while len(waiting) < _AT_ONCE and (event := self._port.poll()) is not None:
            waiting.append(event)
        self._next.clear()
        for event in waiting:
            if isinstance(event, Input):
                self.count_as_dropped()
            elif isinstance(event, InputClosed) and not self._port.open:
                closed = True
            elif not isinstance(event, BudgetMissed):  # its message is dropped
                self._next.append(event)
        self._exceeds = False
        self._enter("failed")
        if closed:
            self._next.append(InputClosed(self.id))

    # ------------------------------------------------------------------ the safe state

    def _enter(self, reason: str) -> None:
        """Begin the safe state, unless it is there, or the condition is not one of this source."""
        if self._reason or reason not in self._when:
            return
        self._reason = reason
        self._since = _monotonic()
        self._last_stale = last_sent(self._words, self._output_slot)
        self._silent_at = None
        self._words[self._entered_word] += 1
        self._words[self._safe_word] = 1
        value = Input(Input.template(self.id))
        value._content = SafeValue(self._value, self._config.metadata, time.time_ns(), reason)
        self._next.append(SafeStateEntered(self.id, reason, sender=self._source))
        self._next.append(value)
        self._on_change(self.id, reason, True, 0.0)

    def _leave(self, event: Input) -> Event:
        """End the safe state: the sender is back, with this message."""
        seconds = (_monotonic() - self._since) * 1e-9
        reason, self._reason = self._reason, ""
        self._words[self._safe_word] = 0
        self._begin_pause()
        self._next.append(event)
        self._on_change(self.id, reason, False, seconds)
        return SafeStateLeft(self.id, seconds, sender=self._source)

    def _begin_pause(self) -> None:
        """Watch the pause between messages that begins now, in the ordinary state."""
        if self._silence_ns is not None and not (self._stopped or self._reason):
            self._silent_at = _monotonic() + self._silence_ns

    def _begin_first_pause(self) -> None:
        """Watch the pause before the first message from the first look at this input on."""
        if self._is_new:
            self._is_new = False
            self._begin_pause()

    def _is_silent(self) -> bool:
        return self._silent_at is not None and _monotonic() >= self._silent_at

    # ------------------------------------------------------------------ the rest of a port

    def look_ahead(self) -> None:
        self._begin_first_pause()  # a program may poll only what is not empty
        super().look_ahead()

    def ready(self) -> bool:
        return super().ready() or self._is_silent()

    def wake_at(self) -> int | None:
        at = super().wake_at()
        silent_at = self._silent_at
        return at if silent_at is None else silent_at if at is None else min(at, silent_at)

    def source_back(self, node_id: str) -> bool:
        reopens = self._port.source_back(node_id)
        if reopens:
            self._begin_pause()
        return reopens

    def stop(self) -> None:
        self._end()
        self._port.stop()

    def close(self) -> None:
        self._end()
        self._words[self._safe_word] = 0
        super().close()

    def _end(self) -> None:
        """Begin no further safe state: this node stops, or has closed the input."""
        self._stopped = True
        self._silent_at = None
