"""Wire format of the links between machines, and what both of their ends need."""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct
from typing import Final

import zenoh

from dora.wire.correlation import asks_to_flush

TICK: Final = 0.2  # seconds between the periodic checks of a link
CHANNEL_LENGTH: Final = 256  # messages between the network and the thread that receives them

# Attached to every fragment of a message: send window, number in this window, sequence number on the
# output, flags, index of the fragment, number of fragments. Then an acknowledgement for a send window of
# the opposite direction (`PiggybackAck`).
DATA_HEADER: Final = Struct("<QQQBHHQQQ")
PiggybackAck = tuple[int, int, int]
"""Send window, number of the last message that arrived, sequence number of the last one taken."""
NO_ACK: Final[PiggybackAck] = (0, 0, 0)
FLUSH_FLAG: Final = 1  # the receiver discards the messages that are queued before this one
ACK_FLAG: Final = 2  # the receiver acknowledges at once
KEEP_FLAG: Final = 4  # a full queue does not drop the message
LATCHED_FLAG: Final = 8  # nor this one: it is of the latch, and comes even to the next process of a node
# Send window, its last number, the sequence number of that message, messages sent on the output, the
# receiver (0: any).
PROBE: Final = Struct("<QQQQQ")
PING: Final = Struct("<Q")  # a random number, sent on the fast path
# Count, receiver, send window, number of the last message that arrived, sequence number of the last one
# taken, the last ping that arrived, state, whether messages are missing.
ACK: Final = Struct("<QQQQQQBB")

BLOCK: Final = zenoh.CongestionControl.BLOCK  # see `dora.transport.network.sessions`
DROP: Final = zenoh.CongestionControl.DROP


def flags_of(control: bytes, is_kept: Callable[[bytes], bool]) -> int:
    """Return the flags that a metadata section asks for; ``is_kept`` is the test of the link.

    >>> from dora.wire.correlation import section_is_correlated
    >>> from dora.wire.metadata import encode_metadata
    >>> sections = [encode_metadata(metadata) for metadata in ({}, {"flush": True}, {"goal_id": "g"})]
    >>> [flags_of(section, section_is_correlated) for section in sections]
    [0, 1, 4]
    """
    flush = FLUSH_FLAG if asks_to_flush(control) else 0
    return flush | KEEP_FLAG if is_kept(control) else flush


def nonce() -> int:
    """Return a random number other than 0 that nothing else uses."""
    return int.from_bytes(os.urandom(8), "little") or 1


def link_name(consumer: str, generation: int) -> str:
    """Return the name of a link on the network; ``generation`` as in `dora.wire.node_config.InputConfig`.

    >>> link_name("plot/image", 0), link_name("plot/image", 3)
    ('plot/image', 'plot/image~3')
    """
    return f"{consumer}~{generation}" if generation else consumer


def close_session(session: zenoh.Session) -> None:
    """Close a session, unless it is closed already."""
    if session.is_closed():
        return
    try:
        session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
    except zenoh.ZError:
        pass  # the other side does not answer
