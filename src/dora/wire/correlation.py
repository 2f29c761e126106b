"""Metadata keys that correlate messages: requests with responses, goals with results, chunks with streams;
and the ids that are their values.

The keys are conventions between nodes: a program may set and read them itself, or use `Node.call`,
`Node.send_goal` and `Node.stream`; both kinds of programs work together.

==================  ==========================================================================
key                 meaning
==================  ==========================================================================
``request_id``      on a request and on its response, the same
``goal_id``         on a goal, on its feedback, on its result and on its cancellation
``goal_status``     on a result: ``succeeded``, ``aborted`` or ``canceled``
``error``           on a response or an aborted result: why there is none
``session_id``      on each chunk of a stream
``segment_id``      number of the segment within its session, from 0
``seq``             number of the chunk within its segment, from 0
``fin``             true on the last chunk of a segment
``flush``           true: receivers drop the older messages queued on the same input
==================  ==========================================================================
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata

REQUEST_ID: Final = "request_id"
GOAL_ID: Final = "goal_id"
GOAL_STATUS: Final = "goal_status"
ERROR: Final = "error"
FLUSH: Final = "flush"

GoalStatus = Literal["succeeded", "aborted", "canceled"]

# Messages that an engine holds for an input of a declared pattern, whatever its `queue_size`: with each
# poll, a receiver moves them to a queue of its own, see `dora.transport.queues`.
PATTERN_QUEUE_SIZE: Final = 1024

MAX_KEPT: Final = 1024  # messages of exchanges that a full queue keeps beyond its size: the newest ones

# The keys in msgpack. They are searched for in the raw bytes first, because most messages have none.
_CORRELATED: Final = tuple(
    bytes([0xA0 | len(key)]) + key.encode() for key in (REQUEST_ID, GOAL_ID, GOAL_STATUS)
)
# In every section with such a key.
FLUSH_MARK: Final = b"\xa5flush\xc3"
_REQUEST_MARK: Final = b"request_id"
_GOAL_MARK: Final = b"goal_"

CONTROL_KEYS: Final = frozenset({REQUEST_ID, GOAL_ID, GOAL_STATUS, FLUSH})  # the keys that a sender acts on


def uuid7() -> str:
    """Return a fresh UUID of version 7 (RFC 9562) in its canonical form; these sort by time of creation."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_correlated(metadata: dict[str, Any]) -> bool:
    """Return whether a message belongs to an exchange, so that a node may wait for it."""
    return REQUEST_ID in metadata or GOAL_ID in metadata or GOAL_STATUS in metadata


def carries_correlation(message: Message) -> bool:
    """Return whether a received message belongs to an exchange, like `is_correlated`."""
    return section_is_correlated(message.metadata)


def section_is_correlated(section: bytes) -> bool:
    """Return whether a message with this metadata section belongs to an exchange, like `is_correlated`."""
    if _REQUEST_MARK not in section and _GOAL_MARK not in section:  # most messages end here
        return False
    return any(key in section for key in _CORRELATED) and is_correlated(_decoded(section))


def kept_metadata(keys: Iterable[str]) -> Callable[[dict[str, Any]], bool]:
    """Return the test whether a full queue keeps a message with some metadata.

    It keeps messages of exchanges, and messages that have one of the ``keys``.
    """
    wanted = frozenset(keys)
    if not wanted:
        return is_correlated
    return lambda metadata: is_correlated(metadata) or not wanted.isdisjoint(metadata)


def kept_section(keys: Iterable[str]) -> Callable[[bytes], bool]:
    """Return the same test as `kept_metadata` for a metadata section.

    >>> from dora.wire.metadata import encode_metadata
    >>> is_kept = kept_section(["stop"])
    >>> [is_kept(encode_metadata(metadata)) for metadata in ({"stop": 1}, {"a": "stop"}, {"goal_id": ""})]
    [True, False, True]
    """
    wanted = frozenset(keys)
    if not wanted:
        return section_is_correlated
    words = [key.encode() for key in wanted]

    def is_kept(section: bytes) -> bool:
        for word in words:  # most messages have none
            if word in section:
                return is_kept_metadata(_decoded(section))
        return section_is_correlated(section)

    is_kept_metadata = kept_metadata(wanted)
    return is_kept


def kept_message(keys: Iterable[str]) -> Callable[[Message], bool]:
    """Return the same test as `kept_metadata` for a received message."""
    if not keys:
        return carries_correlation
    is_kept = kept_section(keys)
    return lambda message: is_kept(message.metadata)


def control_sections(keys: Iterable[str]) -> Callable[[bytes], bytes]:
    """Return `control_section` for an output with links that keep messages with some keys."""
    words = [key.encode() for key in keys]
    if not words:
        return control_section
    return lambda section: section if any(word in section for word in words) else control_section(section)


def control_section(section: bytes) -> bytes:
    """Return a metadata section if it may have control keys, else b""."""
    if _REQUEST_MARK in section or _GOAL_MARK in section or FLUSH_MARK in section:
        return section
    return b""


def asks_to_flush(section: bytes) -> bool:
    """Return whether a metadata section has ``flush: true``.

    >>> from dora.wire.metadata import encode_metadata
    >>> [asks_to_flush(encode_metadata({"flush": value})) for value in (True, False)]
    [True, False]
    """
    return FLUSH_MARK in section and _decoded(section).get(FLUSH) is True


def _decoded(section: bytes) -> dict[str, Any]:
    try:
        return decode_metadata(section)
    except MetadataError:  # reading the event raises it
        return {}
