"""Metadata keys by which messages belong together, and what a receiver reads in them.

The keys are conventions between nodes: programs that set and read them by hand, and programs that
use `Node.call`, `Node.send_goal` and `Node.stream`, understand each other.

==================  ==========================================================================
key                 meaning
==================  ==========================================================================
``request_id``      on a request and on its response, the same
``goal_id``         on a goal, on its feedback, on its result and on the wish to cancel it
``goal_status``     on a result: ``succeeded``, ``aborted`` or ``canceled``
``error``           on a response or an aborted result: why there is none
``session_id``      on each chunk of a stream
``segment_id``      number of the segment within its session, from 0
``seq``             number of the chunk within its segment, from 0
``fin``             true on the last chunk of a segment
``flush``           true: receivers forget the older messages that wait on the same input
==================  ==========================================================================
"""

from __future__ import annotations

from typing import Any, Final, Literal

from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata

REQUEST_ID: Final = "request_id"
GOAL_ID: Final = "goal_id"
GOAL_STATUS: Final = "goal_status"
ERROR: Final = "error"
FLUSH: Final = "flush"

GoalStatus = Literal["succeeded", "aborted", "canceled"]

# Messages that an engine holds for an input of a declared pattern, whatever its `queue_size`: a
# receiver takes them over into its own memory whenever it looks, see `dora.transport.queues`.
PATTERN_QUEUE_SIZE: Final = 1024

# How the keys begin in msgpack. They are looked for in the raw bytes first, because most messages
# have none of them.
_CORRELATED: Final = tuple(
    bytes([0xA0 | len(key)]) + key.encode() for key in (REQUEST_ID, GOAL_ID, GOAL_STATUS)
)
FLUSH_MARK: Final = b"\xa5flush\xc3"  # for those who want to save the call


def is_correlated(metadata: dict[str, Any]) -> bool:
    """Tell whether a message belongs to an exchange, so that somebody waits for it."""
    return REQUEST_ID in metadata or GOAL_ID in metadata or GOAL_STATUS in metadata


def carries_correlation(message: Message) -> bool:
    """As `is_correlated`, for a message that was received."""
    section = message.metadata
    return any(key in section for key in _CORRELATED) and is_correlated(_decoded(section))


def asks_to_flush(section: bytes) -> bool:
    """Tell whether a metadata section has ``flush: true``.

    >>> from dora.wire.metadata import encode_metadata
    >>> [asks_to_flush(encode_metadata({"flush": value})) for value in (True, False)]
    [True, False]
    """
    return FLUSH_MARK in section and _decoded(section).get(FLUSH) is True


def _decoded(section: bytes) -> dict[str, Any]:
    try:
        return decode_metadata(section)
    except MetadataError:  # reading the event will tell
        return {}
