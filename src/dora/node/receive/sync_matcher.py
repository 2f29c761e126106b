"""Match the messages of several inputs: the sets of a `sync` group. Pure; times are arguments.

The first input of a group *leads*: each of its messages makes one set, with one *partner* of each other
input. With ``t`` for the timestamp of the leading message, this is:

- ``nearest``: the message whose timestamp is nearest to ``t``, the earlier of two that are equally near; at
  most ``tolerance`` away. A tolerance of 0 matches equal timestamps.
- ``latest``: the message with the greatest timestamp that is not after ``t``; with a tolerance, at most so
  much before it.

A partner is *decided* when no better one can come: a message of its input with the timestamp ``t``, or a
later one, is there, or the input has ended. A set is decided when all its partners are. So the sets are a
function of the messages of each input, and do not depend on the order of arrival between inputs. Two things
make them depend on time: a full queue, which drops, and the ``timeout`` of a group, at which a leading
message makes a set of what is there.

Timestamps of an input must increase. A message that is older than its predecessor finds no partner, and
neither does one of the same timestamp, except on the leading input. If a whole queue of messages is older
than the newest one, the clock of the source was set back: the input starts again.

A message that leaves the matcher and was in no set is *unmatched*.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, Literal, TypeVar

T = TypeVar("T")

BEFORE_ALL: Final = -sys.maxsize


class Held(Generic[T]):
    """A message that is held. ``is_given``: it was in a set."""

    __slots__ = ("arrival", "is_given", "message", "time")

    def __init__(self, time: int, message: T, arrival: int) -> None:
        self.time = time
        self.message = message
        self.arrival = arrival
        self.is_given = False


class Side(Generic[T]):
    """The messages of one input that wait for a set, oldest first, and those that a history still needs."""

    __slots__ = (
        "behind",
        "has_ended",
        "history",
        "late_in_a_row",
        "limit",
        "newest",
        "unmatched",
        "waiting",
    )

    def __init__(self, limit: int, history: int | None) -> None:
        self.limit = limit
        self.history = history
        self.waiting: deque[Held[T]] = deque()
        self.behind: deque[Held[T]] = deque()  # that only a history can use
        self.newest = BEFORE_ALL
        self.has_ended = False
        self.late_in_a_row = 0
        self.unmatched = 0

    def retire(self) -> None:
        """Take the oldest message out of those that wait."""
        entry = self.waiting.popleft()
        if self.history:
            self.behind.append(entry)
            if len(self.behind) <= self.history:
                return
            entry = self.behind.popleft()
        if not entry.is_given:
            self.unmatched += 1

    def retire_before(self, time: int) -> None:
        """Take out the messages that a later one, which is not after ``time`` either, replaces.

        No leading message with this timestamp, or a later one, can use them.
        """
        waiting = self.waiting
        while len(waiting) > 1 and waiting[1].time <= time:
            self.retire()

    def clear(self) -> None:
        """Give up all messages."""
        for entries in (self.behind, self.waiting):
            self.unmatched += sum(not entry.is_given for entry in entries)
            entries.clear()

    def give(self, entry: Held[T]) -> T | list[T]:
        """Return a message of this side for a set, or the list that ends with it if it has a history."""
        entry.is_given = True
        if self.history is None:
            return entry.message
        frames = list(self.behind)
        for other in self.waiting:
            if other is entry:
                break
            frames.append(other)
        frames = frames[-self.history :] if self.history else []
        for other in frames:
            other.is_given = True
        return [*(other.message for other in frames), entry.message]


class Match(Generic[T]):
    """A set: for each input, in order, its message; None where there is none.

    For an input with a history it is a list, oldest first, which ends with the matching message and is
    shorter at the start of the stream; it is empty where nothing matches. ``missing`` are those inputs.
    """

    __slots__ = ("members", "missing")

    def __init__(self, members: list[T | list[T] | None], missing: list[int]) -> None:
        self.members = members
        self.missing = missing


class Matcher(Generic[T]):
    """Matches the messages of one group. Inputs are numbers, from 0, which leads."""

    def __init__(
        self,
        limits: Sequence[int],
        *,
        tolerance: int | None,
        policy: Literal["nearest", "latest"] = "nearest",
        histories: Sequence[int | None] | None = None,
        timeout: int | None = None,
        at_once: bool = False,
    ) -> None:
        """``limits``: for each input, how many messages wait at most. ``tolerance``: None for any age.

        ``histories``: for each input, how many messages before the match a set has; None: the match alone,
        and not as a list. ``timeout``: how long a leading message waits; None: until its set is decided,
        and sets that lack a message are not given. ``at_once``: nothing waits, as timestamps are numbers of
        arrival. Timestamps and tolerance have one unit, arrivals and timeout another.
        """
        histories = histories or [None] * len(limits)
        self.sides: list[Side[T]] = [
            Side(limit, history) for limit, history in zip(limits, histories, strict=True)
        ]
        self.complete = 0  # sets
        self.incomplete = 0
        self._lead = self.sides[0]
        self._others = self.sides[1:]
        self._tolerance = tolerance
        self._is_latest = policy == "latest"
        self._timeout = timeout
        self._at_once = at_once

    # ------------------------------------------------------------------ what arrives

    def add(self, index: int, time: int, message: T, now: int) -> bool:
        """Hold a message that arrived at ``now``; return whether the oldest one was dropped for it.

        A message that was in a set and makes room is no loss.
        """
        side = self.sides[index]
        if time <= side.newest and (index or time < side.newest):
            if time == side.newest or side.late_in_a_row + 1 < side.limit:
                side.late_in_a_row += time < side.newest
                side.unmatched += 1
                return False
            side.clear()
        side.late_in_a_row = 0
        side.newest = time
        waiting = side.waiting
        waiting.append(Held(time, message, now))
        if index and self._is_over():
            side.retire_before(time)  # only a leading input that comes back could use one
        if len(waiting) > side.limit:
            return not waiting.popleft().is_given
        return False

    def is_full(self, index: int) -> bool:
        """Return whether the next message of an input would push out its oldest one."""
        side = self.sides[index]
        return len(side.waiting) >= side.limit and not (index and self._is_over())

    def _is_over(self) -> bool:
        """Return whether no set comes any more, unless the leading input comes back."""
        return self._lead.has_ended and not self._lead.waiting

    def end(self, index: int) -> None:
        """Handle the end of an input: nothing better comes from it."""
        self.sides[index].has_ended = True

    def resume(self, index: int) -> None:
        """Handle that messages may come again on an input that had ended."""
        self.sides[index].has_ended = False

    def is_done(self, index: int) -> bool:
        """Return whether no message of an input that has not been in a set can be in one any more."""
        lead = self._lead
        if not index or lead.has_ended:
            return not lead.waiting
        return all(entry.is_given for entry in self.sides[index].waiting)

    def clear(self) -> None:
        """Give up all messages that are held."""
        for side in self.sides:
            side.clear()

    # ------------------------------------------------------------------ sets

    def wake_at(self) -> int | None:
        """Return when the oldest leading message has waited for its timeout."""
        if self._timeout is None or not self._lead.waiting:
            return None
        return self._lead.waiting[0].arrival + self._timeout

    def next(self, now: int) -> Match[T] | None:
        """Return the next set that is decided, else None."""
        lead = self._lead
        waiting = lead.waiting
        timeout = self._timeout
        while waiting:
            first = waiting[0]
            time = first.time
            if not self._at_once:
                for side in self._others:
                    if side.newest < time and not side.has_ended:
                        side.retire_before(time)  # else a full input, which is not read, stays full
                        if timeout is None or now < first.arrival + timeout:
                            return None
                        break
            chosen = [self._partner(side, time) for side in self._others]
            is_complete = None not in chosen
            match: Match[T] | None = None
            if is_complete or timeout is not None:
                members: list[T | list[T] | None] = [lead.give(first)]
                for side, entry in zip(self._others, chosen, strict=True):
                    if entry is not None:
                        members.append(side.give(entry))
                    else:
                        members.append(None if side.history is None else [])
                missing = [] if is_complete else [i for i, entry in enumerate(chosen, 1) if entry is None]
                match = Match(members, missing)
            lead.retire()
            if match is not None:
                if is_complete:
                    self.complete += 1
                else:
                    self.incomplete += 1
                return match
        return None

    def _partner(self, side: Side[T], time: int) -> Held[T] | None:
        """Return the message of a side for a leading one, and retire those that no later one can use."""
        waiting = side.waiting
        side.retire_before(time)
        tolerance = self._tolerance
        if waiting and tolerance is not None and waiting[0].time < time - tolerance:
            side.retire()
        if not waiting:
            return None
        entry = waiting[0]
        if entry.time == time:
            return entry
        if self._is_latest:
            return entry if entry.time < time else None
        if entry.time < time and len(waiting) > 1 and waiting[1].time - time < time - entry.time:
            entry = waiting[1]
        if tolerance is not None and entry.time - time > tolerance:
            return None
        return entry
