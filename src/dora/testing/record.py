"""The messages that a test finds: what nodes under test have sent, with the times."""

from __future__ import annotations

from typing import Any

from dora.node.events import Input
from dora.wire.message import Message


class Sent(Input):
    """A message that a node sent; ``value``, ``metadata``, ``data`` and `numpy()` as for a received one.

    ``id`` is the output, ``time`` the time of sending, in seconds of virtual time since the start.
    """

    __slots__ = ("time",)
    time: float

    def __repr__(self) -> str:
        return f"Sent({self['id']!r} at {self.time:g} s: {self['value'].to_pylist()!r})"


class Messages(dict[str, list[Sent]]):
    """Output → its messages in the order of sending; ``[]`` for an output without messages."""

    def __missing__(self, output: str) -> list[Sent]:
        return []


def sent_message(output_id: str, message: Message, time: float) -> Sent:
    """Return a message that was sent at a time, in seconds."""
    item: Any = Sent(Sent.template(output_id))
    item._content = message
    item.time = time
    sent: Sent = item
    return sent
