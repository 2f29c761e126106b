"""How a dataflow ended: which nodes failed and why, and what every link carried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

FailureKind = Literal[
    "exit",  # ended by itself with a non-zero status or by a signal
    "spawn",  # could not be started
    "grace",  # had to be killed after the stop's grace period
    "startup_timeout",
    "health_check",
    "machine",  # its machine was lost
    "cascading",  # fell because another node fell (broken start barrier)
]


class NodeFailure(msgspec.Struct, frozen=True):
    node_id: str
    kind: FailureKind
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""  # one sentence for the user
    last_lines: tuple[str, ...] = ()  # of stderr (or stdout), the telling part
    restarts: int = 0
    follows: str = ""  # the node whose failure came first and that feeds this one; "": another cause


class LinkReport(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Read off the board at the end. ``sent`` counts from the moment the link was connected, so
    ``sent == received + dropped + unread``."""

    link: str  # "a/out -> b/in"
    policy: str
    queue_size: int
    sent: int = 0
    received: int = 0
    dropped: int = 0  # lost by the queue policy
    unread: int = 0  # still queued when the receiver ended
    unsent: int = 0  # not sent, because a queue was full and the sender was asked to stop


def joined(links: Iterable[LinkReport]) -> tuple[LinkReport, ...]:
    """Join what the machines of a sender and of a receiver report about the same link.

    >>> joined([LinkReport("a/out -> b/in", "", 1, unsent=2), LinkReport("a/out -> b/in", "", 1, 5, 5)])
    (LinkReport(link='a/out -> b/in', policy='', queue_size=1, sent=5, received=5, unsent=2),)
    """
    counts = ("sent", "received", "dropped", "unread", "unsent")
    reports: dict[str, LinkReport] = {}
    for link in links:
        other = reports.get(link.link)
        if other is not None:
            sums = {name: getattr(link, name) + getattr(other, name) for name in counts}
            link = msgspec.structs.replace(other, **sums)
        reports[link.link] = link
    return tuple(reports.values())


class DataflowResult(msgspec.Struct, frozen=True):
    dataflow_id: str
    failures: tuple[NodeFailure, ...] = ()  # the first cause first
    links: tuple[LinkReport, ...] = ()
    undeclared: dict[str, dict[str, int]] = {}  # node id → output id → messages dropped
    unlogged: dict[str, int] = {}  # node id → log entries that could not be written to its file
    stopped: bool = False  # somebody ended it, before it ended by itself

    @property
    def ok(self) -> bool:
        return not self.failures
