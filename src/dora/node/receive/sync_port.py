"""The port of a `sync` group: it owns the ports of its inputs, and gives one event for each set.

The port takes messages from its inputs until a set is decided. Of each input at most ``queue_size``
messages wait for a set, beside those that a history keeps and those in the queue of the link. Of more, the
oldest is dropped and counted; under back-pressure the input is not read, so that its sender waits.
Even with a ``queue_size`` of 1, two messages have room then: a partner, and the one that decides it.

Other events of the inputs pass through. The closing of an input comes after the last set with a message of
it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from dora.node.events import Event, Input, InputClosed, InputRecovered, Synced
from dora.node.receive.input_port import InputPort
from dora.node.receive.sync_matcher import Match, Matcher
from dora.node.receive.timestamps import timestamp_ns, timestamps
from dora.transport.board import WORDS
from dora.wire.counters import UNMATCHED
from dora.wire.input_rules import SyncGroup
from dora.wire.node_config import InputConfig

_monotonic = time.monotonic_ns
_NEVER: Final = 0  # a time at which no timeout has passed


class SyncPort(InputPort):
    """One group. ``open`` is False once no set can come any more.

    The ports of its inputs are told what has happened, so most methods of a port do nothing here.
    """

    layer = "sync"
    detached = False

    def __init__(
        self,
        config: SyncGroup,
        ports: Mapping[str, InputPort],
        inputs: Sequence[InputConfig],
        words: memoryview,
        on_closed: Callable[[InputPort], None],
        other_clocks: Mapping[int, int] = {},
    ) -> None:
        """``words``: of the board. ``on_closed`` gets the port of an input whose closing the program has
        just got."""
        self.config = config
        self.id = f"sync {config.inputs[0]}"  # no input has such a name
        self.open = True
        self._words = words
        self._on_closed = on_closed
        self._ports: list[InputPort | None] = [ports.get(name) for name in config.inputs]
        known = {item.id: item for item in inputs}
        self._index = {name: index for index, name in enumerate(config.inputs)}
        # Inputs that lead come last: then the newest messages of the others are there.
        self._order = (*range(1, len(config.inputs)), 0)
        by_timestamp = config.by == "timestamp"
        tolerance = config.tolerance_ns
        self._waits = [
            name in known and known[name].queue_policy == "backpressure" for name in config.inputs
        ]
        limits = [known[name].queue_size if name in known else 1 for name in config.inputs]
        for index in range(1, len(limits)):
            if self._waits[index]:
                # A partner is decided by a later message: without room for both, one would be dropped.
                limits[index] = max(limits[index], 2)
        self._matcher: Matcher[Input] = Matcher(
            limits,
            tolerance=None if tolerance is None else tolerance // 1000,
            policy="latest" if config.policy == "latest" else "nearest",
            histories=[config.history.get(name) for name in config.inputs],
            timeout=config.timeout_ns,
            at_once=not by_timestamp,
        )
        self._by_timestamp = by_timestamp
        # Equal timestamps are copies of one; with estimated offsets of clocks they would differ.
        is_exact = config.policy != "latest" and not tolerance
        self._timestamps = [
            timestamp_ns if is_exact or name not in known else timestamps(known[name], other_clocks, words)
            for name in config.inputs
        ]
        self._arrivals = 0
        # Each round takes an event, so these take all that have arrived. A round may have one input alone,
        # as inputs that are full are read only after a message of another one has made room.
        self._rounds = sum(limits) + len(limits)
        # By arrival, the last of the messages that have arrived is the newest.
        self._takes = [1 if by_timestamp or not index else limit + 1 for index, limit in enumerate(limits)]
        self._words_of = [
            known[name].slot * WORDS + UNMATCHED.word
            if name in known and known[name].kind != "timer"
            else -1
            for name in config.inputs
        ]
        self._counted = [0] * len(config.inputs)
        self._passing: deque[tuple[int, Event]] = deque()  # events that are no messages
        self._prepared: Event | None = None
        self._stopping = False
        self._is_new = False  # something has arrived or ended since the last look for a set
        self._has_timeout = config.timeout_ns is not None
        for index, port in enumerate(self._ports):
            if port is None:
                self._matcher.end(index)

    # ------------------------------------------------------------------ events

    def poll(self) -> Event | None:
        event, self._prepared = self._prepared, None
        return event if event is not None else self._next()

    def look_ahead(self) -> None:
        if self._prepared is None:
            self._prepared = self._next()

    def ready(self) -> bool:
        return self._prepared is not None

    def _next(self) -> Event | None:
        if self._passing and (event := self._pass_on()) is not None:
            return event
        matcher = self._matcher
        match = matcher.next(_NEVER) if self._is_new else None
        if match is None:
            self._is_new = False
            active: Sequence[int] = self._order
            for _ in range(self._rounds):
                active = self._collect(active)
                if self._passing and (event := self._pass_on()) is not None:
                    return event
                if self._is_new and (match := matcher.next(_NEVER)) is not None:
                    break
                if all(map(self._is_full, active)):
                    match = self._next_in_time()
                    if match is not None or all(map(self._is_full, active)):
                        break
            self._count_unmatched()
        if match is not None:
            return self._event(match)
        return self._pass_on() if self._passing else None

    def _collect(self, active: Sequence[int]) -> list[int]:
        """Take events of these inputs, one of each or all; return the inputs that may have more.

        An input that is full may have more, too: a set, or a leading message, can make room.
        """
        found = []
        for index in active:
            port = self._ports[index]
            for _ in range(self._takes[index]):
                if port is None or not port.open:
                    break
                if self._is_full(index):
                    found.append(index)
                    break
                event = port.poll()
                if event is None:
                    break
                self._is_new = True
                if event.__class__ is Input:
                    self._add(index, port, event)
                else:
                    self._handle(index, event)
            else:
                found.append(index)
        return found

    def _is_full(self, index: int) -> bool:
        """Return whether an input is not read, so that its sender waits."""
        return self._waits[index] and self._matcher.is_full(index)

    def _next_in_time(self) -> Match[Input] | None:
        """Return a set that is due because of the time or a stop.

        All that has arrived is there, except messages that have no room, or wait behind a limit of a layer:
        those inputs have not ended with the stop.
        """
        matcher = self._matcher
        if self._has_timeout and (match := matcher.next(_monotonic())) is not None:
            return match
        if self._stopping:
            for index in self._order:
                port = self._ports[index]
                if port is None or not (self._is_full(index) or port.awaits_rest()):
                    matcher.end(index)
            return matcher.next(_NEVER)
        return None

    def _add(self, index: int, port: InputPort, event: Input) -> None:
        if self._by_timestamp:
            stamp = self._timestamps[index](event) // 1000
        else:
            self._arrivals += 1
            stamp = self._arrivals
        if number := port.taken:
            event._number = number  # for the event log
        if self._matcher.add(index, stamp, event, _monotonic() if self._has_timeout else 0):
            port.count_as_dropped()

    def _handle(self, index: int, event: Event) -> None:
        if isinstance(event, InputClosed):
            self._matcher.end(index)
        elif isinstance(event, InputRecovered):
            self._matcher.resume(index)
            if self._forget_closing(index):
                return
        self._passing.append((index, event))

    def _forget_closing(self, index: int) -> bool:
        """Forget the closing of an input that reopens before the program got it; return whether so."""
        before = len(self._passing)
        self._passing = deque(
            item for item in self._passing if item[0] != index or not isinstance(item[1], InputClosed)
        )
        return len(self._passing) < before

    def _pass_on(self) -> Event | None:
        """Return the next event that is no message; a closing only once no set comes before it."""
        for position, (index, event) in enumerate(self._passing):
            if isinstance(event, InputClosed) and not self._matcher.is_done(index):
                continue
            if any(other == index for other, _ in list(self._passing)[:position]):
                continue
            del self._passing[position]
            port = self._ports[index]
            if not self._passing:
                self.end_if_closed()
            if isinstance(event, InputClosed) and port is not None and not port.open:
                if port.detached:
                    self._ports[index] = None
                self._on_closed(port)
            return event
        return None

    def _event(self, match: Match[Input]) -> Synced:
        names = self.config.inputs
        inputs = dict(zip(names, match.members, strict=True))
        return Synced(inputs, [names[index] for index in match.missing])

    # ------------------------------------------------------------------ counts

    def _count_unmatched(self) -> None:
        counted = self._counted
        for index, side in enumerate(self._matcher.sides):
            if side.unmatched != counted[index]:
                word = self._words_of[index]
                if word >= 0:
                    self._words[word] += side.unmatched - counted[index]
                counted[index] = side.unmatched

    def statistics(self) -> dict[str, int]:
        """Return how many sets were given."""
        return {"complete": self._matcher.complete, "incomplete": self._matcher.incomplete}

    # ------------------------------------------------------------------ as a port

    def wake_at(self) -> int | None:
        times = [port.wake_at() for port in self._ports if port is not None and port.open]
        times.append(self._matcher.wake_at())
        return min((at for at in times if at is not None), default=None)

    def replace(self, port: InputPort) -> None:
        """Replace the port of an input, or add the port of an input that was connected again."""
        index = self._index[port.id]
        if self._ports[index] is None:
            self.reopen(port.id)
        self._ports[index] = port

    def reopen(self, input_id: str) -> None:
        """Handle that messages of an input come again after it had closed."""
        index = self._index[input_id]
        self._forget_closing(index)
        self._matcher.resume(index)
        self.open = True

    def stop(self) -> None:
        self._stopping = True
        for port in self._ports:
            if port is not None:
                port.stop()

    def close(self) -> None:
        for port in self._ports:
            if port is not None:
                port.close()
        self._end()

    def end_if_closed(self) -> None:
        """End the group if all its inputs have closed but timers, which do not keep a group alive."""
        if not any(port is not None and port.is_data and port.open for port in self._ports):
            self._end()

    def _end(self) -> None:
        self.open = False
        self._passing.clear()
        self._prepared = None
        self._matcher.clear()
        self._count_unmatched()
