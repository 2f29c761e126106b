"""Status messages between the supervisors of one dataflow that runs on several machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from dora.daemon.supervisor.result import NodeFailure

Phase = Literal[
    "dormant",  # no process of ours: before the start, or a dynamic node that has not joined
    "starting",  # the process was requested; its ports are not ready
    "ready",  # waits at the start barrier
    "running",  # was sent `Started`
    "backoff",  # ended, and will be restarted
    "awaiting fix",  # failed, and is restarted when its code changes (hot reload)
    "ended",  # for good
]


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Status of one node. The counters only grow, so a peer notices a change that it missed."""

    phase: Phase
    outputs_closed: tuple[str, ...] = ()
    sent: dict[str, int] = {}  # output → messages, of a node with closed outputs or failed processes
    reopen_count: int = 0  # how often its outputs opened again
    announced_failures: int = 0  # how many failures its consumers were informed of
    announcement: str = ""  # the latest of these failures
    failed_processes: int = 0  # how many failed and were, or will be, followed by another one
    restarts: int = 0
    failure: NodeFailure | None = None  # of a node that has ended


class PeerStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Status of all nodes of one machine. It is complete, so only the latest one counts."""

    nodes: dict[str, NodeStatus]
    revision: int = 0  # of the dataflow
    opened: bool = False  # the start barrier
    stopping: bool = False
    killing: bool = False


class FormerPart(msgspec.Struct, frozen=True):
    """The part of a lost machine, as the others know it. The machine starts its part again with this.

    ``status`` tells how its nodes were. ``sent``: "node/output" → the number of the last message that has
    arrived elsewhere. ``taken``: "node/input" → the number of the last message from elsewhere that the
    input has received or lost.
    """

    status: PeerStatus
    sent: dict[str, int] = {}
    taken: dict[str, int] = {}


def joined_parts(parts: Iterable[FormerPart]) -> FormerPart:
    """Return what several machines know together; the status of a node is the latest one."""
    nodes: dict[str, NodeStatus] = {}
    sent: dict[str, int] = {}
    taken: dict[str, int] = {}
    revision = 0
    for part in parts:
        revision = max(revision, part.status.revision)
        for node_id, status in part.status.nodes.items():
            known = nodes.get(node_id)
            if known is None or (status.restarts, status.reopen_count) > (
                known.restarts,
                known.reopen_count,
            ):
                nodes[node_id] = status
        for name, number in part.sent.items():
            sent[name] = max(number, sent.get(name, 0))
        taken.update(part.taken)
    return FormerPart(PeerStatus(nodes, revision), sent, taken)


class Peers:
    """The supervisors of the other machines; they get the status of this one when it changes."""

    def __init__(self, send: Callable[[PeerStatus], None]) -> None:
        self._send = send
        self._last: PeerStatus | None = None

    def send_changes(self, status: PeerStatus, sent: Callable[[str], dict[str, int]]) -> None:
        """Send a status unless it is the last one. ``sent`` returns how much a node has sent."""
        if status == self._last:  # without `sent`, which changes with each message
            return
        self._last = status
        nodes = {
            node_id: msgspec.structs.replace(item, sent=sent(node_id))
            if item.outputs_closed or item.failed_processes
            else item
            for node_id, item in status.nodes.items()
        }
        self._send(msgspec.structs.replace(status, nodes=nodes))
