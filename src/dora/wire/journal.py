"""The journal of a run: what a recording says of its nodes, beside their messages.

`dora.recording.recorder.context` makes messages of its entries.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

MarkKind = Literal["failed", "safe_state", "missed", "restarted", "reloaded", "replaced", "note", "saved"]


class Mark(msgspec.Struct, frozen=True, tag=True):
    """Something that happened at one moment. ``text`` is half a sentence that follows the node's name."""

    kind: MarkKind
    node: str | None
    text: str


class Values(msgspec.Struct, frozen=True, tag=True):
    """All parameters of a node from one moment on."""

    node: str
    values: dict[str, Any]


class JournalEntry(msgspec.Struct, frozen=True):
    """An entry of the journal. ``time_ns``: since the Unix epoch, when it was true."""

    time_ns: int
    content: Mark | Values
