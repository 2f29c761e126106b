"""Result of a run: which nodes failed and why, and how many messages every link carried."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from dora.dataflow.model import asks_for_drops
from dora.wire.counters import FLUSHED, RESTART_LOSS, LinkCounter
from dora.wire.excerpt import error_line

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

    @property
    def how(self) -> str:
        """How the node ended, as half a sentence without its name."""
        if self.message:
            return self.message
        if self.exit_code is None and self.signal is None:
            return f"failed ({self.kind})"
        return describe_exit(self.exit_code, self.signal)

    def why(self, folder: str = "") -> str:
        """Return how the node ended, and the error that it has printed.

        Paths below ``folder`` are shortened.

        >>> NodeFailure("a", "exit", exit_code=1, last_lines=("ValueError: no",)).why()
        'exited with status 1: ValueError: no'
        """
        error = error_line(self.last_lines) if self.exit_code else ""
        if folder:
            error = error.replace(f"{folder}/", "")
        return f"{self.how}: {error}" if error else self.how


def describe_exit(exit_code: int | None, signal_number: int | None) -> str:
    """Return in words how a process ended.

    >>> describe_exit(3, None), describe_exit(None, 9)
    ('exited with status 3', 'was killed by SIGKILL')
    >>> describe_exit(None, None)  # of a forked process whose template was killed, on Linux before 6.15
    'ended with an unknown status'
    """
    if exit_code is None and signal_number is None:
        return "ended with an unknown status"
    if signal_number is None:
        return f"exited with status {exit_code}"
    try:
        name = signal.Signals(signal_number).name
    except ValueError:
        name = f"signal {signal_number}"
    return f"was killed by {name}"


class LinkReport(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Counts of one link, from the board, at the end of the run.

    ``sent`` counts from the moment the link was connected, so ``sent == received + dropped +
    expired + thinned + unread``. ``counts`` are the `LINK_COUNTERS` that are not 0, by name.
    """

    link: str  # "a/out -> b/in"
    policy: str
    queue_size: int
    sent: int = 0
    received: int = 0
    dropped: int = 0  # lost by the queue policy, by a restart of the receiver, or flushed
    unread: int = 0  # still queued when the receiver ended
    counts: dict[str, int] = {}

    @property
    def sender(self) -> str:
        """The node that sends."""
        return self.link.partition("/")[0]

    @property
    def input(self) -> str:
        """The input, as ``"node/input"``."""
        return self.link.rpartition(" -> ")[2]

    @property
    def receiver(self) -> str:
        """The node that receives."""
        return self.input.partition("/")[0]

    def count(self, counter: LinkCounter) -> int:
        return self.counts.get(counter.name, 0)

    @property
    def overflowed(self) -> int:
        """How many messages a full queue has dropped while the receiver ran."""
        return max(self.dropped - self.count(RESTART_LOSS) - self.count(FLUSHED), 0)

    @property
    def mostly_lost(self) -> bool:
        """Whether most messages were dropped, and nobody asked for it."""
        return not asks_for_drops(self.policy, self.queue_size) and 2 * self.overflowed > self.sent


class NetworkReport(msgspec.Struct, frozen=True):
    """The network from one machine to another, at the end of the run."""

    source: str
    target: str
    figures: dict[str, int] = {}  # the `NETWORK_FIGURES` that are not 0, by name
    # "node/output" → the `STREAM_FIGURES` that are not 0, by name
    streams: dict[str, dict[str, int]] = {}


def joined(links: Iterable[LinkReport]) -> tuple[LinkReport, ...]:
    """Merge the reports of the machines of a sender and of a receiver about the same link.

    >>> of_sender = LinkReport("a/x -> b/y", "", 1, counts={"unsent": 2})
    >>> joined([of_sender, LinkReport("a/x -> b/y", "", 1, 5, 5)])
    (LinkReport(link='a/x -> b/y', policy='', queue_size=1, sent=5, received=5, counts={'unsent': 2}),)
    """
    reports: dict[str, LinkReport] = {}
    for link in links:
        if (other := reports.get(link.link)) is not None:
            link = msgspec.structs.replace(
                other,
                sent=other.sent + link.sent,
                received=other.received + link.received,
                dropped=other.dropped + link.dropped,
                unread=other.unread + link.unread,
                counts=dict(Counter(other.counts) + Counter(link.counts)),
            )
        reports[link.link] = link
    return tuple(reports.values())


class DataflowResult(msgspec.Struct, frozen=True):
    """Result of a run."""

    dataflow_id: str
    failures: tuple[NodeFailure, ...] = ()  # the root cause first
    links: tuple[LinkReport, ...] = ()
    undeclared: dict[str, dict[str, int]] = {}  # node id → output id → messages dropped
    node_counts: dict[str, dict[str, int]] = {}  # node id → the `NODE_COUNTERS` that are not 0, by name
    uncounted_links: int = 0  # removed while it ran; there were too many to keep their counts
    unlogged: dict[str, int] = {}  # node id → log entries that could not be written to its file
    stopped: bool = False  # by a user or a program, before it ended by itself
    overdue: tuple[str, ...] = ()  # nodes that did not end within the grace duration, but at SIGTERM
    machine_losses: dict[str, int] = {}  # machine → how often it was lost, with the counts of its nodes
    strict: bool = False  # trouble is a failure
    networks: tuple[NetworkReport, ...] = ()  # between the machines
    black_box: tuple[str, ...] = ()  # its files

    @property
    def troubled(self) -> bool:
        """Whether something went wrong although no node failed, see `dora.daemon.report.troubles`."""
        return bool(self.undeclared or self.overdue) or any(link.mostly_lost for link in self.links)

    @property
    def ok(self) -> bool:
        """Whether no node failed, and with ``strict`` nothing went wrong either."""
        return not (self.failures or (self.strict and self.troubled))
