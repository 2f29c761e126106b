"""What crosses a link between machines besides messages, and what both of its ends need."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import zenoh

LOOK_EVERY: Final = 0.2  # seconds
CHANNEL_LENGTH: Final = 256  # messages between the network and the thread that takes them
THREAD_PATIENCE: Final = 2.0  # seconds

# Lane, number, sequence, marks, which part this is, of how many, then a report about a lane the other way.
LABEL: Final = Struct("<QQQBHHQQQ")
Report = tuple[int, int, int]  # lane, arrived, taken
NOTHING_NEW: Final[Report] = (0, 0, 0)
FLUSHES: Final = 1  # a mark: what waits before this message is to be forgotten
ASKS: Final = 2  # a mark: the receiver is to tell its progress
# Lane, its last number, the sequence of that, messages sent on the output, the receiver (0: any).
PROBE: Final = Struct("<QQQQQ")
QUESTION: Final = Struct("<Q")  # any number, on the quick way
# Count, receiver, lane, arrived, taken, the last question that was heard, state, missing.
PROGRESS: Final = Struct("<QQQQQQBB")

BLOCK: Final = (
    zenoh.CongestionControl.BLOCK
)  # for what has to arrive, see `dora.transport.network.sessions`
DROP: Final = zenoh.CongestionControl.DROP


def nonce() -> int:
    """Return a number that nothing else has, and that is not 0."""
    return int.from_bytes(os.urandom(8), "little") or 1


def link_name(consumer: str, generation: int) -> str:
    """Return how a link is called on the network; ``generation`` as in `dora.wire.node_config.InputConfig`.

    >>> link_name("plot/image", 0), link_name("plot/image", 3)
    ('plot/image', 'plot/image~3')
    """
    return f"{consumer}~{generation}" if generation else consumer


def start_thread(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Start a thread that does not keep the interpreter from ending."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


def close_session(session: zenoh.Session) -> None:
    """Close a session that may be closed already."""
    if session.is_closed():
        return
    try:
        session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
    except zenoh.ZError:
        pass  # the router does not answer: there is nobody to say goodbye to
