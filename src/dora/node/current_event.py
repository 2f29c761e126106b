"""The current event of a node: what a message follows from that is sent now.

It is the event that the program took last, until it asks for the next one. A message that is sent meanwhile
carries the origins of this event; one that is sent at another time, or after a tick of a timer, is an
origin itself. See `dora.wire.trail`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from dora.node.events import Input, Synced
from dora.wire.message import ONE_ORIGIN, ONE_PASS, ONE_TRAIL_BYTE, ORIGIN, ORIGIN_NS, Header
from dora.wire.trail import ENTRY_SIZE, MAX_HOPS, MAX_ORIGINS, Trailed, join, pack_entry, passes_of

_now = time.time_ns
_MOST_BYTES = (MAX_ORIGINS + MAX_HOPS) * ENTRY_SIZE

Passed = tuple[int, int, bytes]
"""The last arguments of `dora.wire.message.pack_head`."""


class CurrentEvent:
    """Header and trail of the current event; the header is None if there is none with an origin.

    ``is_needed``: there is an output that reads them.
    """

    __slots__ = ("header", "is_needed", "taken_ns", "trail")
    header: Header | None
    is_needed: bool
    taken_ns: int
    trail: bytes

    def __init__(self) -> None:
        self.is_needed = False
        self.taken_ns = 0
        self.trail = b""
        self.header = None

    def follow(self, events: Iterable[Input]) -> None:
        """Make several events the current one: a message follows from all of them."""
        found = [trailed for event in events if (trailed := _trailed(event)) is not None]
        header, self.trail = join(found) if found else (None, b"")
        self.header = header

    def follow_set(self, event: Synced) -> None:
        """Make a set the current event. Of an input with a history, the newest message counts."""
        messages = (
            found[-1:] if isinstance(found, list) else [found] for found in event["inputs"].values()
        )
        self.follow(message for some in messages for message in some if message is not None)

    def passed_on(self, output: int, now_ns: int, most_passes: int, *, stamped: bool) -> Passed:
        """Return the fields of a message that an output sends now.

        ``output``: its number. ``most_passes``: how often an origin is passed on at most; after that the
        message is an origin. ``stamped``: the message carries its hops.
        """
        header = self.header
        if header is None or passes_of(header) >= most_passes:
            return now_ns, output, b""
        origin, trail = header[ORIGIN] + ONE_PASS, b""
        if origin >= ONE_TRAIL_BYTE:
            trail = self.trail
            if len(trail) != origin // ONE_TRAIL_BYTE:  # another thread has just taken the next event
                origin, trail = origin % ONE_ORIGIN, b""
        if stamped and len(trail) < _MOST_BYTES:
            trail += pack_entry(output, self.taken_ns or now_ns, now_ns)
            origin += ENTRY_SIZE * ONE_TRAIL_BYTE
        return header[ORIGIN_NS], origin, trail


class StampedEvent(CurrentEvent):
    """The current event of a node on a path with a budget: it also knows when it was taken."""

    __slots__ = ("_header",)

    @property
    def header(self) -> Header | None:
        return self._header

    @header.setter
    def header(self, header: Header | None) -> None:
        self._header = header
        if header is not None:
            self.taken_ns = _now()


_NOTHING: Final = CurrentEvent()


def current_of(events: Input | Iterable[Input]) -> CurrentEvent:
    """Return the current event for a message that follows from these events, whatever is current."""
    if events.__class__ is tuple and not events:  # `==` would decode an event
        return _NOTHING
    current = CurrentEvent()
    current.follow([events] if isinstance(events, Input) else events)
    return current


def _trailed(event: Any) -> Trailed | None:
    content = getattr(event, "_content", None)
    header = getattr(content, "header", None)
    return None if content is None or header is None else (header, content.trail)
