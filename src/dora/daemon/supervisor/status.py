"""Status messages between the supervisors of one dataflow that runs on several machines."""

from __future__ import annotations

from collections.abc import Callable
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
    sent: dict[str, int] = {}  # output → messages, of a node with closed outputs
    reopen_count: int = 0  # how often its outputs opened again
    announced_failures: int = 0  # how many failures its consumers were informed of
    announcement: str = ""  # the latest of these failures
    failure: NodeFailure | None = None  # of a node that has ended


class PeerStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Status of all nodes of one machine. It is complete, so only the latest one counts."""

    nodes: dict[str, NodeStatus]
    revision: int = 0  # of the dataflow
    opened: bool = False  # the start barrier
    stopping: bool = False
    killing: bool = False


class Peers:
    """The supervisors of the other machines; they get the status of this one when it changes."""

    def __init__(self, send: Callable[[PeerStatus], None]) -> None:
        self._send = send
        self._last: PeerStatus | None = None

    def send_changes(self, status: PeerStatus, sent: Callable[[str], dict[str, int]]) -> None:
        """Send a status unless it is the last one. ``sent`` returns how much a node has sent."""
        if status == self._last:
            return
        self._last = status
        nodes = {
            node_id: msgspec.structs.replace(item, sent=sent(node_id)) if item.outputs_closed else item
            for node_id, item in status.nodes.items()
        }
        self._send(msgspec.structs.replace(status, nodes=nodes))
