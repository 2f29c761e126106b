"""Result of a run: which nodes failed and why, and how many messages every link carried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from dora.dataflow.model import asks_for_drops

FailureKind = Literal[
    "exit",  # ended by itself with a non-zero status or by a signal
    "spawn",  # could not be started
    "grace",  # had to be killed after the stop's grace period
    "startup_timeout",
    "health_check",
    "machine",  # its machine was lost
    "cascading",  # because another node failed (broken start barrier)
]


class NodeFailure(msgspec.Struct, frozen=True):
    """Failure of a node, for the result and the user."""

    node_id: str
    kind: FailureKind
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""  # one sentence for the user
    last_lines: tuple[str, ...] = ()  # of stderr (or stdout), those that explain it
    remedy: str = ""  # what to do about it, see `dora.daemon.remedies`; "": nothing is known
    restarts: int = 0
    follows: str = ""  # its root cause: the node that failed first and feeds this one; "": itself


class LinkReport(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Counts of one link, from the board, at the end of the run.

    ``sent`` counts from the moment the link was connected, so ``sent == received + dropped +
    expired + thinned + unread``.
    """

    link: str  # "a/out -> b/in"
    policy: str
    queue_size: int
    sent: int = 0
    received: int = 0
    dropped: int = 0  # lost by the queue policy, or by a restart of the receiver
    unread: int = 0  # still queued when the receiver ended
    unsent: int = 0  # not sent, because a queue was full and the sender was asked to stop
    restart_loss: int = 0  # those of `dropped` that were lost because the receiver was being restarted
    unmatched: int = 0  # those of `received` that were in no set of a `sync` group
    safe_states: int = 0  # how often the receiver has begun the safe state of the output
    expired: int = 0  # older than the input's `max_age`
    thinned: int = 0  # left out for the input's `rate`
    missed: int = 0  # how often the input's `deadline` has passed without a message

    @property
    def overflowed(self) -> int:
        """How many messages were dropped while the receiver ran."""
        return self.dropped - self.restart_loss

    @property
    def mostly_lost(self) -> bool:
        """Whether most messages were dropped, and nobody asked for it."""
        return not asks_for_drops(self.policy, self.queue_size) and 2 * self.overflowed > self.sent


def joined(links: Iterable[LinkReport]) -> tuple[LinkReport, ...]:
    """Merge the reports of the machines of a sender and of a receiver about the same link.

    >>> joined([LinkReport("a/out -> b/in", "", 1, unsent=2), LinkReport("a/out -> b/in", "", 1, 5, 5)])
    (LinkReport(link='a/out -> b/in', policy='', queue_size=1, sent=5, received=5, unsent=2),)
    """
    counts = [name for name in LinkReport.__struct_fields__ if name not in ("link", "policy", "queue_size")]
    reports: dict[str, LinkReport] = {}
    for link in links:
        other = reports.get(link.link)
        if other is not None:
            sums = {name: getattr(link, name) + getattr(other, name) for name in counts}
            link = msgspec.structs.replace(other, **sums)
        reports[link.link] = link
    return tuple(reports.values())


class DataflowResult(msgspec.Struct, frozen=True):
    """Result of a run."""

    dataflow_id: str
    failures: tuple[NodeFailure, ...] = ()  # the root cause first
    links: tuple[LinkReport, ...] = ()
    undeclared: dict[str, dict[str, int]] = {}  # node id → output id → messages dropped
    unlogged: dict[str, int] = {}  # node id → log entries that could not be written to its file
    stopped: bool = False  # by a user or a program, before it ended by itself
    overdue: tuple[str, ...] = ()  # nodes that did not end within the grace duration, but at SIGTERM
    machine_losses: dict[str, int] = {}  # machine → how often it was lost, with the counts of its nodes
    strict: bool = False  # trouble is a failure

    @property
    def troubled(self) -> bool:
        """Whether something went wrong although no node failed, see `dora.daemon.report.troubles`."""
        return bool(self.undeclared or self.overdue) or any(link.mostly_lost for link in self.links)

    @property
    def ok(self) -> bool:
        """Whether no node failed, and with ``strict`` nothing went wrong either."""
        return not (self.failures or (self.strict and self.troubled))
